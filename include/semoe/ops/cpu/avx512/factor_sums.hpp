#pragma once

#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/factor_rows.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// What ops/cpu/quantized/factor_rows.hpp asks of an instruction set.
template <class Format>
struct FactorSums {
    static constexpr index_t height = 16;

    /// Lines of codes to two tiles each.
    SEMOE_AVX512 static void decode(std::uint8_t const* codes, std::uint8_t const* scales,
                                    index_t n, char* tiles) {
        for (; n > 0; --n, tiles += tile_bytes)
            for (index_t r = 0; r < tile_rows; ++r, tiles += line_bytes) {
                __m512i const both = _mm512_loadu_si512(codes);
                _mm512_storeu_si512(tiles, detail::factors_of<Format, 0>(both, scales));
                _mm512_storeu_si512(tiles + tile_bytes,
                                    detail::factors_of<Format, 1>(both, scales));
                codes += line_bytes;
                scales += 4;
            }
    }
    /// Adds to the results of some rows from r on.
    template <index_t... R>
    SEMOE_AVX512 SEMOE_NOINLINE static void add(FactorBlock const& block, index_t r, float* results,
                                                std::integer_sequence<index_t, R...>) {
        std::uint8_t const* const scales = block.scales + r * 4;
        char const *words = block.words, *sums = block.sums;
        for (index_t g = 0; g < block.groups; ++g, sums += line_bytes) {
            char const* factors = block.factors + g / 2 * tile_bytes + r * line_bytes + g % 2 * 32;
            // Of factors without their zero.
            __m512i const start = _mm512_mullo_epi16(_mm512_loadu_si512(sums),
                                                     _mm512_set1_epi16(-Factors<Format>::zero));
            __m512i sum[] = {((void)R, start)...};
            for (index_t i = 0; i < 8; ++i, factors += 4, words += line_bytes) {
                __m512i const x = _mm512_loadu_si512(words);
                (step(spread(factors + R * line_bytes), x, sum[R]), ...);
            }
            std::uint8_t const* const scale = scales + g / 4 * line_bytes + g % 4;
            (finish(table.multiplier[scale[R * 4]], sum[R], results + R * 16), ...);
        }
    }

private:
    static constexpr auto& table = cpu::detail::factor_table<Format>;
    static_assert(table.sound);

    SEMOE_AVX512 SEMOE_INLINE static void step(__m512i factors, __m512i x, __m512i& sum) {
        // Written out, or the compiler keeps all products and moves all sums.
        [[maybe_unused]] __m512i product;
        __asm__("{vpmaddubsw %3, %2, %1|vpmaddubsw %1, %2, %3}\n\t"
                "{vpaddw %1, %0, %0|vpaddw %0, %0, %1}"
                : "+v"(sum), "=&v"(product)
                : "v"(factors), "v"(x));
    }
    SEMOE_AVX512 SEMOE_INLINE static void finish(std::uint32_t multiplier, __m512i sum, float* to) {
        __m512i const product = _mm512_madd_epi16(sum, _mm512_set1_epi32(int(multiplier)));
        _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), product));
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
