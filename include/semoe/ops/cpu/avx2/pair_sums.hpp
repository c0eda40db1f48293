#pragma once

#include "semoe/ops/cpu/avx2/lines.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// What ops/cpu/quantized/byte_rows.hpp asks of an instruction set.
struct PairSums {
    static constexpr index_t height = 4, blocks = 1, slab = 4;

    /// Tiles of unsigned bytes to two of 16 bits each.
    SEMOE_AVX2 static void split_rows(std::uint8_t const* from, index_t n, char* to) {
        for (; n > 0; --n, to += tile_bytes)
            for (index_t i = 0; i < tile_bytes; i += 32, from += 32, to += 32) {
                __m256i const bytes = load_half(from);
                store_half(to, _mm256_and_si256(bytes, _mm256_set1_epi16(0xff)));
                store_half(to + tile_bytes, _mm256_srli_epi16(bytes, 8));
            }
    }
    /// Tiles of signed bytes.
    SEMOE_AVX2 static void split_columns(char const* from, index_t n, char* to) {
        for (; n > 0; --n, to += tile_bytes)
            for (index_t i = 0; i < tile_bytes; i += 32, from += 32, to += 32) {
                __m256i const bytes = load_half(from);
                store_half(to, _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8));
                store_half(to + tile_bytes, _mm256_srai_epi16(bytes, 8));
            }
    }
    /// Sums of some rows with a block of 16 tokens.
    /// @param more  whether to add them to what is there
    template <index_t, index_t... R>
    SEMOE_AVX2 SEMOE_NOINLINE static void add(char const* rows, char const* columns, index_t n,
                                              bool more, float* results,
                                              std::integer_sequence<index_t, R...>) {
        __m256i low[] = {(more ? load_half(results + R * 16) : _mm256_setzero_si256())...};
        __m256i high[] = {(more ? load_half(results + R * 16 + 8) : _mm256_setzero_si256())...};
        for (; n > 0; --n, rows += 2 * tile_bytes - line_bytes, columns += tile_bytes)
            for (index_t i = 0; i < 16; ++i, rows += 4, columns += line_bytes) {
                __m256i const a = load_half(columns), b = load_half(columns + 32),
                              c = load_half(columns + tile_bytes),
                              d = load_half(columns + tile_bytes + 32);
                ((step(spread(rows + R * line_bytes), a, b, low[R], high[R]),
                  step(spread(rows + R * line_bytes + tile_bytes), c, d, low[R], high[R])),
                 ...);
            }
        ((store_half(results + R * 16, low[R]), store_half(results + R * 16 + 8, high[R])), ...);
    }

private:
    SEMOE_AVX2 SEMOE_INLINE static void step(__m256i row, __m256i x, __m256i y, __m256i& low,
                                             __m256i& high) {
        step(row, x, low);
        step(row, y, high);
    }
    SEMOE_AVX2 SEMOE_INLINE static void step(__m256i row, __m256i x, __m256i& sum) {
        // Written out, or the compiler keeps all products and moves all sums.
        [[maybe_unused]] __m256i product;
        __asm__("{vpmaddwd %3, %2, %1|vpmaddwd %1, %2, %3}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+x"(sum), "=&x"(product)
                : "x"(row), "x"(x));
    }
};

} // namespace semoe::ops::cpu::avx2
#endif
