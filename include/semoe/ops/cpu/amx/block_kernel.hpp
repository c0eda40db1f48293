#pragma once

#include "semoe/ops/cpu/amx/tiles.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::amx {

/// Products of bf16 by tiles: two of each operand, four of results.
/// @tparam Tiles  HardwareTiles or EmulatedTiles
template <class Tiles>
class TileKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        s.columns > 16 ? multiply<2>(s, fetch, lines, add, results)
                       : multiply<1>(s, fetch, lines, add, results);
    }
    template <int Columns>
    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        // A number of lines that the compiler knows keeps their addresses out of the way.
        switch (lines) {
        case 0:
            return steps<Columns, 0>(s, fetch, add, results);
        case 1:
            return steps<Columns, 1>(s, fetch, add, results);
        case 2:
            return steps<Columns, 2>(s, fetch, add, results);
        case 4:
            return steps<Columns, 4>(s, fetch, add, results);
        default:
            return steps<Columns, 8>(s, fetch, add, results);
        }
    }
    template <int Columns, int Lines>
    void steps(BlockSteps s, Fetch& shared_fetch, bool add, float* results) {
        Fetch fetch = shared_fetch;
        bool const second = s.rows > 16;
        if (add) {
            load<0>(results);
            load<1>(results);
            if constexpr (Columns == 2) load<2>(results);
            if constexpr (Columns == 2) load<3>(results);
        } else {
            tiles_.template zero<0>();
            tiles_.template zero<1>();
            tiles_.template zero<2>();
            tiles_.template zero<3>();
        }
        for (; s.steps > 0; --s.steps) {
            tiles_.template load<4>(s.left[0], s.row_bytes);
            fetch.some(Lines);
            tiles_.template load<6>(s.right, line_bytes);
            tiles_.template dot<0, 4, 6>();
            fetch.some(Lines);
            if (second) {
                tiles_.template load<5>(s.left[1], s.row_bytes);
                tiles_.template dot<1, 5, 6>();
            }
            fetch.some(Lines);
            if constexpr (Columns == 2) {
                tiles_.template load<7>(s.right + s.right_tile, line_bytes);
                tiles_.template dot<2, 4, 7>();
                fetch.some(Lines);
                if (second) tiles_.template dot<3, 5, 7>();
            } else {
                fetch.some(Lines);
            }
            s.left[0] += s.step_bytes;
            s.left[1] += s.step_bytes;
            s.right += tile_bytes;
        }
        store<0>(results);
        store<1>(results);
        if constexpr (Columns == 2) store<2>(results);
        if constexpr (Columns == 2) store<3>(results);
        shared_fetch = fetch;
    }
    template <int Tile>
    SEMOE_INLINE void load(float const* results) {
        tiles_.template load<Tile>(results + Tile * tile_floats, line_bytes);
    }
    template <int Tile>
    SEMOE_INLINE void store(float* results) {
        tiles_.template store<Tile>(results + Tile * tile_floats, line_bytes);
    }

    Tiles tiles_;
};

} // namespace semoe::ops::cpu::amx
#endif
