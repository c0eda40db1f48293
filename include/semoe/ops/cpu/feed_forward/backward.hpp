#pragma once

#include "semoe/ops/cpu/feed_forward/by_columns.hpp"
#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/feed_forward/outer.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu {

/// What backward of one expert reads and writes.
/// @tparam Unit  ops::unit, what lies between the products
template <class T, class Unit>
struct FeedForwardBackward {
    using Rows = MatrixView<T const, HostSpace>;

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
    static index_t panels(WeightColumns<T> const& w, index_t rows) {
        return ColumnPanels<T>(blocks_of_16(rows), w.cols).panels;
    }
};

namespace detail {

/// The gradient of the activation becomes that of what entered it.
template <class T, class Unit>
struct FinishUnitBackward {
    FeedForwardBackward<T, Unit> const& f;
    index_t first_row, rows;

    SEMOE_LINES void operator()(index_t first, index_t block, index_t blocks,
                                float const* results) const {
        index_t const end = min(first + 32, f.intermediate);
        for (index_t c = first; c < end; c += 16, results += 2 * tile_floats)
            for (index_t b = 0; b < blocks; ++b)
                for (index_t r = 0; r < rows_of_block(rows, block + b); ++r)
                    one(first_row + (block + b) * 16 + r, c, results + b * tile_floats + r * 16);
    }

private:
    SEMOE_LINES SEMOE_INLINE void one(index_t row, index_t c, float const* d_act) const {
        index_t const left = f.intermediate - c;
        float x[Unit::inputs][16], dy[16], dx[Unit::inputs][16];
        for (int i = 0; i < Unit::inputs; ++i)
            _mm512_storeu_ps(x[i], lines::load_16(f.saved.row(row) + i * f.intermediate + c, left));
        _mm512_storeu_ps(dy, _mm512_load_ps(d_act));
        f.unit.backward(x, dy, dx);
        for (int i = 0; i < Unit::inputs; ++i)
            lines::store_16(f.d_pre.row(row) + i * f.intermediate + c, left,
                            _mm512_loadu_ps(dx[i]));
    }
};
/// Rows that come out of a product by columns.
template <class T>
struct FinishColumns {
    MatrixView<T, HostSpace> out;

    SEMOE_LINES void operator()(index_t first, index_t block, index_t blocks,
                                float const* results) const {
        index_t const end = min(first + 32, out.cols);
        for (index_t c = first; c < end; c += 16, results += 2 * tile_floats)
            for (index_t b = 0; b < blocks; ++b)
                for (index_t r = 0; r < rows_of_block(out.rows, block + b); ++r)
                    lines::store_16(out.row((block + b) * 16 + r) + c, out.cols - c,
                                    _mm512_load_ps(results + b * tile_floats + r * 16));
    }
};

/// The activation of some rows again, as tile_by_columns of it.
template <class T, class Unit>
struct ActivationTiles {
    FeedForwardBackward<T, Unit> const& f;
    index_t first, rows;

    SEMOE_LINES void write(char* tiles) const {
        index_t const steps = steps_of<T>(rows);
        for (index_t r = 0; r < steps * step_depth<T>; r += step_depth<T> / 16) {
            char* to = tiles + r * index_t(sizeof(T)) / 4 * line_bytes;
            for (index_t c = 0; c < f.intermediate; c += 16, to += steps * tile_bytes) {
                alignas(64) float act[16 * 16]; // rows that become words, of a tile of results
                for (index_t i = 0; i < step_depth<T> / 16; ++i) activate(r + i, c, act + i * 16);
                _mm512_store_si512(to, word_line(act, static_cast<T const*>(nullptr)));
            }
        }
    }

private:
    SEMOE_LINES SEMOE_INLINE static __m512i word_line(float const* act, float const*) {
        return _mm512_load_si512(act);
    }
    SEMOE_LINES SEMOE_INLINE static __m512i word_line(float const* act, bf16 const*) {
        return lines::pair(_mm512_load_ps(act), _mm512_load_ps(act + 16));
    }
    SEMOE_LINES SEMOE_INLINE void activate(index_t r, index_t c, float* act) const {
        if (r >= rows) return _mm512_store_ps(act, _mm512_setzero_ps());
        index_t const left = f.intermediate - c;
        float x[Unit::inputs][16], y[16];
        for (int i = 0; i < Unit::inputs; ++i)
            _mm512_storeu_ps(x[i],
                             lines::load_16(f.saved.row(first + r) + i * f.intermediate + c, left));
        f.unit.forward(x, y);
        _mm512_store_ps(act, lines::load_16(y, left));
    }
};

} // namespace detail

/// What both operands of the gradients of weights take, for that many rows.
template <class T>
constexpr index_t outer_scratch_bytes(index_t hidden, index_t inputs, index_t rows) {
    return 2 * (blocks_of_16(max(hidden, inputs)) + 1) * steps_of<T>(rows) * tile_bytes;
}
/// Scratch of a backward task of that many rows. Those of a gradient that somebody takes lie behind
/// the operands.
template <class T>
constexpr index_t backward_scratch_bytes(index_t hidden, index_t intermediate, index_t inputs,
                                         index_t rows) {
    index_t const widest = max(hidden, inputs), blocks = blocks_of_16(rows);
    index_t const by_columns =
        tiles_bytes<T>(rows, widest) + max(by_columns_scratch_bytes<T>(blocks, hidden),
                                           by_columns_scratch_bytes<T>(blocks, intermediate));
    index_t const taken = outer_rows * max(hidden, intermediate) * index_t(sizeof(float));
    return max(by_columns, outer_scratch_bytes<T>(hidden, inputs, rows) + taken);
}

/// d_pre of rows [first, first + rows), for panels [begin, end) of down_columns().
template <class T, class Unit>
void backward_unit(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                   index_t rows, index_t begin, index_t end, WeightColumns<T> const& next,
                   char* scratch) {
    Parts parts(scratch);
    char* const d_out = parts.take(tiles_bytes<T>(rows, f.hidden));
    tile_rows_of(detail::host_rows(f.d_out, first, rows), d_out);
    multiply_by_columns(kernel, d_out, blocks_of_16(rows), f.down_columns(), begin, end, next,
                        parts.rest(), detail::FinishUnitBackward<T, Unit>{f, first, rows});
}
/// d_in of rows [first, first + rows) from d_pre, for panels [begin, end) of in_columns().
template <class T, class Unit>
void backward_in(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                 index_t rows, index_t begin, index_t end, WeightColumns<T> const& next,
                 char* scratch) {
    Parts parts(scratch);
    char* const d_pre = parts.take(tiles_bytes<T>(rows, f.inputs()));
    tile_rows_of(detail::host_rows(MatrixView<T const, HostSpace>(f.d_pre), first, rows), d_pre);
    multiply_by_columns(kernel, d_pre, blocks_of_16(rows), f.in_columns(), begin, end, next,
                        parts.rest(), detail::FinishColumns<T>{f.d_in.row_range(first, rows)});
}
/// Rows [begin, end) of the gradient of w_down, from rows [first, first + rows).
template <class T, class Unit>
void backward_down_weights(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f,
                           index_t first, index_t rows, GradientRows const& gradient, index_t begin,
                           index_t end, char* scratch) {
    Parts parts(scratch);
    index_t const steps = steps_of<T>(rows), n = end - begin;
    char* const d_out = parts.take(blocks_of_16(n) * steps * tile_bytes);
    tile_transposed(detail::host_rows(f.d_out, first, rows).part(0, begin, rows, n), d_out);
    detail::ActivationTiles<T, Unit>{f, first, rows}.write(parts.rest());
    multiply_outer(kernel, d_out, parts.rest(), steps, gradient.row_range(begin, end));
}
/// Rows [begin, end) of the gradient of w_in, from d_pre of rows [first, first + rows).
template <class T, class Unit>
void backward_in_weights(BlockKernel& kernel, FeedForwardBackward<T, Unit> const& f, index_t first,
                         index_t rows, GradientRows const& gradient, index_t begin, index_t end,
                         char* scratch) {
    Parts parts(scratch);
    index_t const steps = steps_of<T>(rows), n = end - begin;
    char* const d_pre = parts.take(blocks_of_16(n) * steps * tile_bytes);
    MatrixView<T const, HostSpace> const d_pre_rows = f.d_pre;
    tile_transposed(detail::host_rows(d_pre_rows, first, rows).part(0, begin, rows, n), d_pre);
    tile_by_columns(detail::host_rows(f.in, first, rows), parts.rest());
    multiply_outer(kernel, d_pre, parts.rest(), steps, gradient.row_range(begin, end));
}

} // namespace semoe::ops::cpu
#endif
