#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/portable/lines.hpp"

#include <bit>
#include <utility>

namespace semoe::ops::cpu::portable {

/// What words of rows and columns are multiplied as, in `parts` passes. An element's sum is one
/// chain in order of the depth.
template <class V>
struct FloatWords {
    using Vectors = V;
    static constexpr int parts = 1;
    template <int>
    SEMOE_INLINE static typename V::Floats lanes(typename V::Words words) {
        return V::as_floats(words);
    }
    template <int>
    SEMOE_INLINE static float one(std::uint32_t word) {
        return std::bit_cast<float>(word);
    }
};
/// Words of two bf16 as floats, the even element first: the bits that floats of them have.
template <class V>
struct WidenedWords {
    using Vectors = V;
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_INLINE static typename V::Floats lanes(typename V::Words words) {
        return V::as_floats(Part == 0 ? words << 16 : words >> 16 << 16);
    }
    template <int Part>
    SEMOE_INLINE static float one(std::uint32_t word) {
        return std::bit_cast<float>(Part == 0 ? word << 16 : word & 0xffff0000u);
    }
};

/// Products of up to few_columns columns: rows become lanes, so that none are empty.
template <class Words>
class FewKernel final : public BlockKernel {
    using V = typename Words::Vectors;
    using Floats = typename V::Floats;

public:
    static void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        if (!add) std::memset(results, 0, 2 * tile_bytes);
        float sums[few_columns][32];
        for (index_t m = 0; m < few_columns; ++m)
            for (index_t r = 0; r < 32; ++r) sums[m][r] = results[r * 16 + m];
        char words[2 * tile_bytes];
        char const* right = s.right;
        for (index_t i = 0; i < s.steps; ++i, right += tile_bytes) {
            fetch.some(4 * lines);
            for (index_t place = 0; place < 2; ++place)
                transpose_words<V>(s.left[place] + i * s.step_bytes, s.row_bytes,
                                   words + place * tile_bytes);
            if (s.columns == 1)
                step_of<1>(words, right, sums[0]);
            else if (s.columns == 2)
                step_of<2>(words, right, sums[0]);
            else
                step_of<4>(words, right, sums[0]);
        }
        for (index_t m = 0; m < few_columns; ++m)
            for (index_t r = 0; r < 32; ++r) results[r * 16 + m] = sums[m][r];
    }

private:
    /// One step of 32 rows by some columns, as many chains at a time as there are registers for.
    template <int Columns>
    static void step_of(char const* words, char const* columns, float* sums) {
        constexpr int vectors = min(8, int(std::bit_floor(unsigned(V::registers / Columns))));
        for (index_t v = 0; v < 8; v += vectors)
            chains<vectors>(words + v / 4 * tile_bytes + v % 4 * 16, columns, sums + v * 4,
                            std::make_integer_sequence<int, vectors * Columns>{});
    }
    /// Some columns by 4 rows a vector, whose words are lanes.
    template <int Vectors, int... I>
    static void chains(char const* rows, char const* columns, float* sums,
                       std::integer_sequence<int, I...>) {
        auto const at = [sums](index_t i) { return sums + i / Vectors * 32 + i % Vectors * 4; };
        Floats s[] = {V::load(at(I))...};
        for (index_t i = 0; i < 16; ++i, rows += line_bytes, columns += line_bytes) {
            (step<0, Vectors, I>(rows, columns, s[I]), ...);
            if constexpr (Words::parts == 2) (step<1, Vectors, I>(rows, columns, s[I]), ...);
        }
        (V::store(at(I), s[I]), ...);
    }
    template <int Part, int Vectors, int I>
    SEMOE_INLINE static void step(char const* rows, char const* columns, Floats& sum) {
        constexpr index_t vector = I % Vectors, m = I / Vectors;
        std::uint32_t column;
        std::memcpy(&column, columns + m * 4, sizeof(column));
        sum = V::multiply_add(sum,
                              Words::template lanes<Part>(
                                  V::load_words(rows + vector / 4 * tile_bytes + vector % 4 * 16)),
                              Words::template one<Part>(column));
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        multiply(s, fetch, lines, add, results);
    }
};

/// Products of floats by vectors of 4 columns: as many chains as there are registers for.
template <class V>
class VectorKernel final : public BlockKernel {
    using Floats = typename V::Floats;

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= few_columns)
            return FewKernel<FloatWords<V>>::multiply(s, fetch, lines, add, results);
        // Asked of some of the chains only.
        int const fetched = s.columns > 16 ? lines : 2 * lines;
        for (index_t place = 0; place < 2; ++place) {
            char const* const left = s.left[place];
            float* const to = results + place * tile_floats;
            multiply(s, s.columns, left, s.right, fetch, fetched, add, to);
            if (s.columns > 16)
                multiply(s, s.columns - 16, left, s.right + s.right_tile, fetch, fetched, add,
                         to + 2 * tile_floats);
        }
    }
    /// Sixteen rows by up to sixteen columns.
    static void multiply(BlockSteps const& s, index_t columns, char const* left, char const* right,
                         Fetch& fetch, int lines, bool add, float* results) {
        if (columns > 8)
            passes<4>(s, left, right, fetch, lines, add, results);
        else
            passes<2>(s, left, right, fetch, lines, add, results);
    }
    template <int Vectors>
    static void passes(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                       int lines, bool add, float* results) {
        constexpr int most = V::registers / Vectors, n = (16 + most - 1) / most;
        [&]<int... P>(std::integer_sequence<int, P...>) {
            (rows<Vectors, 16 * (P + 1) / n - 16 * P / n>(s, 16 * P / n, left, right, fetch,
                                                          P == 0 ? lines : 0, add, results),
             ...);
        }
        (std::make_integer_sequence<int, n>{});
    }
    template <int Vectors, int Rows>
    static void rows(BlockSteps const& s, index_t first, char const* left, char const* right,
                     Fetch& fetch, int lines, bool add, float* results) {
        chains<Vectors>(s, left + first * s.row_bytes, right, fetch, lines, add,
                        results + first * 16, std::make_integer_sequence<int, Vectors * Rows>{});
    }
    template <int Vectors, int... I>
    SEMOE_NOINLINE static void chains(BlockSteps const& s, char const* left, char const* right,
                                      Fetch& fetch, int lines, bool add, float* results,
                                      std::integer_sequence<int, I...>) {
        auto const at = [results](index_t i) {
            return results + i / Vectors * 16 + i % Vectors * 4;
        };
        Floats sum[] = {(add ? V::load(at(I)) : Floats{})...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            auto const* word = reinterpret_cast<float const*>(left);
            auto const* line = reinterpret_cast<float const*>(right);
            index_t const row = s.row_bytes / 4;
            for (index_t i = 0; i < 16; ++i, ++word, line += 16)
                ((sum[I] = V::multiply_add(sum[I], V::load(line + index_t(I % Vectors) * 4),
                                           word[index_t(I / Vectors) * row])),
                 ...);
        }
        (V::store(at(I), sum[I]), ...);
    }
};

} // namespace semoe::ops::cpu::portable
