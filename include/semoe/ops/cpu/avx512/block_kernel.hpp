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
/// rows become lanes, which takes less time than vectors that are partly empty; so do eight or
/// fewer that more than `padded` leave beside whole vectors. One vector of columns meets `rows` at
/// a time, since where rows lie a page apart eight of them have room in a set of L1; up to
/// `columns` are lanes together. Whether it `commutes`: either operand may be the row's.
struct FloatWords {
    static constexpr int parts = 1, rows = 8;
    static constexpr index_t few = 8, padded = 16, columns = 64;
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
/// Words of two bf16 by the processor's dot product. Zen 5 has one ready after six cycles and
/// begins two a cycle, so that eight rows by one vector would leave a third of them idle: rows as
/// lanes serve a whole vector's columns.
struct DotWords : FloatWords {
    static constexpr int rows = 16; // of tiles, which lie beside each other
    static constexpr index_t few = 16, padded = 32;

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
            columns<2>(s, s.left[p], fetch, lines, sums);
            turn(sums);
        }
    }

private:
    /// By 2, 4, 8, 12 or 16 of them.
    template <index_t Columns>
    static void columns(BlockSteps const& s, char const* left, Fetch& fetch, int lines,
                        float* sums) {
        if constexpr (Columns < most_columns)
            if (s.columns > Columns) {
                constexpr index_t more = Columns == 2 ? 4 : Columns + 4;
                return columns<min(more, most_columns)>(s, left, fetch, lines, sums);
            }
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

/// An operand in blocks of 16.
struct Side {
    char const* words;
    index_t next;    ///< bytes to the next block
    index_t results; ///< floats from results of a block to those of the next
    index_t count;   ///< that anybody wants, the first ones

    static Side rows(BlockSteps const& s) {
        return {s.left[0], s.left[1] - s.left[0], tile_floats, min(s.rows, index_t(32))};
    }
    static Side columns(BlockSteps const& s) {
        return {s.right, s.right_tile, 2 * tile_floats, s.columns};
    }
};

/// Lanes of one operand by words of the other, each of which meets them all: as many chains in
/// registers as hide the latency of a step. The more lanes, the fewer instructions a product takes.
template <class Words>
struct Chains {
    static_assert(Words::parts == 1);

    Side lanes;                 ///< tiles of words
    Side others;                ///< met one by one
    index_t other, depth, step; ///< bytes from one of these to the next, to its next word and step

    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) const {
        if constexpr (Words::columns > 32) {
            if (lanes.count > 48) return multiply<4>(s, fetch, lines, add, results);
            if (lanes.count > 32) return multiply<3>(s, fetch, lines, add, results);
        }
        if (lanes.count > 16) return multiply<2>(s, fetch, lines, add, results);
        multiply<1>(s, fetch, lines, add, results);
    }

private:
    /// Sixteen of the others in so many passes, of about as many each.
    template <int Vectors>
    static constexpr index_t passes = Vectors == 1  ? 16 / Words::rows
                                      : Vectors < 4 ? 2
                                                    : 3;
    template <int Vectors>
    static constexpr index_t first(index_t pass) {
        return 16 * pass / passes<Vectors>;
    }
    template <int Vectors>
    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) const {
        constexpr index_t n = passes<Vectors>;
        int const fetched = lines_of_pass(lines, (others.count * n + 15) / 16);
        for (index_t begin = 0; begin < others.count; begin += 16)
            [&]<index_t... P>(std::integer_sequence<index_t, P...>) {
                (pass<Vectors, first<Vectors>(P), first<Vectors>(P + 1)>(s, begin, fetch, fetched,
                                                                         add, results),
                 ...);
            }
        (std::make_integer_sequence<index_t, n>{});
    }
    template <int Vectors, index_t Begin, index_t End>
    void pass(BlockSteps const& s, index_t block, Fetch& fetch, int lines, bool add,
              float* results) const {
        index_t const left = others.count - block - Begin;
        if (left <= 0) return;
        constexpr std::make_integer_sequence<index_t, Vectors> vectors;
        char const* const words = others.words + block / 16 * others.next + Begin * other;
        float* const to = results + block / 16 * others.results + Begin * 16;
        if constexpr (Vectors == 2)
            if (left <= (End - Begin) / 2)
                return run(s, words, fetch, lines, add, to, vectors,
                           std::make_integer_sequence<index_t, (End - Begin) / 2>{});
        run(s, words, fetch, lines, add, to, vectors,
            std::make_integer_sequence<index_t, End - Begin>{});
    }
    template <index_t... V, index_t... I>
    SEMOE_AVX512 SEMOE_NOINLINE void
    run(BlockSteps const& s, char const* words, Fetch& fetch, int fetched, bool add, float* results,
        std::integer_sequence<index_t, V...>, std::integer_sequence<index_t, I...>) const {
        __m512 sum[sizeof...(I)][sizeof...(V)];
        (load<V...>(results + I * 16, add, sum[I]), ...);
        char const* lines = lanes.words;
        index_t const next_lines = lanes.next, next_word = other, deeper = depth;
        for (index_t n = s.steps; n > 0; --n, lines += tile_bytes, words += step) {
            fetch.some(fetched);
            char const *line = lines, *word = words;
            for (index_t left = s.words(n); left > 0; --left, line += line_bytes, word += deeper) {
                __m512i const x[] = {_mm512_load_si512(line + V * next_lines)...};
                (meet<V...>(x, word + I * next_word, sum[I]), ...);
            }
        }
        (store<V...>(sum[I], results + I * 16), ...);
    }
    template <index_t... V>
    SEMOE_AVX512 SEMOE_INLINE void load(float const* results, bool add,
                                        __m512 (&sum)[sizeof...(V)]) const {
        ((sum[V] = add ? _mm512_loadu_ps(results + V * lanes.results) : _mm512_setzero_ps()), ...);
    }
    template <index_t... V>
    SEMOE_AVX512 SEMOE_INLINE static void meet(__m512i const (&x)[sizeof...(V)], char const* word,
                                               __m512 (&sum)[sizeof...(V)]) {
        if constexpr (sizeof...(V) == 1 && Words::commutes) {
            Words::add_word(x[0], word, sum[0]);
        } else {
            __m512i const a = spread(word);
            (Words::add(a, x[V], sum[V]), ...);
        }
    }
    template <index_t... V>
    SEMOE_AVX512 SEMOE_INLINE void store(__m512 const (&sum)[sizeof...(V)], float* results) const {
        (_mm512_storeu_ps(results + V * lanes.results, sum[V]), ...);
    }
};

/// Products both of whose operands are words: either operand's may be lanes.
template <class Words>
class LanesKernel final : public BlockKernel {
    /// What it takes to meet so many one by one.
    static index_t cost(index_t count) { return (count + 3) / 4; }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        Side const rows = Side::rows(s), columns = Side::columns(s);
        if (columns.count > 16 && cost(rows.count) <= cost(columns.count))
            return multiply(columns, rows, s, fetch, lines, add, results);
        // Results lie as columns until the last step.
        index_t const tiles = columns.count > 16 ? 4 : 2;
        for (index_t t = 0; t < tiles && add && s.first; ++t) turn(results + t * tile_floats);
        multiply(rows, columns, s, fetch, lines, add, results);
        for (index_t t = 0; t < tiles && s.last; ++t) turn(results + t * tile_floats);
    }
    static void multiply(Side const& lanes, Side const& others, BlockSteps const& s, Fetch& fetch,
                         int lines, bool add, float* results) {
        Chains<Words>{lanes, others, 4, line_bytes, tile_bytes}.multiply(s, fetch, lines, add,
                                                                         results);
    }
};

/// Products by vectors of 16 columns, which rows meet as they lie. So few columns as FewKernel
/// takes it does, and the few that fill no vector.
template <class Words>
class VectorKernel final : public BlockKernel {
    using Few = FewKernel<Words>;

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= Words::few) return Few::multiply(s, fetch, lines, add, results);
        index_t const last = (s.columns - 1) % 16 + 1;
        index_t const few = s.columns > Words::padded && last <= 8 ? last : 0;
        Chains<Words> chains{Side::columns(s), Side::rows(s), s.row_bytes, 4, s.step_bytes};
        chains.lanes.count -= few;
        chains.multiply(s, fetch, lines, add, results);
        if (few == 0) return;
        index_t const vectors = chains.lanes.count / 16;
        BlockSteps rest = s;
        rest.right += vectors * s.right_tile, rest.columns = few;
        Few::multiply(rest, fetch, 0, add, results + vectors * chains.lanes.results);
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
