#pragma once

#include "semoe/ops/cpu/avx512/lines.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"

#if SEMOE_X86
#include <cstring>

namespace semoe::ops::cpu::avx512 {

/// How a word of a row, spread over a register, meets the words of 16 columns.
struct FloatWords {
    using Element = float;
    using Left = __m512;
    using Right = __m512;
    SEMOE_AVX512 SEMOE_INLINE static Left spread(std::uint32_t word) {
        return _mm512_castsi512_ps(_mm512_set1_epi32(int(word)));
    }
    SEMOE_AVX512 SEMOE_INLINE static Right load(char const* line) {
        return _mm512_castsi512_ps(_mm512_load_si512(line));
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(Left a, Right b, __m512& sum) {
        sum = _mm512_fmadd_ps(a, b, sum);
    }
};
/// Words of two bf16 as floats: one chain, the even element first.
struct WidenedWords {
    using Element = bf16;
    struct Pair {
        __m512 even, odd;
    };
    using Left = Pair;
    using Right = Pair;
    SEMOE_AVX512 SEMOE_INLINE static Left spread(std::uint32_t word) {
        return {_mm512_castsi512_ps(_mm512_set1_epi32(int(word << 16))),
                _mm512_castsi512_ps(_mm512_set1_epi32(int(word & 0xffff0000u)))};
    }
    SEMOE_AVX512 SEMOE_INLINE static Right load(char const* line) {
        __m512i const words = _mm512_load_si512(line);
        __m512i const upper = _mm512_set1_epi32(int(0xffff0000u));
        return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, words, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(words, upper))};
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(Left const& a, Right const& b, __m512& sum) {
        sum = _mm512_fmadd_ps(a.even, b.even, sum);
        sum = _mm512_fmadd_ps(a.odd, b.odd, sum);
    }
};
/// Words of two bf16 by the processor's dot product.
struct DotWords {
    using Element = bf16;
    using Left = __m512i;
    using Right = __m512i;
    SEMOE_AVX512 SEMOE_INLINE static Left spread(std::uint32_t word) {
        return _mm512_set1_epi32(int(word));
    }
    SEMOE_AVX512 SEMOE_INLINE static Right load(char const* line) {
        return _mm512_load_si512(line);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(Left a, Right b, __m512& sum) {
        // Written out, so that one target serves all kernels of this file.
        __asm__("{vdpbf16ps %2, %1, %0|vdpbf16ps %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
};

/// Products by vectors of 16 columns: as many chains in registers as hide the latency of a step.
template <class Words>
class VectorKernel final : public BlockKernel {
    static constexpr index_t most_columns = few_columns(Isa::avx512);

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns > 16)
            multiply<2>(s, fetch, lines, add, results);
        else if (s.columns > most_columns)
            multiply<1>(s, fetch, lines, add, results);
        else
            for (index_t place = 0; place < 2; ++place)
                multiply_few(s, s.left[place], fetch, 2 * lines, add,
                             results + place * tile_floats);
    }
    SEMOE_AVX512 SEMOE_NOINLINE static void multiply_few(BlockSteps const& s, char const* left,
                                                         Fetch& fetch, int lines, bool add,
                                                         float* results) {
        __m512 sums[most_columns];
        alignas(64) float column[16] = {};
        for (index_t m = 0; m < most_columns; ++m) {
            for (index_t r = 0; r < 16 && add; ++r) column[r] = results[r * 16 + m];
            sums[m] = _mm512_load_ps(column);
        }
        char const* right = s.right;
        for (index_t n = 0; n < s.steps; ++n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            __m512i x[16];
            for (index_t r = 0; r < 16; ++r) x[r] = _mm512_loadu_si512(left + r * s.row_bytes);
            transpose_words(x);
            alignas(64) char words[tile_bytes];
            for (index_t i = 0; i < 16; ++i) _mm512_store_si512(words + i * line_bytes, x[i]);
            for (index_t i = 0; i < 16; ++i) {
                auto const rows = load_rows(words + i * line_bytes);
                char const* const line = right + i * line_bytes;
                Words::add(rows, spread_column(line), sums[0]);
                if (s.columns == 1) continue;
                Words::add(rows, spread_column(line + 4), sums[1]);
                Words::add(rows, spread_column(line + 8), sums[2]);
                Words::add(rows, spread_column(line + 12), sums[3]);
            }
        }
        if (!add)
            for (index_t r = 0; r < 16; ++r) _mm512_store_ps(results + r * 16, _mm512_setzero_ps());
        for (index_t m = 0; m < most_columns; ++m) {
            _mm512_store_ps(column, sums[m]);
            for (index_t r = 0; r < 16; ++r) results[r * 16 + m] = column[r];
        }
    }
    template <int Columns>
    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        constexpr int rows = 16 / Columns;
        for (index_t place = 0; place < 2; ++place)
            for (index_t row = 0; row < 16; row += rows)
                chains<Columns>(s, s.left[place] + row * s.row_bytes, fetch, lines * rows / 8, add,
                                results + place * tile_floats + row * 16,
                                std::make_integer_sequence<index_t, rows>{});
    }
    template <int Columns, index_t... R>
    SEMOE_AVX512 SEMOE_NOINLINE static void
    chains(BlockSteps const& block, char const* left, Fetch& fetch, int lines, bool add,
           float* results, std::integer_sequence<index_t, R...>) {
        BlockSteps s = block;
        constexpr index_t second_column = 2 * tile_floats;
        __m512 first[sizeof...(R)], second[sizeof...(R)];
        ((first[R] = add ? _mm512_loadu_ps(results + R * 16) : _mm512_setzero_ps()), ...);
        if constexpr (Columns == 2)
            ((second[R] =
                  add ? _mm512_loadu_ps(results + second_column + R * 16) : _mm512_setzero_ps()),
             ...);
        index_t const row = s.row_bytes;
        for (; s.steps > 0; --s.steps, left += s.step_bytes, s.right += tile_bytes) {
            fetch.some(lines);
            for (index_t i = 0; i < 16; ++i) {
                auto const b0 = Words::load(s.right + i * line_bytes);
                if constexpr (Columns == 2) {
                    auto const b1 = Words::load(s.right + s.right_tile + i * line_bytes);
                    (step(left + R * row + i * 4, b0, b1, first[R], second[R]), ...);
                } else {
                    (Words::add(spread(left + R * row + i * 4), b0, first[R]), ...);
                }
            }
        }
        (_mm512_storeu_ps(results + R * 16, first[R]), ...);
        if constexpr (Columns == 2)
            (_mm512_storeu_ps(results + second_column + R * 16, second[R]), ...);
    }
    SEMOE_AVX512 SEMOE_INLINE static typename Words::Left spread(char const* from) {
        std::uint32_t word;
        std::memcpy(&word, from, sizeof(word));
        return Words::spread(word);
    }
    // Where rows become lanes, words that tell rows from columns have other names for both.
    SEMOE_AVX512 SEMOE_INLINE static typename Words::Left load_rows(char const* line) {
        if constexpr (requires { Words::load_rows(line); })
            return Words::load_rows(line);
        else
            return Words::load(line);
    }
    SEMOE_AVX512 SEMOE_INLINE static typename Words::Right spread_column(char const* from) {
        std::uint32_t word;
        std::memcpy(&word, from, sizeof(word));
        if constexpr (requires { Words::spread_column(word); })
            return Words::spread_column(word);
        else
            return Words::spread(word);
    }
    SEMOE_AVX512 SEMOE_INLINE static void step(char const* from, typename Words::Right const& b0,
                                               typename Words::Right const& b1, __m512& sum0,
                                               __m512& sum1) {
        auto const a = spread(from);
        Words::add(a, b0, sum0);
        Words::add(a, b1, sum1);
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
