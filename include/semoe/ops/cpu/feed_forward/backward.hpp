#pragma once

#include "semoe/ops/cpu/feed_forward/by_columns.hpp"
#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/feed_forward/outer.hpp"

namespace semoe::ops::cpu {

/// What backward of one expert reads and writes.
/// @tparam Unit  ops::unit, what lies between the products
template <class T, class Unit>
struct FeedForwardBackward {
    using Rows = MatrixView<T const, HostSpace>;

    TileForm form;
    Unit unit;
    index_t hidden, intermediate;
    T const *w_in, *w_down;               ///< [Unit::inputs * I, H] and [H, I]
    IndexedRows<T const, HostSpace> in;   ///< [R, H]
    Rows saved, d_out;                    ///< [R, Unit::inputs * I], [R, H]
    MatrixView<T, HostSpace> d_pre, d_in; ///< [R, Unit::inputs * I], [R, H]
    GradientRows d_w_in, d_w_down;

    index_t inputs() const { return Unit::inputs * intermediate; }
    WeightColumns<T> in_columns() const { return {w_in, hidden, inputs(), hidden}; }
    WeightColumns<T> down_columns() const { return {w_down, intermediate, hidden, intermediate}; }
    index_t panels(WeightColumns<T> const& w, index_t rows) const {
        return ColumnPanels<T>(form, blocks_of_16(rows), w.cols).panels;
    }
};

namespace detail {

/// The gradient of a unit of some rows, in tiles.
template <class Unit>
struct UnitTileBackward {
    Unit const& unit;
    float (&x)[Unit::inputs][tile_floats]; ///< becomes its gradient
    float const* dy;
    index_t rows;

    SEMOE_INLINE void operator()() const {
        for (index_t r = 0; r < rows; ++r) {
            float d[Unit::inputs][16];
            for (int j = 0; j < 16; ++j) {
                float in[Unit::inputs], d_in[Unit::inputs];
                for (int i = 0; i < Unit::inputs; ++i) in[i] = x[i][r * 16 + j];
                unit.backward(in, dy[r * 16 + j], d_in);
                for (int i = 0; i < Unit::inputs; ++i) d[i][j] = d_in[i];
            }
            for (int i = 0; i < Unit::inputs; ++i)
                for (int j = 0; j < 16; ++j) x[i][r * 16 + j] = d[i][j];
        }
    }
};
/// The gradient of the activation becomes that of what entered it.
template <class T, class Unit>
struct FinishUnitBackward {
    FeedForwardBackward<T, Unit> const& f;
    index_t first_row, rows;

    void operator()(index_t first, index_t columns, index_t block, index_t blocks,
                    float const* results) const {
        for (index_t c = first; c < first + columns; c += 16, results += 2 * tile_floats)
            for (index_t b = 0; b < blocks; ++b)
                one(first_row + (block + b) * 16, rows_of_block(rows, block + b), c,
                    results + b * tile_floats);
    }

private:
    void one(index_t row, index_t n, index_t c, float const* d_act) const {
        index_t const left = f.intermediate - c;
        alignas(64) float x[Unit::inputs][tile_floats];
        for (int i = 0; i < Unit::inputs; ++i)
            load_rows(f.form.isa, f.saved.row(row) + i * f.intermediate + c, f.saved.ld, n, left,
                      x[i]);
        call_for(f.form.isa, UnitTileBackward<Unit>{f.unit, x, d_act, n});
        for (int i = 0; i < Unit::inputs; ++i)
            store_rows(f.form.isa, x[i], f.d_pre.row(row) + i * f.intermediate + c, f.d_pre.ld, n,
                       left);
    }
};
/// Rows that come out of a product by columns.
template <class T>
struct FinishColumns {
    Isa isa;
    MatrixView<T, HostSpace> out;

    void operator()(index_t first, index_t columns, index_t block, index_t blocks,
                    float const* results) const {
        for (index_t c = first; c < first + columns; c += 16, results += 2 * tile_floats)
            for (index_t b = 0; b < blocks; ++b)
                store_rows(isa, results + b * tile_floats, out.row((block + b) * 16) + c, out.ld,
                           rows_of_block(out.rows, block + b), out.cols - c);
    }
};

/// The activation of some rows again, as tile_by_columns of it.
template <class T, class Unit>
struct ActivationTiles {
    FeedForwardBackward<T, Unit> const& f;
    index_t first, rows;

    void write(char* tiles) const {
        index_t const steps = f.form.steps(rows);
        for (index_t r = 0; r < steps * f.form.step; r += 16) {
            char* to = tiles + r / 16 * f.form.lines_of_16() * line_bytes;
            for (index_t c = 0; c < f.intermediate; c += 16, to += steps * tile_bytes) {
                alignas(64) float act[tile_floats];
                activate(r, c, act);
                words_of_results<T>(f.form, act, to);
            }
        }
    }

private:
    void activate(index_t r, index_t c, float* act) const {
        index_t const left = f.intermediate - c, n = min(rows - r, tile_rows);
        alignas(64) float x[Unit::inputs * tile_floats];
        for (int i = 0; i < Unit::inputs && n > 0; ++i)
            load_rows(f.form.isa, f.saved.row(first + r) + i * f.intermediate + c, f.saved.ld, n,
                      left, x + i * tile_floats);
        call_for(f.form.isa, UnitTile<Unit>::of(f.unit, x, n, act));
        for (index_t row = 0; row < n && left < 16; ++row)
            for (index_t j = left; j < 16; ++j) act[row * 16 + j] = 0;
    }
};

} // namespace detail

/// What both operands of the gradients of weights take, for that many rows.
template <class T>
constexpr index_t outer_scratch_bytes(Isa isa, index_t hidden, index_t inputs, index_t rows) {
    return 2 * (blocks_of_16(max(hidden, inputs)) + 1) * TileForm::of<T>(isa).steps(rows) *
           tile_bytes;
}
/// Scratch of a backward task of that many rows. Those of a gradient that somebody takes lie behind
/// the operands.
template <class T>
constexpr index_t backward_scratch_bytes(Isa isa, index_t hidden, index_t intermediate,
                                         index_t inputs, index_t rows) {
    auto const form = TileForm::of<T>(isa);
    index_t const widest = max(hidden, inputs), blocks = blocks_of_16(rows);
    index_t const by_columns =
        form.bytes(rows, widest) + max(by_columns_scratch_bytes<T>(form, blocks, hidden),
                                       by_columns_scratch_bytes<T>(form, blocks, intermediate));
    index_t const taken = outer_rows * max(hidden, intermediate) * index_t(sizeof(float));
    return max(by_columns, outer_scratch_bytes<T>(isa, hidden, inputs, rows) + taken);
}

/// d_pre of rows [first, first + rows), for panels [begin, end) of down_columns().
template <class T, class Unit>
void backward_unit(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                   index_t rows, index_t begin, index_t end, WeightColumns<T> const& next,
                   char* scratch) {
    Parts parts(scratch);
    char* const d_out = parts.take(f.form.bytes(rows, f.hidden));
    tile_left(f.form, detail::host_rows(f.d_out, first, rows), d_out);
    multiply_by_columns(f.form.isa, kernel, d_out, rows, f.down_columns(), begin, end, next,
                        parts.rest(), detail::FinishUnitBackward<T, Unit>{f, first, rows});
}
/// d_in of rows [first, first + rows) from d_pre, for panels [begin, end) of in_columns().
template <class T, class Unit>
void backward_in(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                 index_t rows, index_t begin, index_t end, WeightColumns<T> const& next,
                 char* scratch) {
    Parts parts(scratch);
    char* const d_pre = parts.take(f.form.bytes(rows, f.inputs()));
    tile_left(f.form, detail::host_rows(MatrixView<T const, HostSpace>(f.d_pre), first, rows),
              d_pre);
    multiply_by_columns(f.form.isa, kernel, d_pre, rows, f.in_columns(), begin, end, next,
                        parts.rest(),
                        detail::FinishColumns<T>{f.form.isa, f.d_in.row_range(first, rows)});
}
/// Rows [begin, end) of the gradient of w_down, from rows [first, first + rows).
template <class T, class Unit>
void backward_down_weights(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f,
                           index_t first, index_t rows, GradientRows const& gradient, index_t begin,
                           index_t end, char* scratch) {
    Parts parts(scratch);
    index_t const steps = f.form.steps(rows), n = end - begin;
    char* const d_out = parts.take(blocks_of_16(n) * steps * tile_bytes);
    tile_transposed(f.form.isa, detail::host_rows(f.d_out, first, rows).part(0, begin, rows, n),
                    d_out);
    detail::ActivationTiles<T, Unit>{f, first, rows}.write(parts.rest());
    multiply_outer(f.form, kernel, d_out, parts.rest(), rows, gradient.row_range(begin, end));
}
/// Rows [begin, end) of the gradient of w_in, from d_pre of rows [first, first + rows).
template <class T, class Unit>
void backward_in_weights(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                         index_t rows, GradientRows const& gradient, index_t begin, index_t end,
                         char* scratch) {
    Parts parts(scratch);
    index_t const steps = f.form.steps(rows), n = end - begin;
    char* const d_pre = parts.take(blocks_of_16(n) * steps * tile_bytes);
    MatrixView<T const, HostSpace> const d_pre_rows = f.d_pre;
    tile_transposed(f.form.isa, detail::host_rows(d_pre_rows, first, rows).part(0, begin, rows, n),
                    d_pre);
    tile_by_columns(f.form.isa, detail::host_rows(f.in, first, rows), parts.rest());
    multiply_outer(f.form, kernel, d_pre, parts.rest(), rows, gradient.row_range(begin, end));
}

} // namespace semoe::ops::cpu
