#pragma once

#include "semoe/ops/cpu/feed_forward/vector_kernel.hpp"
#include "semoe/ops/cpu/portable/lines.hpp"

#include <bit>
#include <utility>

namespace semoe::ops::cpu::portable {

/// What words of rows are multiplied as, each by `parts` lines of columns. An element's sum is one
/// chain in order of the depth.
template <class V>
struct FloatWords {
    using Vectors = V;
    static constexpr int parts = 1;
    template <int>
    SEMOE_INLINE static typename V::Floats lanes(typename V::Words words) {
        return V::as_floats(words);
    }
};
/// Words of two bf16 by columns of floats, the even element first: the bits that floats of them
/// have.
template <class V>
struct WidenedWords {
    using Vectors = V;
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_INLINE static typename V::Floats lanes(typename V::Words words) {
        return V::as_floats(Part == 0 ? words << 16 : words >> 16 << 16);
    }
};

/// Products of few columns: rows become lanes, so that none are empty.
template <class Words>
class FewKernel final : public BlockKernel {
    using V = typename Words::Vectors;
    using Floats = typename V::Floats;

public:
    static constexpr index_t most_columns = few_columns(Isa::portable);

    static void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        if (!add) std::memset(results, 0, 2 * tile_bytes);
        float sums[most_columns][32];
        for (index_t m = 0; m < most_columns; ++m)
            for (index_t r = 0; r < 32; ++r) sums[m][r] = results[r * 16 + m];
        char words[2 * tile_bytes];
        char const* right = s.right;
        for (index_t i = 0; i < s.steps; ++i, right += 16 * Words::parts * s.word_line) {
            fetch.some(4 * lines);
            for (index_t place = 0; place < 2; ++place)
                transpose_words<V>(s.left[place] + i * s.step_bytes, s.row_bytes,
                                   words + place * tile_bytes);
            if (s.columns == 1)
                step_of<1>(words, right, s.word_line, sums[0]);
            else if (s.columns == 2)
                step_of<2>(words, right, s.word_line, sums[0]);
            else
                step_of<4>(words, right, s.word_line, sums[0]);
        }
        for (index_t m = 0; m < most_columns; ++m)
            for (index_t r = 0; r < 32; ++r) results[r * 16 + m] = sums[m][r];
    }

private:
    /// One step of 32 rows by some columns, as many chains at a time as there are registers for.
    template <int Columns>
    static void step_of(char const* words, char const* columns, index_t line, float* sums) {
        constexpr int vectors = min(8, int(std::bit_floor(unsigned(V::registers / Columns))));
        for (index_t v = 0; v < 8; v += vectors)
            chains<vectors>(words + v / 4 * tile_bytes + v % 4 * 16, columns, line, sums + v * 4,
                            std::make_integer_sequence<int, vectors * Columns>{});
    }
    /// Some columns by 4 rows a vector, whose words are lanes.
    template <int Vectors, int... I>
    static void chains(char const* rows, char const* columns, index_t line, float* sums,
                       std::integer_sequence<int, I...>) {
        auto const at = [sums](index_t i) { return sums + i / Vectors * 32 + i % Vectors * 4; };
        Floats s[] = {V::load(at(I))...};
        for (index_t i = 0; i < 16; ++i, rows += line_bytes, columns += line) {
            (step<0, Vectors, I>(rows, columns, s[I]), ...);
            if constexpr (Words::parts == 2) {
                columns += line;
                (step<1, Vectors, I>(rows, columns, s[I]), ...);
            }
        }
        (V::store(at(I), s[I]), ...);
    }
    template <int Part, int Vectors, int I>
    SEMOE_INLINE static void step(char const* rows, char const* columns, Floats& sum) {
        constexpr index_t vector = I % Vectors, m = I / Vectors;
        float column;
        std::memcpy(&column, columns + m * 4, sizeof(column));
        sum = V::multiply_add(sum,
                              Words::template lanes<Part>(
                                  V::load_words(rows + vector / 4 * tile_bytes + vector % 4 * 16)),
                              column);
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        multiply(s, fetch, lines, add, results);
    }
};

/// Products of floats by vectors of 4 columns.
template <class V>
struct FloatChains {
    static constexpr int lanes = 4, registers = V::registers;

    template <int Vectors, index_t Rows>
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, float* results) {
        chains<Vectors>(s, left, right, fetch, lines, add, results,
                        std::make_integer_sequence<int, Vectors* int(Rows)>{});
    }

private:
    template <int Vectors, int... I>
    SEMOE_NOINLINE static void chains(BlockSteps const& s, char const* left, char const* right,
                                      Fetch& fetch, int lines, bool add, float* results,
                                      std::integer_sequence<int, I...>) {
        auto const at = [results](index_t i) {
            return results + i / Vectors * 16 + i % Vectors * 4;
        };
        typename V::Floats sum[] = {(add ? V::load(at(I)) : typename V::Floats{})...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            auto const* word = reinterpret_cast<float const*>(left);
            auto const* line = reinterpret_cast<float const*>(right);
            index_t const row = s.row_bytes / 4;
            for (index_t i = s.words(n); i > 0; --i, ++word, line += 16)
                ((sum[I] = V::multiply_add(sum[I], V::load(line + index_t(I % Vectors) * 4),
                                           word[index_t(I / Vectors) * row])),
                 ...);
        }
        (V::store(at(I), sum[I]), ...);
    }
};
template <class V>
using FloatKernel = VectorKernel<FewKernel<FloatWords<V>>, FloatChains<V>>;

} // namespace semoe::ops::cpu::portable
