#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/byte_lines.hpp"

#if SEMOE_ARM
#include <utility>

namespace semoe::ops::cpu::neon {

/// Products of unsigned bytes in rows with signed ones in columns, of 127 at most. Rows are taken
/// as signed, 128 smaller: two products of 8 bits then fit 16, and what is missing is the same for
/// all rows. Sums are of 32 bits in what the kernel carries as floats.
class ByteKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        index_t const tiles = s.columns > 16 ? 2 : 1;
        // Asked of some of the sums only.
        int const fetched = tiles == 2 ? lines : 2 * lines;
        for (index_t tile = 0; tile < tiles; ++tile) {
            char const* const right = s.right + tile * s.right_tile;
            std::int32_t missing[16];
            portable::offsets_of<Vectors>(right, s.steps, missing);
            for (index_t place = 0; place < 2; ++place) {
                auto* const to = results + (2 * tile + place) * tile_floats;
                if (s.columns <= 4)
                    rows<8, 2>(s, s.left[place], right, fetch, fetched, add, missing, to);
                else
                    rows<2, 8>(s, s.left[place], right, fetch, fetched, add, missing, to);
            }
        }
    }
    /// Sixteen rows, some at a time, by `Pairs` pairs of columns.
    template <index_t Rows, int Pairs>
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
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
            float* const to = results + i / Pairs * 16 + column;
            int32x4_t all = vaddq_s32(vpaddq_s32(sum[i], sum[i + 1]), vld1q_s32(missing + column));
            if (add) all = vaddq_s32(all, vreinterpretq_s32_u32(Vectors::load_words(to)));
            Vectors::store_words(to, vreinterpretq_u32_s32(all));
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

} // namespace semoe::ops::cpu::neon
#endif
