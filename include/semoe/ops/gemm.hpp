#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/product.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/group.hpp"

#include <span>

namespace semoe::ops {

namespace detail {
template <class A, class W, class C, class Space>
struct GemmElement {
    Strided<A const> a;
    Strided<W const> w;
    MatrixView<C, Space> c;
    index_t depth;
    bool accumulate;
    SEMOE_HD void operator()(index_t i) const {
        index_t const m = i / c.cols, n = i % c.cols;
        product_element(a, w, m, n, depth, c(m, n), accumulate);
    }
    Cost cost() const { return product_cost<A, W, C>(c.rows, c.cols, depth, accumulate); }
};

/// A product on host workers. Each block of the result has one owner.
template <class A, class W, class C>
struct GemmTasks {
    Isa isa;
    cpu::Product<A, W, C> product;
    bool single;
    void operator()(index_t i, std::span<std::byte> scratch) const {
        if (single)
            cpu::compute(isa, product, 0, 0, product.rows, product.cols, scratch);
        else
            cpu::TaskGrid{product.rows, product.cols}.run(isa, product, i, scratch);
    }
};

template <class A, class W, class C, Backend B>
void gemm(B& b, A const* a, index_t a_ld, Left left, W const* w, index_t w_ld, Right right,
          MatrixView<C, space_of<B>> c, index_t depth, Accumulate accumulate) {
    if (c.empty()) return;
    bool const add = accumulate == Accumulate::yes;
    if constexpr (HasWorkers<B> && cpu::Blocked<A> && cpu::Blocked<W> && cpu::Blocked<C>) {
        bool const single = c.rows * c.cols * depth < cpu::single_task_work;
        index_t const tasks = single ? 1 : cpu::TaskGrid{c.rows, c.cols}.tasks();
        b.parallel_tasks(tasks, GemmTasks<A, W, C>{selected_isa(),
                                                   {a, a_ld, left, w, w_ld, right, c.data, c.ld,
                                                    c.rows, c.cols, depth, add},
                                                   single});
    } else {
        b.parallel_for(c.rows * c.cols,
                       GemmElement<A, W, C, space_of<B>>{strided(a, a_ld, left),
                                                         strided(w, w_ld, right), c, depth, add});
    }
}

struct Shape {
    index_t rows, cols;
    template <class T, class Space>
    Shape(MatrixView<T, Space> m)
      : rows(m.rows)
      , cols(m.cols) {}
};
/// Throws unless a gives [M,K], w [K,N] and c [M,N].
SEMOE_NOINLINE inline void expect_product(char const* name, index_t m, index_t n, bool same_depth,
                                          Shape a, Shape w, Shape c) {
    expects(same_depth && c.rows == m && c.cols == n, "{}: a is {}, w is {}, c is {}", name, a, w,
            c);
}
} // namespace detail

/// c (+)= a w^T. Each output element is one sum over k in order, in double where an operand is
/// double, else in float; it depends on no other row or column, nor on the number of threads.
/// @param a  [M,K], backend memory
/// @param w  [N,K], backend memory
/// @param c  [M,N], backend memory, not overlapping a or w
/// @throws precondition_error naming the three shapes when they do not fit
/// @sync enqueues
/// @cost 2 M N K flops, no allocation
template <Backend B, class A, class W, class C>
void gemm_nt(B& b, MatrixView<A, space_of<B>> a, MatrixView<W, space_of<B>> w,
             MatrixView<C, space_of<B>> c, Accumulate accumulate = Accumulate::no) {
    detail::expect_product("gemm_nt", a.rows, w.rows, a.cols == w.cols, a, w, c);
    detail::gemm<std::remove_const_t<A>, std::remove_const_t<W>, C>(
        b, a.data, a.ld, detail::Left::rows, w.data, w.ld, detail::Right::columns, c, a.cols,
        accumulate);
}

/// c (+)= a w, as gemm_nt.
/// @param a  [M,K]
/// @param w  [K,N]
/// @param c  [M,N]
template <Backend B, class A, class W, class C>
void gemm_nn(B& b, MatrixView<A, space_of<B>> a, MatrixView<W, space_of<B>> w,
             MatrixView<C, space_of<B>> c, Accumulate accumulate = Accumulate::no) {
    detail::expect_product("gemm_nn", a.rows, w.cols, a.cols == w.rows, a, w, c);
    detail::gemm<std::remove_const_t<A>, std::remove_const_t<W>, C>(
        b, a.data, a.ld, detail::Left::rows, w.data, w.ld, detail::Right::rows, c, a.cols,
        accumulate);
}

/// c (+)= a^T w, as gemm_nt. Added onto c, it continues the sum that c holds: two calls over
/// halves of K give the bits of one call, where C is the type of the sum.
/// @param a  [K,M]
/// @param w  [K,N]
/// @param c  [M,N]
template <Backend B, class A, class W, class C>
void gemm_tn(B& b, MatrixView<A, space_of<B>> a, MatrixView<W, space_of<B>> w,
             MatrixView<C, space_of<B>> c, Accumulate accumulate = Accumulate::no) {
    detail::expect_product("gemm_tn", a.cols, w.cols, a.rows == w.rows, a, w, c);
    detail::gemm<std::remove_const_t<A>, std::remove_const_t<W>, C>(
        b, a.data, a.ld, detail::Left::columns, w.data, w.ld, detail::Right::rows, c, a.rows,
        accumulate);
}

} // namespace semoe::ops
