#pragma once

#include "semoe/ops/cpu/avx512/lines.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// What ops/cpu/quantized/byte_rows.hpp asks of an instruction set.
struct PairSums {
    static constexpr index_t height = 8, blocks = 2, slab = 2;

    /// Tiles of unsigned bytes to two of 16 bits each.
    SEMOE_AVX512 static void split_rows(std::uint8_t const* from, index_t n, char* to) {
        for (; n > 0; --n, to += tile_bytes)
            for (index_t i = 0; i < tile_rows; ++i, from += line_bytes, to += line_bytes) {
                __m512i const bytes = _mm512_loadu_si512(from);
                _mm512_storeu_si512(to, _mm512_and_si512(bytes, _mm512_set1_epi16(0xff)));
                _mm512_storeu_si512(to + tile_bytes, _mm512_maskz_srli_epi16(~0u, bytes, 8));
            }
    }
    /// Tiles of signed bytes.
    SEMOE_AVX512 static void split_columns(char const* from, index_t n, char* to) {
        for (; n > 0; --n, to += tile_bytes)
            for (index_t i = 0; i < tile_rows; ++i, from += line_bytes, to += line_bytes) {
                __m512i const bytes = _mm512_loadu_si512(from);
                __m512i const raised = _mm512_maskz_slli_epi16(~0u, bytes, 8);
                _mm512_storeu_si512(to, _mm512_maskz_srai_epi16(~0u, raised, 8));
                _mm512_storeu_si512(to + tile_bytes, _mm512_maskz_srai_epi16(~0u, bytes, 8));
            }
    }
    /// Sums of some rows with 16 tokens, or with 32, whose results are apart.
    /// @param more  whether to add them to what is there
    template <index_t Blocks, index_t... R>
    SEMOE_AVX512 SEMOE_NOINLINE static void add(char const* rows, char const* columns, index_t n,
                                                bool more, float* results,
                                                std::integer_sequence<index_t, R...>) {
        constexpr index_t second_columns = 2 * slab * tile_bytes, second = 2 * tile_floats;
        auto const begin = [more](float const* from) SEMOE_AVX512 {
            return more ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
        };
        __m512i sum[Blocks][sizeof...(R)];
        ((sum[0][R] = begin(results + R * 16)), ...);
        if constexpr (Blocks == 2) ((sum[1][R] = begin(results + second + R * 16)), ...);
        for (; n > 0; --n, rows += 2 * tile_bytes - line_bytes, columns += tile_bytes)
            for (index_t i = 0; i < 16; ++i, rows += 4, columns += line_bytes) {
                words<R...>(rows, columns, columns + second_columns, sum);
                words<R...>(rows + tile_bytes, columns + tile_bytes,
                            columns + second_columns + tile_bytes, sum);
            }
        (_mm512_storeu_si512(results + R * 16, sum[0][R]), ...);
        if constexpr (Blocks == 2) (_mm512_storeu_si512(results + second + R * 16, sum[1][R]), ...);
    }

private:
    /// A word of some rows by a line of columns, or two.
    template <index_t... R, index_t Blocks>
    SEMOE_AVX512 SEMOE_INLINE static void words(char const* rows, char const* line0,
                                                char const* line1,
                                                __m512i (&sum)[Blocks][sizeof...(R)]) {
        __m512i const x = _mm512_loadu_si512(line0);
        if constexpr (Blocks == 1) {
            (step(spread(rows + R * line_bytes), x, sum[0][R]), ...);
        } else {
            __m512i const y = _mm512_loadu_si512(line1);
            (both(spread(rows + R * line_bytes), x, y, sum[0][R], sum[1][R]), ...);
        }
    }
    SEMOE_AVX512 SEMOE_INLINE static void both(__m512i row, __m512i x, __m512i y, __m512i& sum0,
                                               __m512i& sum1) {
        step(row, x, sum0);
        step(row, y, sum1);
    }
    SEMOE_AVX512 SEMOE_INLINE static void step(__m512i row, __m512i x, __m512i& sum) {
        // Written out, or the compiler keeps all products and moves all sums.
        [[maybe_unused]] __m512i product;
        __asm__("{vpmaddwd %3, %2, %1|vpmaddwd %1, %2, %3}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+v"(sum), "=&v"(product)
                : "v"(row), "v"(x));
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
