#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/portable/vectors.hpp"

#include <bit>
#include <utility>

namespace semoe::ops::cpu::portable {

/// Products of unsigned bytes in rows with signed ones in columns, of 16 bits: the even bytes',
/// then the odd ones'. Sums are of 32 bits in what the kernel carries as floats.
class ByteKernel final : public BlockKernel {
    using Shorts = std::int16_t __attribute__((vector_size(16)));
    using Ints = std::int32_t __attribute__((vector_size(16)));
    using Words = Vectors::Words;

    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        index_t const tiles = s.columns > 16 ? 2 : 1;
        // Asked of some of the sums only.
        int const fetched = tiles == 2 ? lines : 2 * lines;
        for (index_t tile = 0; tile < tiles; ++tile)
            for (index_t place = 0; place < 2; ++place) {
                char const* const right = s.right + tile * s.right_tile;
                float* const to = results + (2 * tile + place) * tile_floats;
                if (s.columns <= 4)
                    rows<4, 1>(s, s.left[place], right, fetch, fetched, add, to);
                else
                    rows<1, 4>(s, s.left[place], right, fetch, fetched, add, to);
            }
    }
    /// Sixteen rows, some at a time, by vectors of 4 columns.
    template <int Rows, int Vectors>
    static void rows(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                     int lines, bool add, float* results) {
        for (index_t r = 0; r < 16; r += Rows)
            sums<Vectors>(s, left + r * s.row_bytes, right, fetch, r == 0 ? lines : 0, add,
                          results + r * 16, std::make_integer_sequence<int, Rows * Vectors>{});
    }
    template <int Vectors, int... I>
    SEMOE_NOINLINE static void sums(BlockSteps const& s, char const* left, char const* right,
                                    Fetch& fetch, int lines, bool add, float* results,
                                    std::integer_sequence<int, I...>) {
        auto const at = [results](index_t i) {
            return results + i / Vectors * 16 + i % Vectors * 4;
        };
        Ints sum[] = {(add ? Ints(portable::Vectors::load_words(at(I))) : Ints{})...};
        for (index_t n = s.steps; n > 0; --n, left += s.step_bytes, right += tile_bytes) {
            fetch.some(lines);
            for (index_t i = 0; i < 16; ++i)
                ((sum[I] += products(left + index_t(I / Vectors) * s.row_bytes + i * 4,
                                     right + i * line_bytes + index_t(I % Vectors) * 16)),
                 ...);
        }
        (portable::Vectors::store_words(at(I), Words(sum[I])), ...);
    }
    /// A row's word by those of four columns.
    SEMOE_INLINE static Ints products(char const* row, char const* columns) {
        std::uint32_t bytes;
        std::memcpy(&bytes, row, sizeof(bytes));
        Words const words = portable::Vectors::load_words(columns);
        std::uint32_t const even = bytes & 0x00ff00ffu, odd = bytes >> 8 & 0x00ff00ffu;
        // The shifts bring even bytes to the upper halves, and back with their signs.
        return both(Shorts((words & 0x00ff00ffu) << 8) >> 8, even) + both(Shorts(words) >> 8, odd);
    }
    SEMOE_INLINE static Ints both(Shorts columns, std::uint32_t pair) {
        Ints const products = Ints(columns * Shorts(Words{pair, pair, pair, pair}));
        return (Ints(Words(products) << 16) >> 16) + (products >> 16);
    }
};

} // namespace semoe::ops::cpu::portable
