#pragma once

#include "semoe/ops/cpu/avx2/lines.hpp"
#include "semoe/ops/cpu/feed_forward/vector_kernel.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx2 {

/// How words of rows meet `parts` lines of 16 columns, each of which takes so many elements of a
/// word as there is room for. An element's sum is one chain in order of the depth.
struct FloatWords {
    static constexpr int parts = 1;
    template <int>
    SEMOE_AVX2 SEMOE_INLINE static __m256i row(__m256i words) {
        return words;
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i a, __m256i b, __m256& sum) {
        sum = _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
    }
};
/// Words of two bf16 by columns of floats, the even element first: the bits that floats of them
/// have.
struct WidenedWords {
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_AVX2 SEMOE_INLINE static __m256i row(__m256i words) {
        return Part == 0 ? _mm256_slli_epi32(words, 16)
                         : _mm256_and_si256(words, _mm256_set1_epi32(int(0xffff0000u)));
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i a, __m256i b, __m256& sum) {
        FloatWords::add(a, b, sum);
    }
};

/// Products of few columns: rows become lanes, so that none are empty.
template <class Words>
class FewKernel final : public BlockKernel {
public:
    static constexpr index_t most_columns = few_columns(Isa::avx2);

    SEMOE_AVX2 SEMOE_NOINLINE static void multiply(BlockSteps const& s, Fetch& fetch, int lines,
                                                   bool add, float* results) {
        if (!add) std::memset(results, 0, std::size_t(s.columns > 16 ? 4 : 2) * tile_bytes);
        alignas(32) float sums[most_columns][32];
        index_t const columns = (s.columns + 3) / 4 * 4;
        for (index_t m = 0; m < columns; ++m)
            for (index_t r = 0; r < 32; ++r) sums[m][r] = results[place_of(r, m)];
        alignas(64) char words[slab * 2 * tile_bytes];
        char const* right = s.right;
        // Some all the time: of many lines that are asked for at once Zen 3 forgets a part.
        index_t const asking = min(columns, index_t(8));
        int const quarters = s.columns > 2 ? int(asking) * 2 : 4;
        int const a_quarter = 2 * lines / quarters;
        int const when_turning = lines - a_quarter * quarters / 4;
        for (index_t first = 0; first < s.steps; first += slab) {
            index_t const steps = min(slab, s.steps - first);
            for (index_t rows = 0; rows < 32; rows += 8)
                transpose(s, first, steps, rows, fetch, when_turning, words);
            for (index_t i = 0; i < steps; ++i, right += 16 * Words::parts * s.word_line) {
                char const* const tiles = words + i * 2 * tile_bytes;
                if (s.columns == 1) {
                    chains<4, 1>(tiles, right, s.word_line, fetch, a_quarter, sums[0]);
                } else if (s.columns == 2) {
                    chains<4, 2>(tiles, right, s.word_line, fetch, a_quarter, sums[0]);
                } else {
                    for (index_t m = 0; m < columns; m += 4)
                        for (index_t place = 0; place < 2; ++place)
                            chains<2, 4>(tiles + place * tile_bytes,
                                         right + m / 16 * s.right_tile + m % 16 * 4, s.word_line,
                                         fetch, m < asking ? a_quarter : 0, sums[m] + place * 16);
                }
            }
        }
        for (index_t m = 0; m < columns; ++m)
            for (index_t r = 0; r < 32; ++r) results[place_of(r, m)] = sums[m][r];
    }

private:
    /// In tiles of results.
    static constexpr index_t place_of(index_t row, index_t column) {
        return column / 16 * 2 * tile_floats + row * 16 + column % 16;
    }
    /// Steps at a time. Rows may lie a page apart, and of those L1 holds no more than eight: lines
    /// of each in turn, so that none is read twice.
    static constexpr index_t slab = 4;

    /// Eight of the 32 rows to tiles of words [steps][2].
    SEMOE_AVX2 SEMOE_INLINE static void transpose(BlockSteps const& s, index_t first, index_t steps,
                                                  index_t rows, Fetch& fetch, int lines,
                                                  char* tiles) {
        char const* from = s.left[rows / 16] + rows % 16 * s.row_bytes + first * s.step_bytes;
        char* to = tiles + rows / 16 * tile_bytes + rows % 16 * 4;
        for (index_t i = 0; i < steps; ++i, from += s.step_bytes, to += 2 * tile_bytes) {
            fetch.some(lines);
            for (index_t words = 0; words < 4; ++words)
                transpose_four(from + 16 * words, s.row_bytes, to + 4 * words * line_bytes);
        }
    }
    template <int Vectors, int Columns>
    SEMOE_AVX2 SEMOE_INLINE static void chains(char const* rows, char const* columns, index_t line,
                                               Fetch& fetch, int lines, float* sums) {
        chains<Vectors>(rows, columns, line, fetch, lines, sums,
                        std::make_integer_sequence<int, Vectors * Columns>{});
    }
    /// One step of some columns by 8 rows a vector, whose words are lanes.
    /// @param lines  to fetch in each quarter of the step
    template <int Vectors, int... I>
    SEMOE_AVX2 SEMOE_INLINE static void chains(char const* rows, char const* columns, index_t line,
                                               Fetch& fetch, int lines, float* sums,
                                               std::integer_sequence<int, I...>) {
        auto const at = [sums](index_t i) { return sums + i / Vectors * 32 + i % Vectors * 8; };
        __m256 s[] = {_mm256_load_ps(at(I))...};
        for (index_t i = 0; i < 16; ++i, rows += line_bytes, columns += line) {
            if (i % 4 == 0) fetch.some(lines);
            (step<0, Vectors, I>(rows, columns, s[I]), ...);
            if constexpr (Words::parts == 2) {
                columns += line;
                // Four vectors are read again: they have no room beside eight sums.
                if constexpr (Vectors == 4) __asm__("" : "+r"(rows));
                (step<1, Vectors, I>(rows, columns, s[I]), ...);
            }
        }
        (_mm256_store_ps(at(I), s[I]), ...);
    }
    template <int Part, int Vectors, int I>
    SEMOE_AVX2 SEMOE_INLINE static void step(char const* rows, char const* columns, __m256& sum) {
        constexpr index_t vector = I % Vectors, column = I / Vectors;
        Words::add(
            Words::template row<Part>(load_half(rows + vector / 2 * tile_bytes + vector % 2 * 32)),
            spread(columns + column * 4), sum);
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        multiply(s, fetch, lines, add, results);
    }
};

/// Products by vectors of 8 columns.
template <class Words>
struct Chains {
    static_assert(Words::parts == 1);
    static constexpr int lanes = 8, registers = 12;

    template <int Vectors, index_t Rows>
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, float* results) {
        chains<Vectors>(s, left, right, fetch, lines, add, results,
                        std::make_integer_sequence<index_t, Rows>{});
    }

private:
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
            words<Vectors>(left, s.row_bytes, right, s.words(n), low, high, all);
        }
        (_mm256_store_ps(results + R * 16, low[R]), ...);
        if constexpr (Vectors == 2) (_mm256_store_ps(results + R * 16 + 8, high[R]), ...);
    }
    /// The first n words of a step.
    template <int Vectors, index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void
    words(char const* word, index_t row, char const* line, index_t n, __m256 (&low)[sizeof...(R)],
          __m256 (&high)[sizeof...(R)], std::integer_sequence<index_t, R...>) {
        for (; n > 0; --n, word += 4, line += line_bytes)
            (step<Vectors>(word + R * row, line, low[R], high[R]), ...);
    }
    /// A word of a row by a line of columns.
    template <int Vectors>
    SEMOE_AVX2 SEMOE_INLINE static void step(char const* word, char const* line, __m256& low,
                                             __m256& high) {
        __m256i const a = spread(word);
        Words::add(a, load_half(line), low);
        if constexpr (Vectors == 2) Words::add(a, load_half(line + 32), high);
    }
};
using FloatKernel = VectorKernel<FewKernel<FloatWords>, Chains<FloatWords>>;

} // namespace semoe::ops::cpu::avx2
#endif
