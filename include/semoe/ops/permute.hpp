#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/detail/segment.hpp"

namespace semoe::ops {

namespace detail {
/// out row scatter ? index[i] : i  takes  src row scatter ? i : index[i].
template <class T, class Space>
struct MoveRows {
    MatrixView<T const, Space> src;
    VectorView<index_t const, Space> index;
    MatrixView<T, Space> out;
    bool scatter;
    SEMOE_HD void operator()(index_t i) const {
        index_t const per_row = segments_of(out.cols), begin = i % per_row * segment_length;
        index_t const n = i / per_row, end = segment_end(begin, out.cols);
        convert_run(src.row(scatter ? n : index[n]) + begin, end - begin,
                    out.row(scatter ? index[n] : n) + begin);
    }
};
} // namespace detail

/// out[s] = src[index[s]].
/// @param src    [N,H], backend memory
/// @param index  [S], each in [0,N), backend memory
/// @param out    [S,H], backend memory, not overlapping src
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
template <Backend B, class Src, class T>
void gather_rows(B& b, MatrixView<Src, space_of<B>> src,
                 VectorView<index_t const, space_of<B>> index, MatrixView<T, space_of<B>> out) {
    expects(src.cols == out.cols && index.size == out.rows,
            "gather_rows: src is {}, out is {}, index has {}", src, out, index.size);
    b.parallel_for(out.rows * detail::segments_of(out.cols),
                   detail::MoveRows<T, space_of<B>>{src, index, out, false});
}

/// out[index[s]] = src[s]; other rows of out keep what they hold.
/// @param src    [S,H], backend memory
/// @param index  [S], distinct, each in [0,N), backend memory
/// @param out    [N,H], backend memory, not overlapping src
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
template <Backend B, class Src, class T>
void scatter_rows(B& b, MatrixView<Src, space_of<B>> src,
                  VectorView<index_t const, space_of<B>> index, MatrixView<T, space_of<B>> out) {
    expects(src.cols == out.cols && index.size == src.rows,
            "scatter_rows: src is {}, out is {}, index has {}", src, out, index.size);
    b.parallel_for(src.rows * detail::segments_of(out.cols),
                   detail::MoveRows<T, space_of<B>>{src, index, out, true});
}

} // namespace semoe::ops
