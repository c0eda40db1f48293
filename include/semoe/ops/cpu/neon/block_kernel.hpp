#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/neon/lines.hpp"

#if SEMOE_ARM
#include <bit>

namespace semoe::ops::cpu::neon {

/// What words of rows and columns are multiplied as, in `parts` passes. An element's sum is one
/// chain in order of the depth.
struct FloatWords {
    static constexpr int parts = 1;
    template <int>
    SEMOE_INLINE static float32x4_t lanes(uint32x4_t words) {
        return vreinterpretq_f32_u32(words);
    }
    template <int>
    SEMOE_INLINE static float one(std::uint32_t word) {
        return std::bit_cast<float>(word);
    }
};
/// Words of two bf16 as floats, the even element first: the bits that floats of them have.
struct WidenedWords {
    static constexpr int parts = 2;
    template <int Part>
    SEMOE_INLINE static float32x4_t lanes(uint32x4_t words) {
        return vreinterpretq_f32_u32(Part == 0 ? vshlq_n_u32(words, 16)
                                               : vandq_u32(words, vdupq_n_u32(0xffff0000u)));
    }
    template <int Part>
    SEMOE_INLINE static float one(std::uint32_t word) {
        return std::bit_cast<float>(Part == 0 ? word << 16 : word & 0xffff0000u);
    }
};

/// Products of up to few_columns columns: rows become lanes, so that none are empty.
template <class Words>
class FewKernel final : public BlockKernel {
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
                transpose_words(s.left[place] + i * s.step_bytes, s.row_bytes,
                                words + place * tile_bytes);
            if (s.columns == 1) {
                chains<8, 1>(words, right, sums[0]);
            } else if (s.columns == 2) {
                chains<8, 2>(words, right, sums[0]);
            } else {
                chains<4, 4>(words, right, sums[0]);
                chains<4, 4>(words + tile_bytes, right, sums[0] + 16);
            }
        }
        for (index_t m = 0; m < few_columns; ++m)
            for (index_t r = 0; r < 32; ++r) results[r * 16 + m] = sums[m][r];
    }

private:
    template <int Vectors, int Columns>
    static void chains(char const* rows, char const* columns, float* sums) {
        chains<Vectors>(rows, columns, sums, std::make_integer_sequence<int, Vectors * Columns>{});
    }
    /// One step of some columns by 4 rows a vector, whose words are lanes.
    template <int Vectors, int... I>
    static void chains(char const* rows, char const* columns, float* sums,
                       std::integer_sequence<int, I...>) {
        auto const at = [sums](index_t i) { return sums + i / Vectors * 32 + i % Vectors * 4; };
        float32x4_t s[] = {NeonKernels::load(at(I))...};
        for (index_t i = 0; i < 16; ++i, rows += line_bytes, columns += line_bytes) {
            (step<0, Vectors, I>(rows, columns, s[I]), ...);
            if constexpr (Words::parts == 2) (step<1, Vectors, I>(rows, columns, s[I]), ...);
        }
        (NeonKernels::store(at(I), s[I]), ...);
    }
    template <int Part, int Vectors, int I>
    SEMOE_INLINE static void step(char const* rows, char const* columns, float32x4_t& sum) {
        constexpr index_t vector = I % Vectors, m = I / Vectors;
        std::uint32_t column;
        std::memcpy(&column, columns + m * 4, sizeof(column));
        sum = vfmaq_n_f32(sum,
                          Words::template lanes<Part>(
                              load_words(rows + vector / 4 * tile_bytes + vector % 4 * 16)),
                          Words::template one<Part>(column));
    }

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        multiply(s, fetch, lines, add, results);
    }
};

/// Products of floats by vectors of 4 columns: as many chains as there are registers for.
class VectorKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= few_columns)
            return FewKernel<FloatWords>::multiply(s, fetch, lines, add, results);
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
        if (columns > 8) {
            rows<4, 6>(s, 0, left, right, fetch, lines, add, results);
            rows<4, 5>(s, 6, left, right, fetch, 0, add, results);
            rows<4, 5>(s, 11, left, right, fetch, 0, add, results);
        } else {
            rows<2, 8>(s, 0, left, right, fetch, lines, add, results);
            rows<2, 8>(s, 8, left, right, fetch, 0, add, results);
        }
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
        float32x4_t sum[] = {(add ? NeonKernels::load(at(I)) : vdupq_n_f32(0))...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            auto const* word = reinterpret_cast<float const*>(left);
            auto const* line = reinterpret_cast<float const*>(right);
            index_t const row = s.row_bytes / 4;
            for (index_t i = 0; i < 16; ++i, ++word, line += 16)
                ((sum[I] = vfmaq_n_f32(sum[I], NeonKernels::load(line + index_t(I % Vectors) * 4),
                                       word[index_t(I / Vectors) * row])),
                 ...);
        }
        (NeonKernels::store(at(I), sum[I]), ...);
    }
};

} // namespace semoe::ops::cpu::neon
#endif
