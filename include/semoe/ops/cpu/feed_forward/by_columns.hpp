#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

namespace semoe::ops::cpu {

/// A weight matrix [depth, cols] whose rows are the depth of a product.
template <class T>
struct WeightColumns {
    T const* first = nullptr;
    index_t ld = 0, depth = 0, cols = 0;
};

/// How a product goes through such a matrix: panels of columns, each in slabs of the depth. A
/// slab's lines become words on the way; slab, the lines fetched for the next and all sums of a
/// panel stay in L2. The fewer rows, the wider panels may be, up to whole rows, which memory gives
/// fastest.
template <class T>
struct ColumnPanels {
    static constexpr index_t sums_bytes = 256 << 10, slab_bytes = 128 << 10;

    index_t width, slab, panels;
    TileForm form;

    ColumnPanels(TileForm tile_form, index_t blocks, index_t cols)
      : width(min(max(sums_bytes / (index_t(128) * ((blocks + 1) / 2)) / 32 * 32, index_t(256)),
                  (max(cols, index_t(1)) + 31) / 32 * 32))
      , slab(min(max(slab_bytes / (width * line_bytes), index_t(1)), index_t(16)) * tile_form.step)
      , panels((cols + width - 1) / width)
      , form(tile_form) {}

    HostRows<T> at(WeightColumns<T> const& w, index_t panel, index_t k) const {
        return {w.first + k * w.ld + panel * width, w.ld, min(slab, w.depth - k),
                min(width, w.cols - panel * width)};
    }
    static HostRows<T> first_slab(TileForm form, WeightColumns<T> const& w, index_t blocks) {
        return ColumnPanels(form, blocks, w.cols).at(w, 0, 0);
    }
    /// What a slab reads, on its way into L2.
    static Fetch fetch(HostRows<T> const& next) {
        index_t const half = next.rows / 2, bytes = next.ld * index_t(sizeof(T));
        void const* const regions[2] = {next.data, next.data + half * next.ld};
        return Fetch(Fetch::most_places, regions, half, bytes, next.cols * index_t(sizeof(T)));
    }
    index_t slab_tiles() const { return slab / form.step * (width / 16) * tile_bytes; }
};

/// Bytes that multiply_by_columns works in, for that many blocks of 16 rows.
template <class T>
constexpr index_t by_columns_scratch_bytes(TileForm form, index_t blocks, index_t cols) {
    ColumnPanels<T> const p(form, blocks, cols);
    return p.slab_tiles() + (blocks + 1) / 2 * (p.width / 16) * 2 * tile_bytes;
}

/// c(m, n) = sum over k of a(m, k) * w(k, n) for some panels of columns: the bits of an element
/// depend on its row of a and its column of w alone.
/// @param a        tiles of rows [blocks of 16][steps of the whole depth]
/// @param rows     of a
/// @param next     weights to fetch when these have been read
/// @param scratch  by_columns_scratch_bytes(TileForm::of<T>(isa), blocks of rows, w.cols)
/// @param finish   finish(first column, columns, first block, blocks, results): two tiles for 16
///                 columns, those of both blocks by the first of them, then by the next
template <class T, class Finish>
void multiply_by_columns(Isa isa, BlockKernel& kernel, char const* a, index_t rows,
                         WeightColumns<T> const& w, index_t first_panel, index_t last_panel,
                         WeightColumns<T> const& next, char* scratch, Finish const& finish) {
    auto const form = TileForm::of<T>(isa);
    index_t const blocks = blocks_of_16(rows), pairs = (blocks + 1) / 2;
    ColumnPanels<T> const panels(form, blocks, w.cols);
    index_t const left_block = form.steps(w.depth) * tile_bytes;
    index_t const each = form.kernel_columns();
    // The other half of the lines.
    int const lines = (pairs == 1 ? 4 : pairs < 4 ? 2 : 1) * int(each / 32);
    char* const all_results = scratch + panels.slab_tiles();
    for (index_t p = first_panel; p < last_panel; ++p)
        for (index_t k = 0; k < w.depth; k += panels.slab) {
            bool const last = k + panels.slab >= w.depth;
            auto const slab = panels.at(w, p, k);
            auto const upcoming = !last                ? panels.at(w, p, k + panels.slab)
                                  : p + 1 < last_panel ? panels.at(w, p + 1, 0)
                                                       : panels.first_slab(form, next, blocks);
            Fetch fetch = panels.fetch(upcoming);
            tile_by_columns(isa, slab, scratch, fetch);
            index_t const steps = form.steps(slab.rows), right_block = steps * tile_bytes;
            for (index_t c = 0; c < slab.cols; c += each)
                for (index_t r = 0; r < pairs; ++r) {
                    index_t const columns = min(slab.cols - c, each);
                    char const* const row = a + 2 * r * left_block + k / form.step * tile_bytes;
                    BlockSteps const block{{row, 2 * r + 1 < blocks ? row + left_block : row},
                                           line_bytes,
                                           tile_bytes,
                                           scratch + c / 16 * right_block,
                                           right_block,
                                           steps,
                                           columns,
                                           k == 0,
                                           last,
                                           rows - 32 * r};
                    auto* const results = reinterpret_cast<float*>(
                        all_results +
                        (c / 16 * pairs + r * blocks_of_16(columns)) * 2 * tile_bytes);
                    kernel.multiply(block, fetch, lines, k > 0, results);
                    if (last)
                        finish(p * panels.width + c, columns, 2 * r,
                               min(blocks - 2 * r, index_t(2)), results);
                }
        }
}

} // namespace semoe::ops::cpu
