#pragma once

#include "semoe/ops/cpu/linear.hpp"
#include "semoe/ops/feed_forward.hpp"
#include "semoe/ops/gemm.hpp"

#include <concepts>
#include <type_traits>

namespace semoe::ops {

namespace detail {
template <class X, class T>
concept ElementsOf = std::same_as<std::remove_const_t<X>, T>;

inline void expect_dense(char const* name, index_t rows, index_t cols, index_t ld) {
    expects(ld == cols || rows <= 1, "{}: rows of the [{},{}] matrix are {} apart, must be {}",
            name, rows, cols, ld, cols);
}
} // namespace detail

// The products of a dense layer of a model, with the kernels of the experts where those exist
// (has_fused_feed_forward): for bf16 on AMX many times as fast as a gemm, whose bits are the same
// on every instruction set; these have the bits of their own. Elsewhere they are gemms.

/// Scratch that a worker should have for the products of a [outputs, inputs] matrix.
template <class B, class T>
std::size_t linear_scratch_bytes(index_t inputs, index_t outputs) {
    if constexpr (has_fused_feed_forward<B, T>)
        return std::size_t(cpu::linear_scratch<T>(selected_isa(), inputs, outputs));
    else
        return 0;
}

/// y = x w^T. A row's bits depend on no other row, nor on the number of threads.
/// @param x  [T,inputs], backend memory
/// @param w  [outputs,inputs], backend memory, row after row
/// @param y  [T,outputs], overwritten, not overlapping the others
/// @throws precondition_error naming the three shapes when they do not fit, or w when its rows lie
///         apart
/// @sync enqueues
/// @cost 2 T inputs outputs flops; no allocation where workers have their scratch
template <Backend B, class T, detail::ElementsOf<T> X, detail::ElementsOf<T> W>
void linear(B& b, MatrixView<X, space_of<B>> x, MatrixView<W, space_of<B>> w,
            MatrixView<T, space_of<B>> y) {
    detail::expect_product("linear", x.rows, w.rows, x.cols == w.cols, x, w, y);
    detail::expect_dense("linear", w.rows, w.cols, w.ld);
    if constexpr (has_fused_feed_forward<B, T>)
        if (!y.empty() && x.cols > 0) return cpu::run_linear<T>(b, x, w, y);
    gemm_nt(b, x, w, y);
}
/// dx = dy w.
/// @param dy  [T,outputs]
/// @param w   [outputs,inputs]
/// @param dx  [T,inputs], overwritten, not overlapping the others
/// @throws precondition_error naming the three shapes when they do not fit
/// @sync enqueues @cost as linear
template <Backend B, class T, detail::ElementsOf<T> D, detail::ElementsOf<T> W>
void linear_backward_input(B& b, MatrixView<D, space_of<B>> dy, MatrixView<W, space_of<B>> w,
                           MatrixView<T, space_of<B>> dx) {
    detail::expect_product("linear_backward_input", dy.rows, w.cols, dy.cols == w.rows, dy, w, dx);
    if constexpr (has_fused_feed_forward<B, T>)
        if (!dx.empty() && dy.cols > 0) return cpu::run_linear_backward_input<T>(b, dy, w, dx);
    gemm_nn(b, dy, w, dx);
}
/// dw (+)= dy^T x.
/// @param dy  [T,outputs]
/// @param x   [T,inputs]
/// @param dw  [outputs,inputs], row after row, not overlapping the others
/// @throws precondition_error naming the three shapes when they do not fit, or dw when its rows lie
///         apart
/// @sync enqueues @cost as linear
template <Backend B, class D, class X, class Real>
void linear_backward_weights(B& b, MatrixView<D, space_of<B>> dy, MatrixView<X, space_of<B>> x,
                             MatrixView<Real, space_of<B>> dw,
                             Accumulate accumulate = Accumulate::no) {
    using T = std::remove_const_t<D>;
    static_assert(std::same_as<std::remove_const_t<X>, T> && std::same_as<Real, accumulate_t<T>>,
                  "linear_backward_weights: dy and x need one element type T, and dw is of "
                  "accumulate_t<T>: float for bf16");
    detail::expect_product("linear_backward_weights", dy.cols, x.cols, dy.rows == x.rows, dy, x,
                           dw);
    detail::expect_dense("linear_backward_weights", dw.rows, dw.cols, dw.ld);
    if constexpr (has_fused_feed_forward<B, T>)
        if (!dw.empty() && x.rows > 0)
            return cpu::run_linear_backward_weights<T>(b, dy, x, dw, accumulate == Accumulate::yes);
    gemm_tn(b, dy, x, dw, accumulate);
}

} // namespace semoe::ops
