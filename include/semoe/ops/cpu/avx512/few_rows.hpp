#pragma once

#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/few.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// Few tokens, in groups of eight, by whole panels of codes, decoded in registers. Sums of bytes
/// are exact, so their order is free, and lanes may run along the depth.
template <class Format>
class FewRows {
public:
    FewRows(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with those tokens, among all as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for_few_tokens(w_, panel, x_, results, [&](auto tokens, int s, index_t g, float* to) {
            tile<decltype(tokens)::value>(w_.panel_codes(s, panel), w_.group_scales(s, panel),
                                          x_.few_group(g), fetch, to);
        });
    }

private:
    static constexpr int lines = Decode<Format>::lines;

    template <index_t Tokens>
    SEMOE_AVX512 SEMOE_NOINLINE void tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                          char const* tokens, Fetch& shared_fetch,
                                          float* results) const {
        // So many rows at a time as make sixteen sums, if there are registers for them, too.
        constexpr index_t height = min(16 / Tokens, index_t(8));
        constexpr std::make_integer_sequence<index_t, height> rows;
        constexpr std::make_integer_sequence<index_t, Tokens> columns;
        index_t const chunks = Format::chunks(w_.depth);
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(max(index_t(1), height / few_groups(x_.few))) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m512i sums[height][Tokens] = {};
            std::uint8_t const *code = codes + r * line_bytes, *scale = scales + r * 4;
            char const* token = tokens;
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
            _mm512_store_si512(totals, totals_of(sums, std::make_integer_sequence<index_t, 8>{}));
            for (index_t i = 0; i < height; ++i)
                std::memcpy(results + (r + i) * 16, totals + i * Tokens, std::size_t(Tokens) * 4);
        }
        shared_fetch = fetch;
    }
    /// Line I of the rows by that of every token, which is loaded once for them all.
    template <int I, index_t... R, index_t... T>
    SEMOE_AVX512 SEMOE_INLINE static void
    line(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
         __m512i (&sums)[sizeof...(R)][sizeof...(T)], std::integer_sequence<index_t, R...> rows,
         std::integer_sequence<index_t, T...>) {
        __m512i const w[] = {weights<I>(codes + R * line_bytes, scales + R * 4)...};
        (token<T>(w, _mm512_load_si512(tokens + T * line_bytes), sums, rows), ...);
    }
    template <index_t T, index_t Tokens, index_t... R>
    SEMOE_AVX512 SEMOE_INLINE static void token(__m512i const (&weights)[sizeof...(R)],
                                                __m512i line, __m512i (&sums)[sizeof...(R)][Tokens],
                                                std::integer_sequence<index_t, R...>) {
        (add(weights[R], line, sums[R][T]), ...);
    }
    template <int I>
    SEMOE_AVX512 SEMOE_INLINE static __m512i weights(std::uint8_t const* codes,
                                                     std::uint8_t const* scales) {
        if constexpr (lines == 1)
            return _mm512_loadu_si512(codes);
        else
            return detail::decoded<Format, I>(codes, scales);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i weights, __m512i token, __m512i& sum) {
        // Written out, so that one target serves all kernels.
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(weights), "v"(token));
    }
    /// A total of every sum. No loop, whose index would keep sums in memory.
    template <index_t Rows, index_t Tokens, index_t... I>
    SEMOE_AVX512 SEMOE_INLINE static __m512i totals_of(__m512i const (&sums)[Rows][Tokens],
                                                       std::integer_sequence<index_t, I...>) {
        __m512i const x[] = {add_words(nth<2 * I>(sums), nth<2 * I + 1>(sums))...};
        return add_quarters(add_quarters(add_pairs(x[0], x[1]), add_pairs(x[2], x[3])),
                            add_quarters(add_pairs(x[4], x[5]), add_pairs(x[6], x[7])));
    }
    /// Sum N of them; those of eight come round again.
    template <index_t N, index_t Rows, index_t Tokens>
    SEMOE_AVX512 SEMOE_INLINE static __m512i nth(__m512i const (&sums)[Rows][Tokens]) {
        return sums[N / Tokens % Rows][N % Tokens];
    }
    SEMOE_AVX512 SEMOE_INLINE static __m512i add_words(__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(0xffff, a, b),
                                _mm512_maskz_unpackhi_epi32(0xffff, a, b));
    }
    SEMOE_AVX512 SEMOE_INLINE static __m512i add_pairs(__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, a, b),
                                _mm512_maskz_unpackhi_epi64(0xff, a, b));
    }
    SEMOE_AVX512 SEMOE_INLINE static __m512i add_quarters(__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_maskz_shuffle_i32x4(0xffff, a, b, 0x88),
                                _mm512_maskz_shuffle_i32x4(0xffff, a, b, 0xdd));
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx512
#endif
