#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

#if SEMOE_X86
#include <cstring>

namespace semoe::ops::cpu {

/// The rows of a weight matrix as a product takes them: panels of 32, sixteen from each of two
/// streams. They are read where they lie, row after row, as the left operand; nothing is packed.
template <class T>
struct WeightRows {
    T const* stream[2] = {}; ///< first rows of the streams
    index_t depth = 0;       ///< elements of a row, which follow one another
    index_t rows[2] = {};    ///< rows in each stream, counted from its first
    index_t advance = 32;    ///< rows from one panel to the next, in both streams

    /// All rows of one matrix [N,K].
    static WeightRows of(T const* w, index_t n, index_t k) {
        return {{w, w + tile_rows * k}, k, {n, n - tile_rows}, 2 * tile_rows};
    }
    /// Two matrices [N,K] beside each other, the second right after the first.
    static WeightRows of_two(T const* w, index_t n, index_t k) {
        return {{w, w + n * k}, k, {n, n}, tile_rows};
    }
    index_t row_bytes() const { return depth * index_t(sizeof(T)); }
    index_t panels() const { return (rows[0] + advance - 1) / advance; }
    T const* panel(int s, index_t p) const { return stream[s] + p * advance * depth; }
    index_t panel_rows(int s, index_t p) const {
        return max(index_t(0), min(rows[s] - p * advance, tile_rows));
    }
    /// Whether whole tiles may be read from where the panel lies: they read nothing beyond it.
    bool is_whole(index_t p) const {
        return depth % step_depth<T> == 0 && panel_rows(0, p) == tile_rows &&
               panel_rows(1, p) == tile_rows;
    }
    /// The same rows from panel p on.
    WeightRows from(index_t p) const {
        WeightRows rest = *this;
        for (int s = 0; s < 2; ++s) {
            rest.stream[s] = stream[s] ? panel(s, p) : nullptr;
            rest.rows[s] -= p * advance;
        }
        return rest;
    }
};

/// Bytes of scratch that multiply_by_rows works in.
template <class T>
constexpr index_t by_rows_scratch_bytes(index_t depth) {
    return 2 * steps_of<T>(depth) * tile_bytes;
}

/// c(n, m) = sum over k of w(n, k) * x(m, k) for some panels: the bits of an element depend on its
/// row of w and its row of x alone.
/// @param x        tiles of words [blocks of 16 columns][steps]
/// @param rows     of x
/// @param next     weights to fetch when these have been read; may have no streams
/// @param scratch  by_rows_scratch_bytes(depth), for panels that are not whole
/// @param finish   finish(panel, first block, blocks, results): what becomes of four tiles, those
/// of
///                 both streams by the first block, then by the second
template <class T, class Finish>
void multiply_by_rows(BlockKernel& kernel, WeightRows<T> const& w, index_t first_panel,
                      index_t last_panel, char const* x, index_t rows, WeightRows<T> const& next,
                      char* scratch, Finish const& finish) {
    alignas(64) float results[4 * tile_floats];
    index_t const steps = steps_of<T>(w.depth), pairs = (rows + 31) / 32;
    index_t const right_block = steps * tile_bytes;
    int const lines = pairs == 1 ? 8 : pairs == 2 ? 4 : pairs < 8 ? 2 : 1;
    for (index_t p = first_panel; p < last_panel; ++p) {
        bool const whole = w.is_whole(p);
        char const* left[2];
        for (int s = 0; s < 2; ++s) {
            left[s] = reinterpret_cast<char const*>(w.panel(s, p));
            if (whole) continue;
            tile_rows_of(HostRows<T>{w.panel(s, p), w.depth, w.panel_rows(s, p), w.depth},
                         scratch + s * right_block);
            left[s] = scratch + s * right_block;
        }
        index_t const row_bytes = whole ? w.row_bytes() : line_bytes;
        index_t const step_bytes = whole ? line_bytes : tile_bytes;
        bool const more = p + 1 < last_panel;
        void const* const upcoming[2] = {more ? w.panel(0, p + 1) : next.stream[0],
                                         more ? w.panel(1, p + 1) : next.stream[1]};
        index_t const upcoming_bytes = (more ? w : next).row_bytes();
        Fetch fetch(upcoming, tile_rows, upcoming_bytes, upcoming_bytes);
        for (index_t c = 0; c < pairs; ++c) {
            BlockSteps const block{
                {left[0], left[1]}, row_bytes, step_bytes,   x + c * 2 * right_block,
                right_block,        steps,     rows - 32 * c};
            kernel.multiply(block, fetch, lines, false, results);
            finish(p, 2 * c, min(blocks_of_16(rows) - 2 * c, index_t(2)), results);
        }
    }
}

} // namespace semoe::ops::cpu
#endif
