#pragma once

#include "semoe/ops/cpu/avx512/lines.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"

#if SEMOE_X86
#include <cstring>
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// Four bytes of an operand that an instruction takes from memory, whatever type they have.
using Word = char[4];
/// Where assembly reads a word a sanitizer would not look.
SEMOE_INLINE void show_word([[maybe_unused]] char const* word) {
#if SEMOE_ADDRESS_SANITIZER
    int read;
    std::memcpy(&read, word, sizeof(read));
    __asm__ volatile("" ::"r"(read));
#endif
}

/// How words of rows meet `parts` lines of columns, each of which takes so many elements of a word
/// as there is room for. An element's sum is one chain in order of the depth. Up to `few` columns
/// rows become lanes, which takes less time than vectors that are partly empty; one vector of
/// columns meets `rows` at a time, since where rows lie a page apart eight of them have room in a
/// set of L1. Whether it `commutes`: either operand may be the row's.
struct FloatWords {
    static constexpr int parts = 1, rows = 8;
    static constexpr index_t few = 8;
    static constexpr bool commutes = true;
    template <int>
    SEMOE_AVX512 SEMOE_INLINE static __m512i row(__m512i words) {
        return words;
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        sum = _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }
    /// By one word of a column. Written out, so that words take no registers.
    SEMOE_AVX512 SEMOE_INLINE static void add_word(__m512i a, char const* word, __m512& sum) {
        show_word(word);
        __asm__("{vfmadd231ps %2%{1to16%}, %1, %0|vfmadd231ps %0, %1, %2%{1to16%}}"
                : "+v"(sum)
                : "v"(a), "m"(*reinterpret_cast<Word const*>(word)));
    }
};
/// Words of two bf16 by columns of floats, the even element first: the bits that floats of them
/// have.
struct WidenedWords : FloatWords {
    static constexpr int parts = 2;
    static constexpr index_t few = few_columns(Isa::avx512);
    template <int Part>
    SEMOE_AVX512 SEMOE_INLINE static __m512i row(__m512i words) {
        return Part == 0 ? even_floats(words) : odd_floats(words);
    }
};
/// Words of two bf16 by the processor's dot product.
struct DotWords : FloatWords {
    // Written out, so that one target serves all kernels of this file.
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        __asm__("{vdpbf16ps %2, %1, %0|vdpbf16ps %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
    SEMOE_AVX512 SEMOE_INLINE static void add_word(__m512i a, char const* word, __m512& sum) {
        show_word(word);
        __asm__("{vdpbf16ps %2%{1to16%}, %1, %0|vdpbf16ps %0, %1, %2%{1to16%}}"
                : "+v"(sum)
                : "v"(a), "m"(*reinterpret_cast<Word const*>(word)));
    }
};

/// A tile of results from rows to columns or back, or zeros.
SEMOE_AVX512 inline void turn(float* results, bool keep = true) {
    __m512i x[16] = {};
    for (index_t i = 0; i < 16 && keep; ++i) x[i] = _mm512_load_si512(results + i * 16);
    if (keep) transpose_words(x);
    for (index_t i = 0; i < 16; ++i) _mm512_store_si512(results + i * 16, x[i]);
}

/// Products of few columns: rows become lanes, so that none are empty. Sixteen rows are turned in
/// registers, whole lines at a time: where rows lie a page apart, L1 has no room for their lines to
/// be read twice.
template <class Words>
class FewKernel final : public BlockKernel {
public:
    static constexpr index_t most_columns = Words::few;

    static void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        for (int p = 0; p < 2; ++p) {
            float* const sums = results + p * tile_floats;
            turn(sums, add);
            if (s.columns <= 2)
                columns<2>(s, s.left[p], fetch, lines, sums);
            else if (s.columns <= 4)
                columns<4>(s, s.left[p], fetch, lines, sums);
            else if constexpr (most_columns > 4)
                columns<most_columns>(s, s.left[p], fetch, lines, sums);
            turn(sums);
        }
    }

private:
    template <index_t Columns>
    static void columns(BlockSteps const& s, char const* left, Fetch& fetch, int lines,
                        float* sums) {
        chains(s, left, fetch, 2 * lines, sums, std::make_integer_sequence<index_t, Columns>{});
    }
    template <index_t... C>
    SEMOE_AVX512 SEMOE_NOINLINE static void chains(BlockSteps const& s, char const* left,
                                                   Fetch& fetch, int lines, float* sums,
                                                   std::integer_sequence<index_t, C...>) {
        index_t const row = s.row_bytes, line = s.word_line;
        char const* right = s.right;
        __m512 sum[] = {_mm512_load_ps(sums + C * 16)...};
        // Four rows from each, so that the places of all take few registers.
        char const *second = left + 4 * row, *third = second + 4 * row, *fourth = third + 4 * row;
        for (index_t n = s.steps; n > 0; --n) {
            fetch.some(lines);
            __m512i x[16];
            load_rows(left, row, x);
            load_rows(second, row, x + 4);
            load_rows(third, row, x + 8);
            load_rows(fourth, row, x + 12);
            left += s.step_bytes, second += s.step_bytes;
            third += s.step_bytes, fourth += s.step_bytes;
            transpose_words(x);
            words<C...>(x, right, line, sum, std::make_integer_sequence<int, 16>{});
        }
        (_mm512_store_ps(sums + C * 16, sum[C]), ...);
    }
    SEMOE_AVX512 SEMOE_INLINE static void load_rows(char const* from, index_t ld, __m512i* x) {
        x[0] = _mm512_loadu_si512(from);
        x[1] = _mm512_loadu_si512(from + ld);
        x[2] = _mm512_loadu_si512(from + 2 * ld);
        x[3] = _mm512_loadu_si512(from + 3 * ld);
    }
    template <index_t... C, int... I>
    SEMOE_AVX512 SEMOE_INLINE static void words(__m512i const (&x)[16], char const*& right,
                                                index_t line, __m512 (&sum)[sizeof...(C)],
                                                std::integer_sequence<int, I...>) {
        (word<C...>(x[I], right, line, sum), ...);
    }
    template <index_t... C>
    SEMOE_AVX512 SEMOE_INLINE static void word(__m512i x, char const*& right, index_t line,
                                               __m512 (&sum)[sizeof...(C)]) {
        part<0, C...>(x, right, sum);
        right += line;
        if constexpr (Words::parts == 2) {
            part<1, C...>(x, right, sum);
            right += line;
        }
    }
    template <int Part, index_t... C>
    SEMOE_AVX512 SEMOE_INLINE static void part(__m512i x, char const* right,
                                               __m512 (&sum)[sizeof...(C)]) {
        __m512i const rows = Words::template row<Part>(x);
        (Words::add_word(rows, right + C * 4, sum[C]), ...);
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        multiply(s, fetch, lines, add, results);
    }
};

/// Products both of whose operands are words: one operand's are lanes, and each of the other's
/// meets them all, so many chains at a time as hide the latency of a step.
/// @tparam Words  that take one step each
template <class Words>
class LanesKernel final : public BlockKernel {
    static_assert(Words::parts == 1);
    static constexpr index_t group = 8;

    /// An operand, in two blocks of 16.
    struct Side {
        char const* words;
        index_t second; ///< bytes to the second block
        index_t count;  ///< that anybody wants, the first ones
        index_t tile;   ///< floats from results of the first block to those of the second
        /// What it takes to meet them one by one.
        index_t cost() const { return (count + group / 2 - 1) / (group / 2); }
    };
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        Side const rows{s.left[0], s.left[1] - s.left[0], min(s.rows, index_t(32)), tile_floats},
            columns{s.right, s.right_tile, min(s.columns, index_t(32)), 2 * tile_floats};
        if (columns.count > 16 && rows.cost() <= columns.cost())
            return multiply(columns, rows, s, fetch, lines, add, results);
        // Results lie as columns until the last step.
        index_t const tiles = columns.count > 16 ? 4 : 2;
        for (index_t t = 0; t < tiles && add && s.first; ++t) turn(results + t * tile_floats);
        multiply(rows, columns, s, fetch, lines, add, results);
        for (index_t t = 0; t < tiles && s.last; ++t) turn(results + t * tile_floats);
    }
    static void multiply(Side const& lanes, Side const& others, BlockSteps const& s, Fetch& fetch,
                         int lines, bool add, float* results) {
        int const fetched = lines_of_pass(lines, (others.count + group - 1) / group);
        for (index_t i = 0; i < others.count; i += group) {
            float* const to = results + i / 16 * others.tile + i % 16 * 16;
            char const* const words = others.words + i / 16 * others.second + i % 16 * 4;
            if (others.count - i > group / 2)
                chains(lanes, words, s, fetch, fetched, add, to,
                       std::make_integer_sequence<index_t, group>{});
            else
                chains(lanes, words, s, fetch, fetched, add, to,
                       std::make_integer_sequence<index_t, group / 2>{});
        }
    }
    template <index_t... I>
    SEMOE_AVX512 SEMOE_NOINLINE static void
    chains(Side const& lanes, char const* words, BlockSteps const& s, Fetch& fetch, int lines,
           bool add, float* results, std::integer_sequence<index_t, I...>) {
        float* const second = results + lanes.tile;
        __m512 low[] = {(add ? _mm512_load_ps(results + I * 16) : _mm512_setzero_ps())...};
        __m512 high[] = {(add ? _mm512_load_ps(second + I * 16) : _mm512_setzero_ps())...};
        char const* line = lanes.words;
        index_t const other = lanes.second;
        for (index_t n = s.steps; n > 0; --n) {
            fetch.some(lines);
            for (index_t left = s.words(n); left > 0; --left) {
                __m512i const x = _mm512_load_si512(line), y = _mm512_load_si512(line + other);
                (step(x, y, spread(words + I * 4), low[I], high[I]), ...);
                line += line_bytes, words += line_bytes;
            }
        }
        (_mm512_store_ps(results + I * 16, low[I]), ...);
        (_mm512_store_ps(second + I * 16, high[I]), ...);
    }
    SEMOE_AVX512 SEMOE_INLINE static void step(__m512i x, __m512i y, __m512i word, __m512& low,
                                               __m512& high) {
        Words::add(x, word, low);
        Words::add(y, word, high);
    }
};

/// Products by vectors of 16 columns: as many chains in registers as hide the latency of a step. So
/// few columns as FewKernel takes it does, alone or beside a whole vector.
template <class Words>
class VectorKernel final : public BlockKernel {
    static_assert(Words::parts == 1);
    using Few = FewKernel<Words>;
    static constexpr index_t second_column = 2 * tile_floats;

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= Words::few) return Few::multiply(s, fetch, lines, add, results);
        if (s.columns > 16 + Words::few) return multiply<2, 8>(s, fetch, lines, add, results);
        multiply<1, Words::rows>(s, fetch, lines, add, results);
        if (s.columns <= 16) return;
        BlockSteps second = s;
        second.right += s.right_tile, second.columns -= 16;
        Few::multiply(second, fetch, 0, add, results + second_column);
    }
    template <int Columns, int Rows>
    static void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        index_t const wanted = min(s.rows, index_t(32));
        int const fetched = lines_of_pass(lines, (wanted + Rows - 1) / Rows);
        for (index_t row = 0; row < wanted; row += Rows)
            chains<Columns>(s, s.left[row / 16] + row % 16 * s.row_bytes, fetch, fetched, add,
                            results + row * 16, std::make_integer_sequence<index_t, Rows>{});
    }
    template <int Columns, index_t... R>
    SEMOE_AVX512 SEMOE_NOINLINE static void
    chains(BlockSteps const& s, char const* left, Fetch& fetch, int lines, bool add, float* results,
           std::integer_sequence<index_t, R...>) {
        __m512 first[sizeof...(R)], second[sizeof...(R)];
        ((first[R] = add ? _mm512_loadu_ps(results + R * 16) : _mm512_setzero_ps()), ...);
        if constexpr (Columns == 2)
            ((second[R] =
                  add ? _mm512_loadu_ps(results + second_column + R * 16) : _mm512_setzero_ps()),
             ...);
        index_t const row = s.row_bytes, right_tile = s.right_tile;
        char const* right = s.right;
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            for (index_t i = 0, words = s.words(n); i < words; ++i) {
                char const* const line = right + i * line_bytes;
                (step<Columns>(left + R * row + i * 4, line, line + right_tile, first[R],
                               second[R]),
                 ...);
            }
        }
        (_mm512_storeu_ps(results + R * 16, first[R]), ...);
        if constexpr (Columns == 2)
            (_mm512_storeu_ps(results + second_column + R * 16, second[R]), ...);
    }
    /// A word of a row by a line of columns, or two.
    template <int Columns>
    SEMOE_AVX512 SEMOE_INLINE static void step(char const* word, char const* line0,
                                               char const* line1, __m512& sum0, __m512& sum1) {
        if constexpr (Columns == 1 && Words::commutes) {
            Words::add_word(_mm512_load_si512(line0), word, sum0);
        } else {
            __m512i const a = spread(word);
            Words::add(a, _mm512_load_si512(line0), sum0);
            if constexpr (Columns == 2) Words::add(a, _mm512_load_si512(line1), sum1);
        }
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
