#pragma once

#include "semoe/ops/cpu/feed_forward/backward.hpp"
#include "semoe/ops/cpu/feed_forward/kernel.hpp"
#include "semoe/ops/cpu/feed_forward/tasks.hpp"
#include "semoe/ops/gradient_taker.hpp"

#include <concepts>
#include <cstdint>

namespace semoe::ops::cpu {

/// Enough for a task of forward or backward of any number of rows.
template <class T>
constexpr index_t feed_forward_scratch(Isa isa, index_t hidden, index_t intermediate,
                                       index_t inputs) {
    index_t bytes = 0;
    for (index_t const rows : columns_of_forms(isa, feed_forward_rows))
        bytes = max(bytes, forward_scratch_bytes<T>(isa, hidden, intermediate, rows));
    for (index_t rows = tile_rows; rows <= backward_rows; rows += tile_rows)
        bytes = max(bytes, backward_scratch_bytes<T>(isa, hidden, intermediate, inputs, rows));
    return bytes;
}

/// Blocks that the gradients of a group's experts go to.
struct GradientBlocks {
    std::byte* block[Group<>::capacity];
    GroupMask accumulate = 0;

    /// Those of experts in another order.
    static GradientBlocks sorted(LongestFirst const& order, Group<std::byte> const& g,
                                 GroupMask accumulate) {
        GradientBlocks out;
        for (int i = 0; i < g.size; ++i) {
            out.block[i] = g.block[order.expert[i]];
            out.accumulate |= (accumulate >> order.expert[i] & 1u) << i;
        }
        return out;
    }
    GradientRows rows(int e, BlockSlice const& s, float*) const {
        return {reinterpret_cast<float*>(block[e]) + s.offset, s.rows, s.cols,
                (accumulate >> e & 1u) != 0};
    }
};
/// A taker of them instead.
template <GradientTaker F>
struct TakenGradients {
    F taker;
    std::int8_t number[Group<>::capacity]; ///< that the taker knows an expert by

    TakenGradients(LongestFirst const& order, int size, F const& f)
      : taker(f) {
        for (int i = 0; i < size; ++i) number[i] = std::int8_t(order.expert[i]);
    }
    GradientRows rows(int e, BlockSlice const& s, float* room) const {
        return {room, s.rows, s.cols, false, ExpertTaker::of(taker, number[e]), s.offset};
    }
};

/// Backward: one task an expert, whose rows come in blocks, or several that share its matrices.
/// @tparam To  GradientBlocks or TakenGradients
template <class T, class Block, class To>
struct FeedForwardBackwardTasks {
    enum class Part { all, unit, in, weights, rest };
    using Unit = decltype(Block::unit);
    using Expert = FeedForwardBackward<T, Unit>;

    Isa isa;
    Group<std::byte const> group;
    To to;
    Block block;
    IndexedRows<T const, HostSpace> in;
    MatrixView<T const, HostSpace> saved, d_out;
    MatrixView<T, HostSpace> d_pre, d_in;
    int workers;
    index_t splits = 1;
    Part part = Part::all;

    /// @param room  for gradients that somebody takes
    Expert expert(int e, float* room = nullptr) const {
        auto const* w = reinterpret_cast<T const*>(group.block[e]);
        auto const of = [&](auto m) { return m.row_range(group.first_row[e], group.rows[e]); };
        return {TileForm::of<T>(isa),
                block.unit,
                block.hidden(),
                block.intermediate(),
                w + block.in.offset,
                w + block.down.offset,
                in.row_range(group.first_row[e], group.rows[e]),
                of(saved),
                of(d_out),
                of(d_pre),
                of(d_in),
                to.rows(e, block.in, room),
                to.rows(e, block.down, room)};
    }
    /// The weights that this worker will want next, as far as one can know.
    WeightColumns<T> upcoming(index_t i) const {
        index_t const next = (i + workers) / splits;
        if (next >= group.size || part != Part::all) return {};
        return expert(int(next)).down_columns();
    }
    void operator()(index_t i, std::span<std::byte> scratch) const {
        with_block_kernel<T>(TileForm::of<T>(isa),
                             [&](BlockKernel& kernel) { run(kernel, i, scratch); });
    }

private:
    bool does(Part one) const {
        return part == Part::all || part == one || (part == Part::rest && one != Part::unit);
    }
    SEMOE_NOINLINE void run(BlockKernel& kernel, index_t i, std::span<std::byte> scratch) const {
        index_t const all = group.rows[i / splits], split = i % splits;
        index_t const hidden = block.hidden(), inputs = block.in.rows,
                      most = min(all, backward_rows);
        TaskScratch const memory(
            scratch, backward_scratch_bytes<T>(isa, hidden, block.intermediate(), inputs, most));
        char* const room = memory.data() + outer_scratch_bytes<T>(isa, hidden, inputs, most);
        auto const f = expert(int(i / splits), reinterpret_cast<float*>(room));
        auto const range = [&](index_t n) { return Range(n, split, splits); };
        for (index_t first = 0; first < all; first += backward_rows) {
            index_t const rows = min(backward_rows, all - first);
            if (does(Part::unit)) {
                auto const panels = range(f.panels(f.down_columns(), rows));
                backward_unit(kernel, f, first, rows, panels.begin, panels.end, f.in_columns(),
                              memory.data());
            }
            if (does(Part::in)) {
                auto const panels = range(f.panels(f.in_columns(), rows));
                backward_in(kernel, f, first, rows, panels.begin, panels.end,
                            first + rows < all ? f.down_columns() : upcoming(i), memory.data());
            }
            if (!does(Part::weights)) continue;
            auto const weights = [&](GradientRows g, auto const& compute) {
                g.add |= first > 0;
                auto const pairs = range((g.rows + outer_rows - 1) / outer_rows);
                if (pairs.begin < pairs.end)
                    compute(kernel, f, first, rows, g, pairs.begin * outer_rows,
                            min(pairs.end * outer_rows, g.rows), memory.data());
            };
            weights(f.d_w_down, backward_down_weights<T, Unit>);
            weights(f.d_w_in, backward_in_weights<T, Unit>);
        }
    }
};

/// Runs the tasks of a group whose experts are sorted.
template <class B, class Tasks>
void run_backward_tasks(B& b, Tasks tasks) {
    using Part = typename Tasks::Part;
    auto& group = tasks.group;
    while (group.size > 0 && group.rows[group.size - 1] == 0) --group.size;
    if (group.size == 0) return;
    tasks.splits = splits_of(group.size, tasks.workers);
    if (tasks.splits == 1) return b.parallel_tasks(group.size, tasks);
    auto const run = [&](Part part) {
        tasks.part = part;
        b.parallel_tasks(group.size * tasks.splits, tasks);
    };
    run(Part::unit);
    if constexpr (std::same_as<decltype(tasks.to), GradientBlocks>) return run(Part::rest);
    // Who takes gradients may change the weights that `in` reads.
    run(Part::in);
    run(Part::weights);
}

template <class T, class B, class Block>
void run_feed_forward_backward(B& b, Group<std::byte const> const& weights,
                               Group<std::byte> const& gradients, GroupMask accumulate,
                               Block const& block, IndexedRows<T const, HostSpace> const& in,
                               MatrixView<T const, HostSpace> saved,
                               MatrixView<T const, HostSpace> d_out, MatrixView<T, HostSpace> d_pre,
                               MatrixView<T, HostSpace> d_in) {
    LongestFirst const order(weights);
    run_backward_tasks(b, FeedForwardBackwardTasks<T, Block, GradientBlocks>{
                              selected_isa(), order.sorted(weights),
                              GradientBlocks::sorted(order, gradients, accumulate), block, in,
                              saved, d_out, d_pre, d_in, b.concurrency()});
}
/// @pre no expert has more than backward_rows rows: of blocks of rows only the last has the sums
template <class T, class B, class Block, GradientTaker F>
void run_feed_forward_backward(B& b, Group<std::byte const> const& weights, F const& taker,
                               Block const& block, IndexedRows<T const, HostSpace> const& in,
                               MatrixView<T const, HostSpace> saved,
                               MatrixView<T const, HostSpace> d_out, MatrixView<T, HostSpace> d_pre,
                               MatrixView<T, HostSpace> d_in) {
    LongestFirst const order(weights);
    run_backward_tasks(b, FeedForwardBackwardTasks<T, Block, TakenGradients<F>>{
                              selected_isa(), order.sorted(weights),
                              TakenGradients<F>(order, weights.size, taker), block, in, saved,
                              d_out, d_pre, d_in, b.concurrency()});
}

} // namespace semoe::ops::cpu
