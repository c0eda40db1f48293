#pragma once

#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/few.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// Few tokens, in groups of eight, by whole panels of half bytes, as factors, decoded in registers.
/// Lanes run along the depth, a vector for each group of weights.
template <class Format>
class FewFactors {
public:
    FewFactors(QuantizedRows<Format> const& w, TokenTiles const& x)
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
    static constexpr auto& table = cpu::detail::factor_table<Format>;
    static_assert(table.sound);

    /// Vectors of two lanes for each of some tokens.
    static constexpr index_t zeros_of(index_t tokens) { return (tokens + 3) / 4; }

    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_NOINLINE void tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                        index_t group, Fetch& shared_fetch, float* results) const {
        // So many rows at a time as make four or eight sums.
        constexpr index_t height = Tokens == 1 ? 4 : Tokens == 8 ? 1 : 2;
        constexpr std::make_integer_sequence<index_t, height> rows;
        std::int32_t const* const offsets = x_.offsets + x_.first_few + group * 8;
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(height) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m256i sums[height][Tokens] = {}, zeros[height][zeros_of(Tokens)] = {};
            std::uint8_t const *code = codes + r * line_bytes, *scale = scales + r * 4;
            char const *tokens = x_.few_group(group), *group_sums = x_.sums_of_group(group);
            for (index_t c = Format::chunks(w_.depth); c > 0; --c) {
                fetch.some(fetched);
                chunk<Tokens>(code, scale, tokens, group_sums, sums, zeros, rows);
                code += tile_bytes;
                scale += line_bytes;
                tokens += 2 * Tokens * line_bytes;
                group_sums += line_bytes;
            }
            std::uint32_t totals[height * Tokens], zero[height][8 * zeros_of(Tokens)];
            detail::store_totals(sums, totals);
            std::memcpy(zero, zeros, sizeof(zero));
            take_off_zeros<Format, Tokens>(totals, zero, offsets);
            store_few<Tokens>(totals, height, results + r * 16);
        }
        shared_fetch = fetch;
    }
    template <index_t Tokens, index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void
    chunk(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
          char const* group_sums, __m256i (&sums)[sizeof...(R)][Tokens],
          __m256i (&zeros)[sizeof...(R)][zeros_of(Tokens)], std::integer_sequence<index_t, R...>) {
        (line(codes + R * line_bytes, scales + R * 4, tokens, group_sums, sums[R], zeros[R]), ...);
    }
    /// A line of codes, four groups; and their multipliers by the sums of tokens' groups.
    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static void
    line(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
         char const* group_sums, __m256i (&sums)[Tokens], __m256i (&zeros)[zeros_of(Tokens)]) {
        __m256i const by = multipliers(scales);
        half<0>(codes, scales, by, tokens, sums);
        half<1>(codes + 32, scales, by, tokens + 32, sums);
        zeros[0] = add_zeros(zeros[0], by, group_sums);
        if constexpr (Tokens == 8) zeros[1] = add_zeros(zeros[1], by, group_sums + 32);
    }
    SEMOE_AVX2 SEMOE_INLINE static __m256i add_zeros(__m256i zeros, __m256i by,
                                                     char const* group_sums) {
        return _mm256_add_epi32(zeros, _mm256_madd_epi16(by, load_half(group_sums)));
    }
    /// Half a line of codes: a group in lower halves, the next but one in upper ones.
    template <int First, index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static void half(std::uint8_t const* codes, std::uint8_t const* scales,
                                             __m256i by, char const* tokens,
                                             __m256i (&sums)[Tokens]) {
        constexpr std::make_integer_sequence<index_t, Tokens> all;
        __m256i const both = load_half(codes);
        add(detail::factors_of<Format, 0>(both, scales[First]), nth<First>(by), tokens, sums, all);
        add(detail::factors_of<Format, 1>(both, scales[First + 2]), nth<First + 2>(by),
            tokens + Tokens * line_bytes, sums, all);
    }
    /// Those of four groups, in 16 bits each, again and again.
    SEMOE_AVX2 SEMOE_INLINE static __m256i multipliers(std::uint8_t const* scales) {
        int word;
        std::memcpy(&word, scales, sizeof(word));
        __m128i by = _mm_set1_epi32(word);
        if constexpr (!Factors<Format>::scale_is_multiplier)
            by = _mm_shuffle_epi8(
                _mm_load_si128(reinterpret_cast<__m128i const*>(table.short_multiplier)),
                _mm_min_epu8(by, _mm_set1_epi8(15)));
        return _mm256_cvtepu8_epi16(by);
    }
    /// That of one of the groups in all lanes.
    template <int Group>
    SEMOE_AVX2 SEMOE_INLINE static __m256i nth(__m256i by) {
        return _mm256_shuffle_epi8(by, _mm256_set1_epi16(0x100 * (2 * Group + 1) + 2 * Group));
    }
    template <index_t... T>
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i factors, __m256i by, char const* tokens,
                                            __m256i (&sums)[sizeof...(T)],
                                            std::integer_sequence<index_t, T...>) {
        (add(factors, by, tokens + T * line_bytes, sums[T]), ...);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i factors, __m256i by, char const* token,
                                            __m256i& sum) {
        // Written out, or the compiler keeps sums in memory.
        [[maybe_unused]] __m256i product;
        __asm__("{vpmaddubsw %4, %2, %1|vpmaddubsw %1, %2, %4}\n\t"
                "{vpmaddwd %3, %1, %1|vpmaddwd %1, %1, %3}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+x"(sum), "=&x"(product)
                : "x"(factors), "x"(by), "m"(*reinterpret_cast<__m256i const*>(token)));
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx2
#endif
