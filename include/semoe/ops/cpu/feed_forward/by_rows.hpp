#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

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

/// Steps of rows that are widened or turned at a time, to stay near while all columns pass: in L1,
/// where one block of columns leaves room.
constexpr index_t prepared_steps(index_t columns) { return columns <= 32 ? 8 : 16; }

/// Bytes of scratch that multiply_by_rows works in.
template <class T>
constexpr index_t by_rows_scratch_bytes(TileForm form, index_t depth, index_t rows) {
    index_t const steps = form.prepares_rows<T>() ? prepared_steps(rows) : form.steps(depth);
    return (2 * steps + (rows + 31) / 32 * 4) * tile_bytes;
}

/// c(n, m) = sum over k of w(n, k) * x(m, k) for some panels: the bits of an element depend on its
/// row of w and its row of x alone.
/// @param x        tiles of words [blocks of 16 columns][steps][widths], in that form
/// @param rows     of x
/// @param next     weights to fetch when these have been read; may have no streams
/// @param scratch  by_rows_scratch_bytes(form, depth, rows), aligned to 64 bytes
/// @param finish   finish(panel, first block, blocks, results): what becomes of four tiles, those
///                 of both streams by the first block, then by the second
template <class T, class Finish>
void multiply_by_rows(TileForm form, BlockKernel& kernel, WeightRows<T> const& w,
                      index_t first_panel, index_t last_panel, char const* x, index_t rows,
                      WeightRows<T> const& next, char* scratch, Finish const& finish) {
    index_t const steps = form.steps(w.depth), pairs = (rows + 31) / 32;
    index_t const right_block = form.block_bytes(w.depth);
    bool const prepares = form.prepares_rows<T>();
    index_t const slab = prepares ? prepared_steps(rows) : steps;
    float* const results = reinterpret_cast<float*>(scratch + 2 * slab * tile_bytes);
    index_t const pair_results = slab < steps ? 4 * tile_floats : 0;
    int const all_lines = pairs == 1 ? 8 : pairs == 2 ? 4 : pairs < 8 ? 2 : 1;
    int const lines = form.widens_rows<T>() ? (all_lines + 1) / 2 : all_lines;
    for (index_t p = first_panel; p < last_panel; ++p) {
        bool const in_place = w.is_whole(p) && !prepares;
        bool const more = p + 1 < last_panel;
        void const* const upcoming[2] = {more ? w.panel(0, p + 1) : next.stream[0],
                                         more ? w.panel(1, p + 1) : next.stream[1]};
        index_t const upcoming_bytes = (more ? w : next).row_bytes();
        Fetch fetch(Fetch::parts(form.isa, rows), upcoming, tile_rows, upcoming_bytes,
                    upcoming_bytes);
        for (index_t first = 0; first < steps; first += slab) {
            index_t const n = min(slab, steps - first), k = first * form.step;
            char const* left[2];
            for (int s = 0; s < 2; ++s) {
                T const* const from = w.panel(s, p) + k;
                left[s] = in_place ? reinterpret_cast<char const*>(from)
                                   : scratch + s * slab * tile_bytes;
                if (!in_place)
                    tile_left(form,
                              HostRows<T>{from, w.depth, w.panel_rows(s, p),
                                          min(n * form.step, w.depth - k)},
                              scratch + s * slab * tile_bytes);
            }
            for (index_t c = 0; c < pairs; ++c) {
                float* const to = results + c * pair_results;
                BlockSteps const block{{left[0], left[1]},
                                       in_place ? w.row_bytes() : line_bytes,
                                       in_place ? line_bytes : tile_bytes,
                                       x + 2 * c * right_block + first * form.widths * tile_bytes,
                                       right_block,
                                       n,
                                       rows - 32 * c,
                                       first + n == steps};
                kernel.multiply(block, fetch, lines, first > 0, to);
                if (first + n == steps)
                    finish(p, 2 * c, min(blocks_of_16(rows) - 2 * c, index_t(2)), to);
            }
        }
    }
}

} // namespace semoe::ops::cpu
