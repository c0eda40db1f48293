#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"
#include "semoe/ops/cpu/feed_forward/tasks.hpp"

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

/// Steps of rows that are widened or turned at a time, to stay in L1 beside the columns that a
/// kernel takes while all of them pass.
constexpr index_t prepared_steps(TileForm form, index_t columns) {
    return min(columns, form.kernel_columns()) > 32 ? 4 : 8;
}

/// A panel's rows in parts of the depth, of which each is read while the next is on its way: of
/// long rows whole panels, fetched ahead, would push one another out of L2.
template <class T>
struct DepthParts {
    TileForm form;
    WeightRows<T> const& w;
    index_t count;

    /// @param rows     of the other operand
    /// @param several  whether there may be more than one
    DepthParts(TileForm form_, WeightRows<T> const& w_, index_t rows, bool several)
      : form(form_)
      , w(w_)
      , count(several
                  ? (w.row_bytes() + most_bytes(form.isa, rows) - 1) / most_bytes(form.isa, rows)
                  : 1) {}
    /// Steps of the depth.
    Range steps(index_t part) const { return {form.steps(w.depth), part, count}; }
    /// @param places  that are fetched from in turn, of both streams
    Fetch fetch(int places, index_t panel, index_t part) const {
        if (!w.stream[0]) return {};
        Range const s = steps(part);
        index_t const begin = s.begin * form.step, n = (s.end - s.begin) * form.step;
        return {places,
                {w.panel(0, panel) + begin, w.panel(1, panel) + begin},
                tile_rows,
                w.row_bytes(),
                n * index_t(sizeof(T))};
    }

private:
    /// Of a row: a page, where few places are read in turn. Zen 5 reads whole rows fastest, of
    /// which two panels of such parts have room in L2 while the other operand takes little.
    static constexpr index_t most_bytes(Isa isa, index_t rows) {
        if (isa == Isa::avx512_bf16 && rows <= 8) return 14 << 10;
        return Fetch::places(isa, 1) <= 2 ? 4096 : 2048;
    }
};

/// Bytes of scratch that multiply_by_rows works in.
template <class T>
constexpr index_t by_rows_scratch_bytes(TileForm form, index_t depth, index_t rows) {
    index_t const steps = form.prepares_rows<T>() ? prepared_steps(form, rows) : form.steps(depth);
    return (2 * steps + (rows + 31) / 32 * 4) * tile_bytes;
}

/// c(n, m) = sum over k of w(n, k) * x(m, k) for some panels: the bits of an element depend on its
/// row of w and its row of x alone.
/// @param x        tiles of words [blocks of 16 columns][steps][widths], in that form
/// @param rows     of x
/// @param next     weights to fetch when these have been read; may have no streams
/// @param scratch  by_rows_scratch_bytes(form, depth, rows), aligned to 64 bytes
/// @param finish   finish(panel, first block, blocks, results): what becomes of two tiles a block,
///                 those of both streams by the first block, then by the next
template <class T, class Finish>
void multiply_by_rows(TileForm form, BlockKernel& kernel, WeightRows<T> const& w,
                      index_t first_panel, index_t last_panel, char const* x, index_t rows,
                      WeightRows<T> const& next, char* scratch, Finish const& finish) {
    index_t const steps = form.steps(w.depth), each = form.kernel_columns();
    index_t const calls = (rows + each - 1) / each;
    index_t const right_block = form.block_bytes(w.depth);
    bool const prepares = form.prepares_rows<T>();
    // Many columns by AMX take a panel whole: results of tiles go through memory after each part.
    bool const several = calls == 1 || !form.takes_whole_tiles<T>(form.isa);
    DepthParts<T> const parts(form, w, rows, several), next_parts(form, next, rows, several);
    index_t const slab =
        prepares ? prepared_steps(form, rows) : (steps + parts.count - 1) / parts.count;
    float* const results = reinterpret_cast<float*>(scratch + 2 * slab * tile_bytes);
    index_t const block_results = slab < steps ? 2 * tile_floats : 0;
    int const all_lines = calls == 1 ? 8 : calls < 4 ? 4 : calls < 8 ? 2 : 1;
    int const lines = form.widens_rows<T>() ? (all_lines + 1) / 2 : all_lines;
    int const places = Fetch::places(form.isa, rows);
    for (index_t p = first_panel; p < last_panel; ++p)
        for (index_t part = 0; part < parts.count; ++part) {
            bool const in_place = w.is_whole(p) && !prepares;
            Range const now = parts.steps(part);
            Fetch fetch = part + 1 < parts.count ? parts.fetch(places, p, part + 1)
                          : p + 1 < last_panel   ? parts.fetch(places, p + 1, 0)
                                                 : next_parts.fetch(places, 0, 0);
            for (index_t first = now.begin; first < now.end; first += slab) {
                index_t const n = min(slab, now.end - first), k = first * form.step;
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
                for (index_t c = 0; c < rows; c += each) {
                    index_t const block = c / 16, columns = min(rows - c, each);
                    float* const to = results + block * block_results;
                    BlockSteps const product{{left[0], left[1]},
                                             in_place ? w.row_bytes() : line_bytes,
                                             in_place ? line_bytes : tile_bytes,
                                             x + block * right_block + first * form.step_bytes(),
                                             right_block,
                                             n,
                                             columns,
                                             first == 0,
                                             first + n == steps,
                                             32,
                                             16,
                                             form.word_line_bytes()};
                    kernel.multiply(product, fetch, lines, first > 0, to);
                    if (first + n == steps) finish(p, block, blocks_of_16(columns), to);
                }
            }
        }
}

} // namespace semoe::ops::cpu
