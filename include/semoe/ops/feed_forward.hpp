#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/ops/activation.hpp"
#include "semoe/ops/cpu/feed_forward/backward_tasks.hpp"
#include "semoe/ops/cpu/feed_forward/forward_tasks.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/gradient_taker.hpp"
#include "semoe/ops/group.hpp"
#include "semoe/ops/grouped_gemm.hpp"

namespace semoe::ops {

/// Where an expert of two products keeps its weights: unit(x in^T + in_bias) down^T + down_bias.
template <class Unit>
struct FeedForwardBlock {
    Unit unit;
    BlockSlice in, down;           ///< [Unit::inputs * I, H] and [H, I]
    BlockSlice in_bias, down_bias; ///< [1, Unit::inputs * I] and [1, H]; without rows: none

    index_t hidden() const { return down.rows; }
    index_t intermediate() const { return down.cols; }
};

/// Whether a backend has one operation for a whole expert over T, which grouped_feed_forward needs.
/// Its results have other bits than the products one by one.
template <class B, class T>
inline constexpr bool has_fused_feed_forward = HasWorkers<B> &&
                                               (std::same_as<T, float> || std::same_as<T, bf16>);

/// Scratch that a worker should have for grouped_feed_forward; zero where there is none.
template <class B, class T, class Unit>
std::size_t feed_forward_scratch_bytes(FeedForwardBlock<Unit> const& block) {
    if constexpr (has_fused_feed_forward<B, T>)
        return std::size_t(cpu::feed_forward_scratch<T>(selected_isa(), block.hidden(),
                                                        block.intermediate(), block.in.rows));
    else
        return 0;
}

namespace detail {
/// Throws unless the slices of a block fit one another.
template <class Unit>
void expect_block(char const* name, FeedForwardBlock<Unit> const& block) {
    index_t const H = block.hidden(), inputs = Unit::inputs * block.intermediate();
    auto const expect_slice = [&](char const* slice, BlockSlice const& s, index_t rows,
                                  index_t cols) {
        expects(s.rows == rows && s.cols == cols,
                "{}: {} is [{},{}], must be [{},{}] beside down [{},{}]", name, slice, s.rows,
                s.cols, rows, cols, block.down.rows, block.down.cols);
    };
    expect_slice("in", block.in, inputs, H);
    if (block.in_bias.rows > 0) expect_slice("in_bias", block.in_bias, 1, inputs);
    if (block.down_bias.rows > 0) expect_slice("down_bias", block.down_bias, 1, H);
}
} // namespace detail

/// The whole expert for the rows of every expert of the group. The activation between the products
/// stays in the cache of the processor that computed it, and is rounded once. A row's bits depend
/// on no other row.
/// @tparam T     float or bf16
/// @param in     [R,H], backend memory; rows may be read through an index
/// @param saved  [R, Unit::inputs * I], overwritten by what enters the unit; empty: not kept
/// @param act    [R,I], may be overwritten
/// @param out    [R,H], overwritten; empty: only `saved` is computed
/// @throws precondition_error naming the slice, the shape or the expert that does not fit
/// @sync enqueues
/// @cost 2 H I (Unit::inputs + 1) flops a row; reads every weight once for 192 rows; no allocation
///       where workers have their scratch
template <class T, HasWorkers B, class Unit>
    requires has_fused_feed_forward<B, T>
void grouped_feed_forward(B& b, Group<std::byte const> const& g,
                          FeedForwardBlock<Unit> const& block,
                          IndexedRows<T const, HostSpace> const& in, MatrixView<T, HostSpace> saved,
                          MatrixView<T, HostSpace> act, MatrixView<T, HostSpace> out) {
    char const* const name = "grouped_feed_forward";
    detail::expect_block(name, block);
    detail::expect_rows(name, g, in, block.hidden());
    if (!saved.empty()) detail::expect_rows(name, g, saved, block.in.rows);
    if (!out.empty()) {
        detail::expect_rows(name, g, act, block.intermediate());
        detail::expect_rows(name, g, out, block.hidden());
    }
    cpu::run_feed_forward<T>(b, g, block, in, saved, act, out);
}

namespace detail {
template <class Block, class In, class Rows, class Out>
void expect_backward_rows(Group<std::byte const> const& g, Block const& block, In const& in,
                          Rows const& saved, Rows const& d_out, Out const& d_pre, Out const& d_in) {
    char const* const name = "grouped_feed_forward_backward";
    expect_block(name, block);
    expect_rows(name, g, in, block.hidden());
    expect_rows(name, g, saved, block.in.rows);
    expect_rows(name, g, d_out, block.hidden());
    expect_rows(name, g, d_pre, block.in.rows);
    expect_rows(name, g, d_in, block.hidden());
}
} // namespace detail

/// The gradients of grouped_feed_forward: those of in, and of the weights and biases.
/// @param gradients   the experts' rows and gradient blocks
/// @param accumulate  a set bit adds to that expert's gradient, a clear one overwrites it; the
///                    gradients of an expert without rows stay as they are
/// @param in          [R,H], what forward read
/// @param saved       [R, Unit::inputs * I], what forward saved
/// @param d_out       [R,H]
/// @param d_pre       [R, Unit::inputs * I], overwritten: the gradient of saved
/// @param d_in        [R,H], overwritten
/// @throws precondition_error naming the slice, the shape or the expert that does not fit
/// @sync enqueues
/// @cost 4 H I (Unit::inputs + 1) flops a row; reads every weight once for 384 rows, writes every
///       gradient once
template <class T, HasWorkers B, class Unit>
    requires has_fused_feed_forward<B, T>
void grouped_feed_forward_backward(B& b, Group<std::byte const> const& weights,
                                   Group<std::byte> const& gradients, GroupMask accumulate,
                                   FeedForwardBlock<Unit> const& block,
                                   IndexedRows<T const, HostSpace> const& in,
                                   MatrixView<T const, HostSpace> saved,
                                   MatrixView<T const, HostSpace> d_out,
                                   MatrixView<T, HostSpace> d_pre, MatrixView<T, HostSpace> d_in) {
    detail::expect_backward_rows(weights, block, in, saved, d_out, d_pre, d_in);
    expects(gradients.size == weights.size,
            "grouped_feed_forward_backward: weights of {} experts, gradients of {}", weights.size,
            gradients.size);
    for (int i = 0; i < weights.size; ++i)
        expects(
            gradients.first_row[i] == weights.first_row[i] && gradients.rows[i] == weights.rows[i],
            "grouped_feed_forward_backward: expert {} of the group has {} rows from {} on, its "
            "gradients {} from {} on",
            i, weights.rows[i], weights.first_row[i], gradients.rows[i], gradients.first_row[i]);
    cpu::run_feed_forward_backward<T>(b, weights, gradients, accumulate, block, in, saved, d_out,
                                      d_pre, d_in);
    if (block.in_bias.rows > 0)
        grouped_bias_gradient(b, gradients, accumulate, d_pre, block.in_bias);
    if (block.down_bias.rows > 0)
        grouped_bias_gradient(b, gradients, accumulate, d_out, block.down_bias);
}
/// Most rows an expert may have where somebody takes its gradients.
inline constexpr index_t taken_gradient_rows = cpu::backward_rows;

/// The same where somebody takes the gradients, some rows of a matrix at a time: no memory holds
/// them. When an expert's first ones are taken, nobody reads its weights any more.
/// @param taker  told of every element of every expert with rows, once; others as above
/// @throws precondition_error naming the slice, the shape or the expert that does not fit, an
/// expert
///         of more than taken_gradient_rows rows, or biases
/// @sync enqueues
/// @cost as above, but for the writes; 32 rows of a matrix in floats of a worker's scratch
template <class T, HasWorkers B, class Unit, GradientTaker F>
    requires has_fused_feed_forward<B, T>
void grouped_feed_forward_backward(B& b, Group<std::byte const> const& weights, F const& taker,
                                   FeedForwardBlock<Unit> const& block,
                                   IndexedRows<T const, HostSpace> const& in,
                                   MatrixView<T const, HostSpace> saved,
                                   MatrixView<T const, HostSpace> d_out,
                                   MatrixView<T, HostSpace> d_pre, MatrixView<T, HostSpace> d_in) {
    detail::expect_backward_rows(weights, block, in, saved, d_out, d_pre, d_in);
    for (int i = 0; i < weights.size; ++i)
        expects(weights.rows[i] <= taken_gradient_rows,
                "grouped_feed_forward_backward: expert {} of the group has {} rows, of at most {}",
                i, weights.rows[i], taken_gradient_rows);
    expects(block.in_bias.rows == 0 && block.down_bias.rows == 0,
            "grouped_feed_forward_backward: nobody can take the gradients of biases");
    cpu::run_feed_forward_backward<T>(b, weights, taker, block, in, saved, d_out, d_pre, d_in);
}

} // namespace semoe::ops
