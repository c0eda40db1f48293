#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/detail/product.hpp"

namespace semoe::ops {

namespace detail {
template <class T, class Space>
struct SoftmaxRow {
    using Sum = accumulate_t<T>;

    MatrixView<T const, Space> in;
    MatrixView<T, Space> out;

    /// The sum runs in 16 lanes, which are then added in order.
    SEMOE_HD void operator()(index_t r) const {
        Sum largest = convert<Sum>(in(r, 0)), e[16], lanes[16] = {};
        for (index_t c = 1; c < in.cols; ++c) largest = max(convert<Sum>(in(r, c)), largest);
        for (index_t c = 0; c < in.cols; c += 16) {
            exponentials(r, c, largest, e);
            for (index_t j = 0; j < 16; ++j) lanes[j] += e[j];
        }
        Sum sum = 0;
        for (Sum const lane : lanes) sum += lane;
        Sum const scale = Sum(1) / sum;
        for (index_t c = 0; c < in.cols; c += 16) {
            exponentials(r, c, largest, e);
            for (index_t j = 0; j < 16 && c + j < in.cols; ++j)
                out(r, c + j) = convert<T>(e[j] * scale);
        }
    }
    /// Sixteen of the row from c on, zeros behind its end.
    SEMOE_HD void exponentials(index_t r, index_t c, Sum largest, Sum (&e)[16]) const {
        for (index_t j = 0; j < 16; ++j)
            e[j] = c + j < in.cols ? convert<Sum>(in(r, c + j)) : largest;
        for (index_t j = 0; j < 16; ++j) e[j] = exp(e[j] - largest);
        for (index_t j = in.cols - c; j < 16; ++j) e[j] = 0;
    }
};
template <class T, class Space>
struct SoftmaxBackwardRow {
    MatrixView<T const, Space> out, d_out;
    MatrixView<T, Space> d_in;
    SEMOE_HD void operator()(index_t r) const {
        using Sum = accumulate_t<T>;
        Sum dot = 0;
        for (index_t c = 0; c < out.cols; ++c)
            dot += convert<Sum>(out(r, c)) * convert<Sum>(d_out(r, c));
        for (index_t c = 0; c < out.cols; ++c)
            d_in(r, c) = convert<T>(convert<Sum>(out(r, c)) * (convert<Sum>(d_out(r, c)) - dot));
    }
};
} // namespace detail

/// out[t] = softmax(in[t]), the row's largest element subtracted first. A row with a NaN becomes
/// NaN; a row with +inf, or of nothing but -inf, too.
/// @param in   [T,E], backend memory
/// @param out  [T,E], backend memory; may be in itself
/// @throws precondition_error naming both shapes when they differ
/// @sync enqueues
template <Backend B, class In, class T>
void softmax_rows(B& b, MatrixView<In, space_of<B>> in, MatrixView<T, space_of<B>> out) {
    expects(in.rows == out.rows && in.cols == out.cols, "softmax_rows: in is {}, out is {}", in,
            out);
    if (!out.empty()) b.parallel_for(out.rows, detail::SoftmaxRow<T, space_of<B>>{in, out});
}

/// d_in = out * (d_out - <out, d_out>), row by row.
/// @param out    [T,E], what softmax_rows wrote
/// @param d_out  [T,E]
/// @param d_in   [T,E]; may be d_out itself
template <Backend B, class Out, class D, class T>
void softmax_rows_backward(B& b, MatrixView<Out, space_of<B>> out, MatrixView<D, space_of<B>> d_out,
                           MatrixView<T, space_of<B>> d_in) {
    expects(out.rows == d_in.rows && out.cols == d_in.cols && d_out.rows == d_in.rows &&
                d_out.cols == d_in.cols,
            "softmax_rows_backward: out is {}, d_out is {}, d_in is {}", out, d_out, d_in);
    if (!d_in.empty())
        b.parallel_for(d_in.rows, detail::SoftmaxBackwardRow<T, space_of<B>>{out, d_out, d_in});
}

} // namespace semoe::ops
