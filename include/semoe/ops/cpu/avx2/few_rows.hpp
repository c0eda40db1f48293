#pragma once

#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// Few tokens, in groups of eight, by whole panels of codes, decoded in registers. Sums of bytes
/// are exact, so their order is free, and lanes may run along the depth.
template <class Format>
class FewRows {
public:
    FewRows(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with the tokens, as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for (index_t g = 0; g < few_groups(x_.few); ++g)
            for (int s = 0; s < 2 && w_.panel_rows(s, panel) > 0; ++s) {
                auto const* codes = w_.panel_codes(s, panel);
                auto const* scales = w_.group_scales(s, panel);
                float* const to = results + (g / 2 * 2 + s) * tile_floats + g % 2 * 8;
                switch (lines_of_group(x_.few, g)) {
                case 1:
                    tile<1>(codes, scales, g, fetch, to);
                    break;
                case 2:
                    tile<2>(codes, scales, g, fetch, to);
                    break;
                case 4:
                    tile<4>(codes, scales, g, fetch, to);
                    break;
                default:
                    tile<8>(codes, scales, g, fetch, to);
                }
            }
    }

private:
    static constexpr int lines = Decode<Format>::lines;

    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_NOINLINE void tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                        index_t group, Fetch& shared_fetch, float* results) const {
        // So many rows at a time as make four or eight sums.
        constexpr index_t height = Tokens == 1 ? 4 : Tokens == 8 ? 1 : 2;
        constexpr std::make_integer_sequence<index_t, height> rows;
        index_t const chunks = Format::chunks(w_.depth);
        std::int32_t const* const offsets = x_.offsets + x_.first_few + group * 8;
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(height) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m256i sums[height][Tokens] = {};
            std::uint8_t const *code = codes + r * line_bytes, *scale = scales + r * 4;
            char const* tokens = x_.few_group(group);
            for (index_t c = chunks; c > 0; --c) {
                fetch.some(fetched);
                chunk<Tokens>(code, scale, tokens, sums, rows);
                code += tile_bytes;
                scale += line_bytes;
                tokens += lines * Tokens * line_bytes;
            }
            std::int32_t totals[height * Tokens];
            store_totals(sums, totals, std::make_integer_sequence<index_t, height * Tokens / 4>{});
            for (index_t i = 0; i < height * Tokens; ++i) totals[i] += offsets[i % Tokens];
            for (index_t i = 0; i < height; ++i)
                std::memcpy(results + (r + i) * 16, totals + i * Tokens, std::size_t(Tokens) * 4);
        }
        shared_fetch = fetch;
    }
    template <index_t Tokens, index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void
    chunk(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
          __m256i (&sums)[sizeof...(R)][Tokens], std::integer_sequence<index_t, R...>) {
        (line(codes + R * line_bytes, scales + R * 4, tokens, sums[R]), ...);
    }
    /// A line of codes, in halves.
    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static void line(std::uint8_t const* codes, std::uint8_t const* scales,
                                             char const* tokens, __m256i (&sums)[Tokens]) {
        constexpr std::make_integer_sequence<index_t, Tokens> all;
        __m256i const first = load_half(codes), second = load_half(codes + 32);
        if constexpr (lines == 1) {
            add(first, tokens, sums, all);
            add(second, tokens + 32, sums, all);
        } else {
            add(detail::decoded<Format, 0>(first, scales[0]), tokens, sums, all);
            add(detail::decoded<Format, 0>(second, scales[1]), tokens + 32, sums, all);
            tokens += Tokens * line_bytes;
            add(detail::decoded<Format, 1>(first, scales[2]), tokens, sums, all);
            add(detail::decoded<Format, 1>(second, scales[3]), tokens + 32, sums, all);
        }
    }
    /// As weights without their 128, of which pairs of products fit 16 bits.
    template <index_t... T>
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, char const* tokens,
                                            __m256i (&sums)[sizeof...(T)],
                                            std::integer_sequence<index_t, T...>) {
        __m256i const w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        __m256i const size = _mm256_abs_epi8(w);
        (add(w, size, load_half(tokens + T * line_bytes), sums[T]), ...);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, __m256i size, __m256i token,
                                            __m256i& sum) {
        // Written out, or the compiler keeps sums in memory.
        __asm__("{vpsignb %2, %1, %1|vpsignb %1, %1, %2}\n\t"
                "vpmaddubsw %1, %3, %1\n\t"
                "{vpmaddwd %4, %1, %1|vpmaddwd %1, %1, %4}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+x"(sum), "+&x"(token)
                : "x"(weights), "x"(size), "xm"(_mm256_set1_epi16(1)));
    }
    /// A total of every sum. No loop, whose index would keep sums in memory.
    template <index_t Rows, index_t Tokens, index_t... Quads>
    SEMOE_AVX2 SEMOE_INLINE static void store_totals(__m256i const (&sums)[Rows][Tokens],
                                                     std::int32_t* to,
                                                     std::integer_sequence<index_t, Quads...>) {
        (_mm_storeu_si128(reinterpret_cast<__m128i*>(to + Quads * 4),
                          totals(nth<4 * Quads>(sums), nth<4 * Quads + 1>(sums),
                                 nth<4 * Quads + 2>(sums), nth<4 * Quads + 3>(sums))),
         ...);
    }
    template <index_t N, index_t Rows, index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static __m256i nth(__m256i const (&sums)[Rows][Tokens]) {
        return sums[N / Tokens][N % Tokens];
    }
    SEMOE_AVX2 SEMOE_INLINE static __m128i totals(__m256i a, __m256i b, __m256i c, __m256i d) {
        __m256i const halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx2
#endif
