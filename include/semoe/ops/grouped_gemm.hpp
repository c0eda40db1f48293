#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/product.hpp"
#include "semoe/ops/detail/elementwise.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/group.hpp"

#include <span>

namespace semoe::ops {

namespace detail {
/// One element of the rows that come out: every row takes the weights of its own expert.
template <class T, class Space>
struct GroupedRowElement {
    Group<std::byte const> group;
    MatrixView<T const, Space> in;
    index_t offset, w_row, w_col; ///< strides of w(k, n)
    MatrixView<T, Space> out;
    bool accumulate;
    SEMOE_HD void operator()(index_t i) const {
        auto const at = group.place(i / out.cols);
        index_t const n = i % out.cols;
        auto const* w = reinterpret_cast<T const*>(group.block[at.expert]) + offset;
        product_element(Strided<T const>{in.data, in.ld, 1}, Strided<T const>{w, w_row, w_col},
                        at.row, n, in.cols, out(at.row, n), accumulate);
    }
    Cost cost() const {
        Cost sum;
        for (int e = 0; e < group.size; ++e)
            if (group.rows[e] > 0)
                sum += product_cost<T, T, T>(group.rows[e], out.cols, in.cols, accumulate);
        return sum;
    }
};
/// One element of the gradient of an expert's weights: a sum over the expert's rows.
template <class T, class Space>
struct GroupedWeightElement {
    Group<std::byte> group;
    GroupMask mask;
    MatrixView<T const, Space> d_out, in;
    BlockSlice slice;
    SEMOE_HD void operator()(index_t i) const {
        using Sum = accumulate_t<T>;
        index_t const elements = slice.rows * slice.cols, n = i % elements / slice.cols,
                      k = i % slice.cols;
        int const expert = int(i / elements);
        index_t const rows = group.rows[expert], first = group.first_row[expert];
        if (rows == 0) return;
        auto* w = reinterpret_cast<Sum*>(group.block[expert]) + slice.offset;
        product_element(Strided<T const>{d_out.row(first), 1, d_out.ld},
                        Strided<T const>{in.row(first), in.ld, 1}, n, k, rows,
                        w[n * slice.cols + k], (mask >> expert & 1u) != 0);
    }
    Cost cost() const {
        Cost sum;
        for (int e = 0; e < group.size; ++e)
            if (group.rows[e] > 0)
                sum += product_cost<T, T, accumulate_t<T>>(slice.rows, slice.cols, group.rows[e],
                                                           (mask >> e & 1u) != 0);
        return sum;
    }
};
template <class T, class Space>
struct AddBias {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = 2, outputs = 1;

    Group<std::byte const> group;
    BlockSlice slice;
    MatrixView<T, Space> rows;

    SEMOE_HD T const* in(int i, GroupPlace at) const {
        auto const* block = reinterpret_cast<T const*>(group.block[at.expert]);
        return i == 0 ? rows.row(at.row) : block + slice.offset;
    }
    SEMOE_HD T* out(int, GroupPlace at) const { return rows.row(at.row); }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&x)[2][16], Real (&y)[1][16]) const {
        for (int j = 0; j < 16; ++j) y[0][j] = x[0][j] + x[1][j];
    }
};
/// Sixteen columns' sums over the rows of one expert.
template <class T, class Space>
struct GroupedBiasGradient {
    static constexpr index_t width = 16;

    Group<std::byte> group;
    GroupMask mask;
    MatrixView<T const, Space> d_out;
    BlockSlice slice;

    SEMOE_HD static constexpr index_t segments(index_t cols) { return (cols + width - 1) / width; }
    SEMOE_HD void operator()(index_t i) const {
        using Sum = accumulate_t<T>;
        index_t const per_expert = segments(slice.cols), begin = i % per_expert * width;
        int const expert = int(i / per_expert);
        index_t const n = min(width, slice.cols - begin), first = group.first_row[expert];
        if (group.rows[expert] == 0) return;
        Sum* out = reinterpret_cast<Sum*>(group.block[expert]) + slice.offset + begin;
        Sum sum[width] = {};
        if ((mask >> expert & 1u) != 0)
            for (index_t j = 0; j < n; ++j) sum[j] = out[j];
        for (index_t r = first; r < first + group.rows[expert]; ++r) {
            T const* from = d_out.row(r) + begin;
            if (n == width)
                for (index_t j = 0; j < width; ++j) sum[j] += convert<Sum>(from[j]);
            else
                for (index_t j = 0; j < n; ++j) sum[j] += convert<Sum>(from[j]);
        }
        for (index_t j = 0; j < n; ++j) out[j] = sum[j];
    }
};

/// The products of a group's experts on host workers, each cut into blocks: the tasks of one expert
/// after those of another. An expert's operands are found from the group when a task runs.
template <class Operands>
struct GroupedTasks {
    Isa isa;
    Operands operands;
    bool single;
    void operator()(index_t i, std::span<std::byte> scratch) const {
        for (int e = 0; e < operands.group.size; ++e) {
            auto const product = operands.product(e);
            if (single) {
                cpu::compute(isa, product, 0, 0, product.rows, product.cols, scratch);
                continue;
            }
            cpu::TaskGrid const grid{product.rows, product.cols};
            if (i < grid.tasks()) return grid.run(isa, product, i, scratch);
            i -= grid.tasks();
        }
    }
};
/// Rows times the weights of their expert.
template <class T>
struct GroupedRowOperands {
    Group<std::byte const> group;
    T const* in;
    index_t in_ld;
    BlockSlice slice;
    Right right;
    T* out;
    index_t out_ld, cols, depth;
    bool add;
    cpu::Product<T, T, T> product(int e) const {
        auto const* block = reinterpret_cast<T const*>(group.block[e]);
        bool const panels = right == Right::columns && slice.panels >= 0;
        return {in + group.first_row[e] * in_ld,
                in_ld,
                Left::rows,
                block + (panels ? slice.panels : slice.offset),
                slice.cols,
                panels ? Right::panels : right,
                out + group.first_row[e] * out_ld,
                out_ld,
                group.rows[e],
                cols,
                depth,
                add};
    }
};
template <class T>
struct GroupedWeightOperands {
    Group<std::byte> group;
    GroupMask mask;
    T const* d_out;
    index_t d_out_ld;
    T const* in;
    index_t in_ld;
    BlockSlice slice;
    cpu::Product<T, T, float> product(int e) const {
        // An expert without rows keeps its gradient: a product without rows has no tasks.
        index_t const first = group.first_row[e], depth = group.rows[e];
        return {d_out + first * d_out_ld,
                d_out_ld,
                Left::columns,
                in + first * in_ld,
                in_ld,
                Right::rows,
                reinterpret_cast<float*>(group.block[e]) + slice.offset,
                slice.cols,
                depth > 0 ? slice.rows : 0,
                slice.cols,
                depth,
                (mask >> e & 1u) != 0};
    }
};
template <Backend B, class Operands>
void grouped_product(B& b, Operands const& operands) {
    index_t work = 0, tasks = 0;
    for (int e = 0; e < operands.group.size; ++e) {
        auto const product = operands.product(e);
        work += product.rows * product.cols * product.depth;
        tasks += cpu::TaskGrid{product.rows, product.cols}.tasks();
    }
    bool const single = work < cpu::single_task_work;
    if (single) tasks = min(tasks, index_t(1));
    b.parallel_tasks(tasks, GroupedTasks<Operands>{selected_isa(), operands, single});
}
} // namespace detail

/// out = in w^T for the rows of every expert of the group, each with its own weights.
/// Rows outside the group keep what they hold. A row's bits depend on no other row.
/// @param g    the experts' rows and weight blocks
/// @param in   [R,K], backend memory
/// @param w    where the [N,K] weights of type T lie in each block
/// @param out  [R,N], backend memory, not overlapping in
/// @throws precondition_error naming the shape or the expert that does not fit
/// @sync enqueues
/// @cost 2 N K flops a row, no allocation
template <Backend B, class In, class T>
    requires std::same_as<std::remove_const_t<In>, T>
void grouped_gemm_nt(B& b, Group<std::byte const> const& g, MatrixView<In, space_of<B>> in,
                     BlockSlice w, MatrixView<T, space_of<B>> out) {
    detail::expect_rows("grouped_gemm_nt", g, in, w.cols);
    detail::expect_rows("grouped_gemm_nt", g, out, w.rows);
    if constexpr (HasWorkers<B> && cpu::Blocked<T>)
        detail::grouped_product(b, detail::GroupedRowOperands<T>{g, in.data, in.ld, w,
                                                                 detail::Right::columns, out.data,
                                                                 out.ld, out.cols, in.cols, false});
    else
        b.parallel_for(g.total_rows() * out.cols, detail::GroupedRowElement<T, space_of<B>>{
                                                      g, in, w.offset, 1, w.cols, out, false});
}

/// out (+)= in w for the rows of every expert: how the gradient of rows goes back.
/// @param in   [R,N]
/// @param w    where the [N,K] weights of type T lie in each block
/// @param out  [R,K]
template <Backend B, class In, class T>
    requires std::same_as<std::remove_const_t<In>, T>
void grouped_gemm_nn(B& b, Group<std::byte const> const& g, MatrixView<In, space_of<B>> in,
                     BlockSlice w, MatrixView<T, space_of<B>> out,
                     Accumulate accumulate = Accumulate::no) {
    detail::expect_rows("grouped_gemm_nn", g, in, w.rows);
    detail::expect_rows("grouped_gemm_nn", g, out, w.cols);
    bool const add = accumulate == Accumulate::yes;
    if constexpr (HasWorkers<B> && cpu::Blocked<T>)
        detail::grouped_product(b, detail::GroupedRowOperands<T>{g, in.data, in.ld, w,
                                                                 detail::Right::rows, out.data,
                                                                 out.ld, out.cols, in.cols, add});
    else
        b.parallel_for(g.total_rows() * out.cols, detail::GroupedRowElement<T, space_of<B>>{
                                                      g, in, w.offset, w.cols, 1, out, add});
}

/// w (+)= d_out^T in over the rows of each expert, in order of the rows: the weights' gradient.
/// Added onto a gradient, it continues the sum: two micro-batches give the bits of one batch.
/// An expert without rows is left alone.
/// @param gradients   the experts' rows and gradient blocks
/// @param accumulate  a set bit adds to that expert's gradient, a clear one overwrites it
/// @param d_out       [R,N]
/// @param in          [R,K]
/// @param w           where the [N,K] gradient of type accumulate_t<T> lies in each block
template <Backend B, class D, class In>
    requires std::same_as<std::remove_const_t<In>, std::remove_const_t<D>>
void grouped_gemm_tn(B& b, Group<std::byte> const& gradients, GroupMask accumulate,
                     MatrixView<D, space_of<B>> d_out, MatrixView<In, space_of<B>> in,
                     BlockSlice w) {
    detail::expect_rows("grouped_gemm_tn", gradients, d_out, w.rows);
    detail::expect_rows("grouped_gemm_tn", gradients, in, w.cols);
    using T = std::remove_const_t<D>;
    if constexpr (HasWorkers<B> && cpu::Blocked<T>)
        detail::grouped_product(b,
                                detail::GroupedWeightOperands<T>{gradients, accumulate, d_out.data,
                                                                 d_out.ld, in.data, in.ld, w});
    else
        b.parallel_for(
            gradients.size * w.rows * w.cols,
            detail::GroupedWeightElement<T, space_of<B>>{gradients, accumulate, d_out, in, w});
}

/// out += bias for the rows of every expert.
/// @param bias  where the [1,N] bias of type T lies in each block
/// @param out   [R,N]
template <Backend B, class T>
void grouped_add_bias(B& b, Group<std::byte const> const& g, BlockSlice bias,
                      MatrixView<T, space_of<B>> out) {
    detail::expect_rows("grouped_add_bias", g, out, bias.cols);
    detail::grouped_elementwise(b, g, out.cols, detail::AddBias<T, space_of<B>>{g, bias, out});
}

/// bias (+)= sum of d_out over the rows of each expert, in order; otherwise as grouped_gemm_tn.
/// @param d_out  [R,N]
/// @param bias   where the [1,N] gradient of type accumulate_t<T> lies in each block
template <Backend B, class D>
void grouped_bias_gradient(B& b, Group<std::byte> const& gradients, GroupMask accumulate,
                           MatrixView<D, space_of<B>> d_out, BlockSlice bias) {
    detail::expect_rows("grouped_bias_gradient", gradients, d_out, bias.cols);
    using Body = detail::GroupedBiasGradient<std::remove_const_t<D>, space_of<B>>;
    b.parallel_for(gradients.size * Body::segments(bias.cols),
                   Body{gradients, accumulate, d_out, bias});
}

} // namespace semoe::ops
