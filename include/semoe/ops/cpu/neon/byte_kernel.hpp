#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/byte_lines.hpp"

#if SEMOE_ARM
#include <utility>

namespace semoe::ops::cpu::neon {

// clang has its own word for what g++ calls an architecture.
#if defined(__clang__)
#define SEMOE_NEON_DOT SEMOE_TARGET("dotprod")
#else
#define SEMOE_NEON_DOT SEMOE_TARGET("arch=armv8.2-a+dotprod")
#endif

/// Products of unsigned bytes in rows with signed ones in columns. Rows are taken as signed, 128
/// smaller; what is missing is the same for all of them. Sums are of 32 bits in what the kernel
/// carries as floats.
/// @tparam Sums  rows(steps, left, right, fetch, lines, add, missing, results): sixteen rows by a
///               tile of columns
template <class Sums>
class ByteKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        index_t const tiles = s.columns > 16 ? 2 : 1;
        // Asked of some of the sums only.
        int const fetched = tiles == 2 ? lines : 2 * lines;
        for (index_t tile = 0; tile < tiles; ++tile) {
            char const* const right = s.right + tile * s.right_tile;
            std::int32_t missing[16];
            portable::offsets_of<Vectors>(right, s.steps, missing);
            for (index_t place = 0; place < 2; ++place)
                Sums::rows(s, s.left[place], right, fetch, fetched, add, missing,
                           results + (2 * tile + place) * tile_floats);
        }
    }
};

/// Sums of four columns and what is missing to results, or added to them.
SEMOE_INLINE void put_sums(int32x4_t sum, std::int32_t const* missing, bool add, float* to) {
    int32x4_t all = vaddq_s32(sum, vld1q_s32(missing));
    if (add) all = vaddq_s32(all, vreinterpretq_s32_u32(Vectors::load_words(to)));
    Vectors::store_words(to, vreinterpretq_u32_s32(all));
}

/// Sums of products of 16 bits, which two of 8 bits fit, as columns are 127 at most.
class LongSums {
public:
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, std::int32_t const* missing, float* results) {
        if (s.columns <= 4)
            some<8, 2>(s, left, right, fetch, lines, add, missing, results);
        else
            some<2, 8>(s, left, right, fetch, lines, add, missing, results);
    }

private:
    /// Some rows at a time by `Pairs` pairs of columns.
    template <index_t Rows, int Pairs>
    static void some(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, std::int32_t const* missing, float* results) {
        for (index_t r = 0; r < 16; r += Rows)
            sums<Pairs>(s, left + r * s.row_bytes, right, fetch, r == 0 ? lines : 0, add, missing,
                        results + r * 16, std::make_integer_sequence<int, int(Rows) * Pairs>{});
    }
    template <int Pairs, int... I>
    SEMOE_NOINLINE static void sums(BlockSteps const& s, char const* left, char const* right,
                                    Fetch& fetch, int lines, bool add, std::int32_t const* missing,
                                    float* results, std::integer_sequence<int, I...>) {
        // Both halves of two columns' words each.
        int32x4_t sum[] = {(void(I), vdupq_n_s32(0))...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            for (index_t i = 0; i < 16; i += 2)
                ((sum[I] = two_words(left + index_t(I / Pairs) * s.row_bytes + i * 4,
                                     right + i * line_bytes + index_t(I % Pairs) * 8, sum[I])),
                 ...);
        }
        for (index_t i = 0; i < index_t(sizeof...(I)); i += 2) {
            index_t const column = i % Pairs * 2;
            put_sums(vpaddq_s32(sum[i], sum[i + 1]), missing + column, add,
                     results + i / Pairs * 16 + column);
        }
    }
    /// A row's word and the next by those of two columns.
    SEMOE_INLINE static int32x4_t two_words(char const* row, char const* columns, int32x4_t sum) {
        int16x8_t const products = vmlal_s8(vmull_s8(signed_word(row), load_pair(columns)),
                                            signed_word(row + 4), load_pair(columns + line_bytes));
        return vpadalq_s16(sum, products);
    }
    SEMOE_INLINE static int8x8_t signed_word(char const* p) {
        std::uint32_t word;
        std::memcpy(&word, p, sizeof(word));
        return vreinterpret_s8_u32(vdup_n_u32(word ^ 0x80808080u));
    }
    SEMOE_INLINE static int8x8_t load_pair(char const* p) {
        return vld1_s8(reinterpret_cast<std::int8_t const*>(p));
    }
};

/// Sums of four products at once, by vectors of 4 columns.
class DotSums {
public:
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, std::int32_t const* missing, float* results) {
        if (s.columns <= 4)
            some<8, 1>(s, left, right, fetch, lines, add, missing, results);
        else if (s.columns <= 8)
            some<8, 2>(s, left, right, fetch, lines, add, missing, results);
        else
            some<4, 4>(s, left, right, fetch, lines, add, missing, results);
    }

private:
    template <int Rows, int Vectors>
    static void some(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, std::int32_t const* missing, float* results) {
        for (index_t r = 0; r < 16; r += Rows)
            sums<Vectors>(s, left + r * s.row_bytes, right, fetch, r == 0 ? lines : 0, add, missing,
                          results + r * 16, std::make_integer_sequence<int, Rows>{},
                          std::make_integer_sequence<int, Rows * Vectors>{});
    }
    template <int Vectors, int... R, int... I>
    SEMOE_NEON_DOT SEMOE_NOINLINE static void
    sums(BlockSteps const& s, char const* left, char const* right, Fetch& fetch, int lines,
         bool add, std::int32_t const* missing, float* results,
         std::integer_sequence<int, R...> rows, std::integer_sequence<int, I...> all) {
        int32x4_t sum[] = {(void(I), vdupq_n_s32(0))...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            for (index_t i = 0; i < 16; i += 4)
                four_words<Vectors>(left + i * 4, s.row_bytes, right + i * line_bytes, sum, rows,
                                    all);
        }
        (put_sums(sum[I], missing + I % Vectors * 4, add,
                  results + I / Vectors * 16 + I % Vectors * 4),
         ...);
    }
    /// The same four words of some rows.
    template <int Vectors, int... R, int... I>
    SEMOE_NEON_DOT SEMOE_INLINE static void
    four_words(char const* left, index_t row_bytes, char const* line,
               int32x4_t (&sum)[sizeof...(I)], std::integer_sequence<int, R...>,
               std::integer_sequence<int, I...>) {
        int8x16_t const row[] = {signed_words(left + R * row_bytes)...};
        ((sum[I] = dot<0>(sum[I], line, I % Vectors, row[I / Vectors])), ...);
        ((sum[I] = dot<1>(sum[I], line, I % Vectors, row[I / Vectors])), ...);
        ((sum[I] = dot<2>(sum[I], line, I % Vectors, row[I / Vectors])), ...);
        ((sum[I] = dot<3>(sum[I], line, I % Vectors, row[I / Vectors])), ...);
    }
    /// A word of a row by a vector of the line that it meets.
    template <int Word>
    SEMOE_NEON_DOT SEMOE_INLINE static int32x4_t dot(int32x4_t sum, char const* lines,
                                                     index_t vector, int8x16_t row) {
        int8x16_t const columns =
            vld1q_s8(reinterpret_cast<std::int8_t const*>(lines + Word * line_bytes + vector * 16));
        // Written out, since compilers offer the intrinsic under different conditions; in this
        // order, or lines of several words want more registers than there are.
        __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[%c3]"
                         : "+w"(sum)
                         : "w"(columns), "w"(row), "i"(Word));
        return sum;
    }
    SEMOE_INLINE static int8x16_t signed_words(char const* p) {
        return vreinterpretq_s8_u8(
            veorq_u8(vld1q_u8(reinterpret_cast<std::uint8_t const*>(p)), vdupq_n_u8(0x80)));
    }
};

} // namespace semoe::ops::cpu::neon
#endif
