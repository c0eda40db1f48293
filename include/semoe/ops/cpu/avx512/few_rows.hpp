#pragma once

#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/avx512/totals.hpp"
#include "semoe/ops/cpu/quantized/few.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// Products of a line of unsigned bytes by the processor's dot product.
struct DotLine {
    static constexpr bool is_signed = false;
    static constexpr index_t most_rows = 8;
    __m512i bytes;

    SEMOE_AVX512 SEMOE_INLINE explicit DotLine(__m512i line)
      : bytes(line) {}
    SEMOE_AVX512 SEMOE_INLINE void add(__m512i token, __m512i& sum) const {
        // Written out, so that one target serves all kernels.
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(bytes), "v"(token));
    }
};
/// Without one: as weights without their 128, whose signs tokens take, so that pairs of products
/// fit 16 bits.
struct SignedLine {
    static constexpr bool is_signed = true;
    static constexpr index_t most_rows = 4; ///< whose masks have registers
    __m512i magnitudes;
    __mmask64 negative;

    SEMOE_AVX512 SEMOE_INLINE explicit SignedLine(__m512i line) {
        __m512i const w = _mm512_xor_si512(line, _mm512_set1_epi8(-128));
        magnitudes = _mm512_maskz_abs_epi8(~__mmask64(0), w);
        negative = _mm512_movepi8_mask(w);
    }
    SEMOE_AVX512 SEMOE_INLINE void add(__m512i token, __m512i& sum) const {
        // Written out, or the compiler keeps sums in memory.
        __asm__("{vpsubb %1, %4, %1%{%3%}|vpsubb %1%{%3%}, %4, %1}\n\t"
                "vpmaddubsw %1, %2, %1\n\t"
                "{vpmaddwd %5, %1, %1|vpmaddwd %1, %1, %5}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+v"(sum), "+&v"(token)
                : "v"(magnitudes), "Yk"(negative), "v"(_mm512_setzero_si512()),
                  "v"(_mm512_set1_epi16(1)));
    }
};

/// Few tokens, in groups of eight, by whole panels of codes, decoded in registers. Sums of bytes
/// are exact, so their order is free, and lanes may run along the depth.
/// @tparam Line  of weights, decoded: DotLine or SignedLine
template <class Format, class Line>
class FewRows {
public:
    FewRows(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with those tokens, among all as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for_few_tokens(w_, panel, x_, results, [&](auto tokens, int s, index_t g, float* to) {
            tile<decltype(tokens)::value>(w_.panel_codes(s, panel), w_.group_scales(s, panel), g,
                                          fetch, to);
        });
    }

private:
    static constexpr int lines = Decode<Format>::lines;

    template <index_t Tokens>
    SEMOE_AVX512 SEMOE_NOINLINE void tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                          index_t group, Fetch& shared_fetch,
                                          float* results) const {
        // So many rows at a time as make sixteen sums, if there are registers for them, too.
        constexpr index_t height = min(16 / Tokens, Line::most_rows);
        constexpr std::make_integer_sequence<index_t, height> rows;
        constexpr std::make_integer_sequence<index_t, Tokens> columns;
        index_t const chunks = Format::chunks(w_.depth);
        [[maybe_unused]] std::int32_t const* const offsets = x_.offsets + x_.first_few + group * 8;
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(max(index_t(1), height / few_groups(x_.few))) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m512i sums[height][Tokens] = {};
            std::uint8_t const *code = codes + r * line_bytes, *scale = scales + r * 4;
            char const* token = x_.few_group(group);
            for (index_t c = chunks; c > 0; --c) {
                fetch.some(fetched);
                line<0>(code, scale, token, sums, rows, columns);
                if constexpr (lines == 2)
                    line<1>(code, scale, token + Tokens * line_bytes, sums, rows, columns);
                code += tile_bytes;
                scale += line_bytes;
                token += lines * Tokens * line_bytes;
            }
            alignas(64) std::int32_t totals[16];
            _mm512_store_si512(totals, totals_of(sums));
            if constexpr (Line::is_signed)
                for (index_t i = 0; i < height * Tokens; ++i) totals[i] += offsets[i % Tokens];
            store_few<Tokens>(totals, height, results + r * 16);
        }
        shared_fetch = fetch;
    }
    /// Line I of the rows by that of every token, which is loaded once for them all.
    template <int I, index_t... R, index_t... T>
    SEMOE_AVX512 SEMOE_INLINE static void
    line(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
         __m512i (&sums)[sizeof...(R)][sizeof...(T)], std::integer_sequence<index_t, R...> rows,
         std::integer_sequence<index_t, T...>) {
        Line const w[] = {Line(weights<I>(codes + R * line_bytes, scales + R * 4))...};
        (token<T>(w, _mm512_load_si512(tokens + T * line_bytes), sums, rows), ...);
    }
    template <index_t T, index_t Tokens, index_t... R>
    SEMOE_AVX512 SEMOE_INLINE static void token(Line const (&weights)[sizeof...(R)], __m512i line,
                                                __m512i (&sums)[sizeof...(R)][Tokens],
                                                std::integer_sequence<index_t, R...>) {
        (weights[R].add(line, sums[R][T]), ...);
    }
    template <int I>
    SEMOE_AVX512 SEMOE_INLINE static __m512i weights(std::uint8_t const* codes,
                                                     std::uint8_t const* scales) {
        __m512i const line = _mm512_loadu_si512(codes);
        if constexpr (lines == 1)
            return line;
        else
            return detail::decoded<Format, I>(line, scales);
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx512
#endif
