#pragma once

#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/factor_rows.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// What ops/cpu/quantized/factor_rows.hpp asks of an instruction set.
template <class Format>
struct FactorSums {
    static constexpr index_t height = 4;

    /// Lines of codes to two tiles each.
    SEMOE_AVX2 static void decode(std::uint8_t const* codes, std::uint8_t const* scales, index_t n,
                                  char* tiles) {
        for (; n > 0; --n, tiles += tile_bytes)
            for (index_t r = 0; r < tile_rows; ++r, tiles += line_bytes) {
                for (index_t half = 0; half < 2; ++half, codes += 32) {
                    __m256i const both = load_half(codes);
                    char* const to = tiles + half * 32;
                    store_half(to, detail::factors_of<Format, 0>(both, scales[half]));
                    store_half(to + tile_bytes,
                               detail::factors_of<Format, 1>(both, scales[2 + half]));
                }
                scales += 4;
            }
    }
    /// Adds to the results of some rows from r on.
    template <index_t... R>
    SEMOE_AVX2 SEMOE_NOINLINE static void add(FactorBlock const& block, index_t r, float* results,
                                              std::integer_sequence<index_t, R...> rows) {
        std::uint8_t const* const scales = block.scales + r * 4;
        char const *words = block.words, *sums = block.sums;
        for (index_t g = 0; g < block.groups; ++g) {
            char const* const factors =
                block.factors + g / 2 * tile_bytes + r * line_bytes + g % 2 * 32;
            __m256i low[sizeof...(R)], high[sizeof...(R)];
            ((low[R] = from_zero(sums), high[R] = from_zero(sums + 32)), ...);
            group(factors, words, low, high, rows, std::make_integer_sequence<index_t, 8>{});
            std::uint8_t const* const scale = scales + g / 4 * line_bytes + g % 4;
            (finish(table.multiplier + scale[R * 4], low[R], high[R], results + R * 16), ...);
            words += 8 * line_bytes;
            sums += line_bytes;
        }
    }

private:
    static constexpr auto& table = cpu::detail::factor_table<Format>;
    static_assert(table.sound);

    template <index_t... R, index_t... I>
    SEMOE_AVX2 SEMOE_INLINE static void
    group(char const* factors, char const* words, __m256i (&low)[sizeof...(R)],
          __m256i (&high)[sizeof...(R)], std::integer_sequence<index_t, R...> rows,
          std::integer_sequence<index_t, I...>) {
        (word(factors + I * 4, words + I * line_bytes, low, high, rows), ...);
    }
    /// Four factors of some rows by those of 16 tokens.
    template <index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void
    word(char const* factors, char const* tokens, __m256i (&low)[sizeof...(R)],
         __m256i (&high)[sizeof...(R)], std::integer_sequence<index_t, R...>) {
        __m256i const x = load_half(tokens), y = load_half(tokens + 32);
        (step(spread(factors + R * line_bytes), x, y, low[R], high[R]), ...);
    }
    SEMOE_AVX2 SEMOE_INLINE static void step(__m256i factors, __m256i x, __m256i y, __m256i& low,
                                             __m256i& high) {
        step(factors, x, low);
        step(factors, y, high);
    }
    SEMOE_AVX2 SEMOE_INLINE static void step(__m256i factors, __m256i x, __m256i& sum) {
        // Written out, or the compiler keeps all products and moves all sums.
        [[maybe_unused]] __m256i product;
        __asm__("{vpmaddubsw %3, %2, %1|vpmaddubsw %1, %2, %3}\n\t"
                "{vpaddw %1, %0, %0|vpaddw %0, %0, %1}"
                : "+x"(sum), "=&x"(product)
                : "x"(factors), "x"(x));
    }
    /// What makes a group's sum one of factors without their zero.
    SEMOE_AVX2 SEMOE_INLINE static __m256i from_zero(char const* sum) {
        return _mm256_mullo_epi16(load_half(sum), _mm256_set1_epi16(-Factors<Format>::zero));
    }
    SEMOE_AVX2 SEMOE_INLINE static void finish(std::uint32_t const* multiplier, __m256i low,
                                               __m256i high, float* to) {
        __m256i const by = spread(reinterpret_cast<char const*>(multiplier));
        store_half(to, _mm256_add_epi32(load_half(to), _mm256_madd_epi16(low, by)));
        store_half(to + 8, _mm256_add_epi32(load_half(to + 8), _mm256_madd_epi16(high, by)));
    }
};

} // namespace semoe::ops::cpu::avx2
#endif
