#pragma once

#include "semoe/ops/cpu/avx2/lines.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx2 {

/// How words of rows meet a line of the words of 16 columns: in `parts` passes, each of which takes
/// so many elements of a word as there is room for. An element's sum is one chain in order of the
/// depth.
struct FloatWords {
    static constexpr int parts = 1;
    template <int>
    SEMOE_AVX2 SEMOE_INLINE static __m256i row(__m256i words) {
        return words;
    }
    template <int>
    SEMOE_AVX2 SEMOE_INLINE static __m256i column(__m256i words) {
        return words;
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i a, __m256i b, __m256& sum) {
        sum = _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
    }
};
/// Words of two bf16 as floats, the even element first: the bits that floats of them have.
struct WidenedWords {
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_AVX2 SEMOE_INLINE static __m256i row(__m256i words) {
        return Part == 0 ? _mm256_slli_epi32(words, 16)
                         : _mm256_and_si256(words, _mm256_set1_epi32(int(0xffff0000u)));
    }
    template <int Part>
    SEMOE_AVX2 SEMOE_INLINE static __m256i column(__m256i words) {
        return row<Part>(words);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i a, __m256i b, __m256& sum) {
        FloatWords::add(a, b, sum);
    }
};
/// Words of four bytes, unsigned in rows and signed in columns, as products of 16 bits: the even
/// bytes', then the odd ones'. Sums are of 32 bits in what the kernel carries as floats.
struct ByteWords {
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_AVX2 SEMOE_INLINE static __m256i row(__m256i words) {
        return Part == 0 ? _mm256_and_si256(words, _mm256_set1_epi16(0xff))
                         : _mm256_srli_epi16(words, 8);
    }
    template <int Part>
    SEMOE_AVX2 SEMOE_INLINE static __m256i column(__m256i words) {
        return _mm256_srai_epi16(Part == 0 ? _mm256_slli_epi16(words, 8) : words, 8);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i a, __m256i b, __m256& sum) {
        sum = _mm256_castsi256_ps(
            _mm256_add_epi32(_mm256_castps_si256(sum), _mm256_madd_epi16(a, b)));
    }
};

SEMOE_AVX2 SEMOE_INLINE __m256i spread(char const* from) {
    int word;
    std::memcpy(&word, from, sizeof(word));
    return _mm256_set1_epi32(word);
}

/// Products of up to few_columns columns: rows become lanes, so that none are empty.
template <class Words>
class FewKernel final : public BlockKernel {
public:
    /// Sixteen rows.
    SEMOE_AVX2 SEMOE_NOINLINE static void multiply(BlockSteps const& s, char const* left,
                                                   Fetch& fetch, int lines, bool add,
                                                   float* results) {
        alignas(32) float sums[few_columns][16] = {};
        for (index_t m = 0; m < few_columns && add; ++m)
            for (index_t r = 0; r < 16; ++r) sums[m][r] = results[r * 16 + m];
        char const* right = s.right;
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            alignas(64) char words[tile_bytes];
            transpose_words(left, s.row_bytes, words);
            if (s.columns == 1) {
                chains<1>(words, right, sums[0]);
                continue;
            }
            chains<2>(words, right, sums[0]);
            if (s.columns > 2) chains<2>(words, right + 8, sums[2]);
        }
        if (!add) std::memset(results, 0, tile_bytes);
        for (index_t m = 0; m < few_columns; ++m)
            for (index_t r = 0; r < 16; ++r) results[r * 16 + m] = sums[m][r];
    }

private:
    /// One step of one or two columns by 16 rows, whose words are lanes.
    template <int Columns>
    SEMOE_AVX2 SEMOE_INLINE static void chains(char const* rows, char const* columns, float* sums) {
        __m256 s[4] = {_mm256_load_ps(sums), _mm256_load_ps(sums + 8)};
        if constexpr (Columns == 2)
            s[2] = _mm256_load_ps(sums + 16), s[3] = _mm256_load_ps(sums + 24);
        for (index_t i = 0; i < tile_bytes; i += line_bytes) {
            step<0, Columns>(rows + i, columns + i, s);
            if constexpr (Words::parts == 2) step<1, Columns>(rows + i, columns + i, s);
        }
        _mm256_store_ps(sums, s[0]), _mm256_store_ps(sums + 8, s[1]);
        if constexpr (Columns == 2)
            _mm256_store_ps(sums + 16, s[2]), _mm256_store_ps(sums + 24, s[3]);
    }
    template <int Part, int Columns>
    SEMOE_AVX2 SEMOE_INLINE static void step(char const* rows, char const* columns,
                                             __m256 (&s)[4]) {
        __m256i const low = Words::template row<Part>(load_half(rows));
        __m256i const high = Words::template row<Part>(load_half(rows + 32));
        __m256i const first = Words::template column<Part>(spread(columns));
        Words::add(low, first, s[0]);
        Words::add(high, first, s[1]);
        if constexpr (Columns == 2) {
            __m256i const second = Words::template column<Part>(spread(columns + 4));
            Words::add(low, second, s[2]);
            Words::add(high, second, s[3]);
        }
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        for (index_t place = 0; place < 2; ++place)
            multiply(s, s.left[place], fetch, 2 * lines, add, results + place * tile_floats);
    }
};

/// Products by vectors of 8 columns: as many chains as there are registers for.
template <class Words>
class VectorKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        // Asked of some of the chains only.
        int const fetched = s.columns > 16 ? lines : 2 * lines;
        for (index_t place = 0; place < 2; ++place) {
            char const* const left = s.left[place];
            float* const to = results + place * tile_floats;
            if (s.columns <= few_columns) {
                FewKernel<Words>::multiply(s, left, fetch, fetched, add, to);
                continue;
            }
            multiply(s, s.columns, left, s.right, fetch, fetched, add, to);
            if (s.columns > 16)
                multiply(s, s.columns - 16, left, s.right + s.right_tile, fetch, fetched, add,
                         to + 2 * tile_floats);
        }
    }
    /// Sixteen rows by up to sixteen columns.
    static void multiply(BlockSteps const& s, index_t columns, char const* left, char const* right,
                         Fetch& fetch, int lines, bool add, float* results) {
        if (columns > 8) {
            rows<2, 6>(s, 0, left, right, fetch, lines, add, results);
            rows<2, 5>(s, 6, left, right, fetch, 0, add, results);
            rows<2, 5>(s, 11, left, right, fetch, 0, add, results);
        } else {
            rows<1, 8>(s, 0, left, right, fetch, lines, add, results);
            rows<1, 8>(s, 8, left, right, fetch, 0, add, results);
        }
    }
    template <int Vectors, index_t Rows>
    static void rows(BlockSteps const& s, index_t first, char const* left, char const* right,
                     Fetch& fetch, int lines, bool add, float* results) {
        chains<Vectors>(s, left + first * s.row_bytes, right, fetch, lines, add,
                        results + first * 16, std::make_integer_sequence<index_t, Rows>{});
    }
    template <int Vectors, index_t... R>
    SEMOE_AVX2 SEMOE_NOINLINE static void
    chains(BlockSteps const& s, char const* left, char const* right, Fetch& fetch, int lines,
           bool add, float* results, std::integer_sequence<index_t, R...> all) {
        __m256 low[sizeof...(R)], high[sizeof...(R)];
        ((low[R] = add ? _mm256_load_ps(results + R * 16) : _mm256_setzero_ps()), ...);
        if constexpr (Vectors == 2)
            ((high[R] = add ? _mm256_load_ps(results + R * 16 + 8) : _mm256_setzero_ps()), ...);
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            pass<0, Vectors>(left, s.row_bytes, right, low, high, all);
            if constexpr (Words::parts == 2)
                pass<1, Vectors>(left, s.row_bytes, right, low, high, all);
        }
        (_mm256_store_ps(results + R * 16, low[R]), ...);
        if constexpr (Vectors == 2) (_mm256_store_ps(results + R * 16 + 8, high[R]), ...);
    }
    /// One pass over the words of a step. Each is a loop of its own, or the compiler keeps words
    /// for the next one in registers that sums need.
    template <int Part, int Vectors, index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void
    pass(char const* word, index_t row, char const* line, __m256 (&low)[sizeof...(R)],
         __m256 (&high)[sizeof...(R)], std::integer_sequence<index_t, R...>) {
        for (index_t i = 0; i < 16; ++i, word += 4, line += line_bytes)
            (step<Part, Vectors>(word + R * row, line, low[R], high[R]), ...);
    }
    /// A word of a row by a line of columns.
    template <int Part, int Vectors>
    SEMOE_AVX2 SEMOE_INLINE static void step(char const* word, char const* line, __m256& low,
                                             __m256& high) {
        __m256i const a = Words::template row<Part>(spread(word));
        Words::add(a, Words::template column<Part>(load_half(line)), low);
        if constexpr (Vectors == 2)
            Words::add(a, Words::template column<Part>(load_half(line + 32)), high);
    }
};

} // namespace semoe::ops::cpu::avx2
#endif
