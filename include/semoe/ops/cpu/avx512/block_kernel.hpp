#pragma once

#include "semoe/ops/cpu/avx512/lines.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"

#if SEMOE_X86
#include <cstring>
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// How words of rows meet `lines` lines of 16 columns: in `parts` steps, each of which takes so
/// many elements of a word as there is room for. An element's sum is one chain in order of the
/// depth. Up to `few` columns rows become lanes, which takes less time than vectors that are partly
/// empty; one vector of columns meets `rows` at a time, since where rows lie a page apart eight of
/// them have room in a set of L1.
struct FloatWords {
    static constexpr int parts = 1, lines = 1, rows = 8;
    static constexpr index_t few = 6;
    template <int>
    SEMOE_AVX512 SEMOE_INLINE static __m512i row(__m512i words) {
        return words;
    }
    template <int>
    SEMOE_AVX512 SEMOE_INLINE static __m512i column(__m512i words) {
        return words;
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        sum = _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }
};
/// Words of two bf16 by columns of floats, the even element first: the bits that floats of them
/// have.
struct WidenedWords {
    static constexpr int parts = 2, lines = 2;
    static constexpr index_t few = few_columns(Isa::avx512);
    template <int Part>
    SEMOE_AVX512 SEMOE_INLINE static __m512i row(__m512i words) {
        return Part == 0 ? even_floats(words) : odd_floats(words);
    }
    template <int>
    SEMOE_AVX512 SEMOE_INLINE static __m512i column(__m512i floats) {
        return floats;
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        FloatWords::add(a, b, sum);
    }
};
/// Words of two bf16 by the processor's dot product.
struct DotWords : FloatWords {
    static constexpr index_t few = 4;
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        // Written out, so that one target serves all kernels of this file.
        __asm__("{vdpbf16ps %2, %1, %0|vdpbf16ps %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
};

SEMOE_AVX512 SEMOE_INLINE __m512i spread(char const* from) {
    int word;
    std::memcpy(&word, from, sizeof(word));
    return _mm512_set1_epi32(word);
}

/// A tile of results from rows to columns or back, or zeros.
SEMOE_AVX512 inline void turn(float* results, bool keep = true) {
    __m512i x[16] = {};
    for (index_t i = 0; i < 16 && keep; ++i) x[i] = _mm512_load_si512(results + i * 16);
    if (keep) transpose_words(x);
    for (index_t i = 0; i < 16; ++i) _mm512_store_si512(results + i * 16, x[i]);
}

/// Products of few columns: rows become lanes, so that none are empty. Half a step at a time, so
/// that rows and all sums have room in registers.
template <class Words>
class FewKernel final : public BlockKernel {
public:
    static constexpr index_t most_columns = Words::few;

    static void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        for (int p = 0; p < 2; ++p) turn(results + p * tile_floats, add);
        if (s.columns <= 2)
            places<2, 2>(s, s.left[0], fetch, 2 * lines, results);
        else if (s.columns <= 4)
            places<2, 4>(s, s.left[0], fetch, 2 * lines, results);
        else if constexpr (most_columns > 4)
            for (int p = 0; p < 2; ++p)
                places<1, most_columns>(s, s.left[p], fetch, lines, results + p * tile_floats);
        for (int p = 0; p < 2; ++p) turn(results + p * tile_floats);
    }

private:
    /// One of the rows' places, or both.
    template <int Places, int Columns>
    static void places(BlockSteps const& s, char const* left, Fetch& fetch, int lines,
                       float* results) {
        chains<Places>(s, left, fetch, lines, results,
                       std::make_integer_sequence<index_t, Columns>{});
    }
    template <int Places, index_t... C>
    SEMOE_AVX512 SEMOE_NOINLINE static void chains(BlockSteps const& s, char const* left,
                                                   Fetch& fetch, int lines, float* results,
                                                   std::integer_sequence<index_t, C...>) {
        index_t const row = s.row_bytes, other = s.left[1] - s.left[0];
        // So few columns of widened bf16 have narrow lines; to know that keeps rows in registers.
        bool const narrow = Words::lines == 2 && sizeof...(C) <= narrow_columns;
        index_t const line = narrow ? narrow_columns * 4 : s.word_line;
        char const* right = s.right;
        float* const second = results + (Places - 1) * tile_floats;
        __m512 low[] = {_mm512_load_ps(results + C * 16)...};
        __m512 high[] = {_mm512_load_ps(second + C * 16)...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes)
            for (index_t half = 0; half < 2; ++half, right += 8 * Words::lines * line) {
                fetch.some(lines);
                __m512i x[8], y[8] = {};
                transpose_words(left + half * 32, row, x);
                if constexpr (Places == 2) transpose_words(left + other + half * 32, row, y);
                words<Places, C...>(x, y, right, line, low, high,
                                    std::make_integer_sequence<int, 8>{});
            }
        if constexpr (Places == 2) (_mm512_store_ps(second + C * 16, high[C]), ...);
        (_mm512_store_ps(results + C * 16, low[C]), ...);
    }
    template <int Places, index_t... C, int... I>
    SEMOE_AVX512 SEMOE_INLINE static void
    words(__m512i const (&x)[8], __m512i const (&y)[8], char const* right, index_t line,
          __m512 (&low)[sizeof...(C)], __m512 (&high)[sizeof...(C)],
          std::integer_sequence<int, I...>) {
        (word<Places, C...>(x[I], y[I], right + I * Words::lines * line, line, low, high), ...);
    }
    template <int Places, index_t... C>
    SEMOE_AVX512 SEMOE_INLINE static void word(__m512i x, __m512i y, char const* columns,
                                               index_t line, __m512 (&low)[sizeof...(C)],
                                               __m512 (&high)[sizeof...(C)]) {
        (step<0, Places>(x, y, columns + C * 4, low[C], high[C]), ...);
        if constexpr (Words::parts == 2)
            (step<1, Places>(x, y, columns + (Words::lines - 1) * line + C * 4, low[C], high[C]),
             ...);
    }
    template <int Part, int Places>
    SEMOE_AVX512 SEMOE_INLINE static void step(__m512i x, __m512i y, char const* column,
                                               __m512& low, __m512& high) {
        __m512i const b = Words::template column<Part>(spread(column));
        Words::add(Words::template row<Part>(x), b, low);
        if constexpr (Places == 2) Words::add(Words::template row<Part>(y), b, high);
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

/// Products by vectors of 16 columns: as many chains in registers as hide the latency of a step.
template <class Words>
class VectorKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= Words::few)
            FewKernel<Words>::multiply(s, fetch, lines, add, results);
        else if (s.columns > 16)
            multiply<2, 8>(s, fetch, lines, add, results);
        else
            multiply<1, Words::rows>(s, fetch, lines, add, results);
    }
    template <int Columns, int Rows>
    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
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
        constexpr index_t second_column = 2 * tile_floats;
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
        part<0, Columns>(word, line0, line1, sum0, sum1);
        if constexpr (Words::parts == 2) part<1, Columns>(word, line0, line1, sum0, sum1);
    }
    template <int Part, int Columns>
    SEMOE_AVX512 SEMOE_INLINE static void part(char const* word, char const* line0,
                                               char const* line1, __m512& sum0, __m512& sum1) {
        __m512i const a = Words::template row<Part>(spread(word));
        Words::add(a, Words::template column<Part>(_mm512_load_si512(line0)), sum0);
        if constexpr (Columns == 2)
            Words::add(a, Words::template column<Part>(_mm512_load_si512(line1)), sum1);
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
