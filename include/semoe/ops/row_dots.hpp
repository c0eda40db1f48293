#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/cpu/product.hpp"
#include "semoe/ops/detail/product.hpp"

#include <span>

namespace semoe::ops {

namespace detail {
template <class A, class W, class C, class Space>
struct RowDot {
    MatrixView<A const, Space> a;
    MatrixView<W const, Space> w;
    MatrixView<C, Space> c;
    SEMOE_HD void operator()(index_t i) const {
        constexpr int lanes = 16;
        index_t const m = i / c.cols, n = i % c.cols;
        C sum[lanes] = {};
        for (index_t k = 0; k < a.cols; ++k)
            sum[k % lanes] += convert<C>(a(m, k)) * convert<C>(w(n, k));
        for (int half = lanes / 2; half > 0; half /= 2)
            for (int j = 0; j < half; ++j) sum[j] += sum[j + half];
        c(m, n) = sum[0];
    }
    Cost cost() const { return product_cost<A, W, C>(c.rows, c.cols, a.cols, false); }
};
/// Blocks of the result by host workers: few rows are cut by columns, so that all of them read w.
template <class A, class W>
struct HostRowDots {
    static constexpr index_t block_rows = 16, block_cols = 16;
    Isa isa;
    MatrixView<A const, HostSpace> a;
    MatrixView<W const, HostSpace> w;
    MatrixView<float, HostSpace> c;
    index_t cols; ///< of a block

    HostRowDots(MatrixView<A const, HostSpace> left, MatrixView<W const, HostSpace> right,
                MatrixView<float, HostSpace> out)
      : isa(selected_isa())
      , a(left)
      , w(right)
      , c(out)
      , cols(out.rows > 4 * block_rows ? out.cols : block_cols) {}
    index_t column_blocks() const { return (c.cols + cols - 1) / cols; }
    index_t tasks() const { return (c.rows + block_rows - 1) / block_rows * column_blocks(); }
    void operator()(index_t i, std::span<std::byte>) const {
        index_t const m = i / column_blocks() * block_rows, n = i % column_blocks() * cols;
        cpu::dot_rows(isa, cpu::RowDots<A, W>{a.row(m), a.ld, w.row(n), w.ld, &c(m, n), c.ld,
                                              min(block_rows, c.rows - m), min(cols, c.cols - n),
                                              a.cols});
    }
};
} // namespace detail

/// c(m, n) = <a row m, w row n>: gemm_nt for few columns, as a router has. w is read as it lies.
/// Each element is a sum of 16 lanes, column k of the operands in lane k % 16, which are folded by
/// halves; it depends on no other row or column, nor on the number of threads.
/// @param a  [M,K], backend memory
/// @param w  [N,K], backend memory
/// @param c  [M,N], backend memory, not overlapping a or w
/// @throws precondition_error naming the three shapes when they do not fit
/// @sync enqueues
/// @cost 2 M N K flops, no allocation
template <Backend B, class A, class W, class C>
void row_dots(B& b, MatrixView<A, space_of<B>> a, MatrixView<W, space_of<B>> w,
              MatrixView<C, space_of<B>> c) {
    using L = std::remove_const_t<A>;
    using R = std::remove_const_t<W>;
    expects(a.cols == w.cols && c.rows == a.rows && c.cols == w.rows,
            "row_dots: a is {}, w is {}, c is {}", a, w, c);
    if (c.empty()) return;
    if constexpr (HasWorkers<B> && cpu::Blocked<L> && cpu::Blocked<R> && std::same_as<C, float>) {
        detail::HostRowDots<L, R> const dots(a, w, c);
        b.parallel_tasks(dots.tasks(), dots);
    } else {
        b.parallel_for(c.rows * c.cols, detail::RowDot<L, R, C, space_of<B>>{a, w, c});
    }
}

} // namespace semoe::ops
