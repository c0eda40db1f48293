#pragma once

#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/feed_forward/kernel.hpp"
#include "semoe/ops/cpu/feed_forward/tasks.hpp"

namespace semoe::ops::cpu {

/// Forward: the rows of a group's experts in blocks, each one task, or several that share its
/// panels of weights.
template <class T, class Block>
struct FeedForwardTasks {
    enum class Part { all, in, down };
    using Expert = FeedForward<T, decltype(Block::unit)>;

    Isa isa;
    Group<std::byte const> group;
    Block block;
    IndexedRows<T const, HostSpace> x;
    MatrixView<T, HostSpace> saved, act, out;
    int workers;
    index_t splits;
    Part part;

    /// @param rows  that a task takes
    Expert expert(int e, index_t rows) const {
        auto const* w = reinterpret_cast<T const*>(group.block[e]);
        auto const of = [&](auto m) {
            return m.data ? m.row_range(group.first_row[e], group.rows[e]) : m;
        };
        auto const bias = [&](BlockSlice const& s) { return s.rows ? w + s.offset : nullptr; };
        return {TileForm::of<T>(isa, rows),
                block.unit,
                block.hidden(),
                block.intermediate(),
                w + block.in.offset,
                bias(block.in_bias),
                w + block.down.offset,
                bias(block.down_bias),
                x.row_range(group.first_row[e], group.rows[e]),
                of(saved),
                of(act),
                of(out)};
    }
    WeightRows<T> weights(Expert const& f) const {
        return part == Part::down ? f.down_rows() : f.in_rows();
    }
    /// The weights that this worker will want next, as far as one can know.
    WeightRows<T> upcoming(index_t i) const {
        RowBlocks::Place next;
        if (!RowBlocks::find(group, splits, i + workers, next) || next.rows == 0) return {};
        auto const w = weights(expert(next.expert, next.rows));
        return w.from(Range(w.panels(), next.split, splits).begin);
    }
    void operator()(index_t i, std::span<std::byte> scratch) const {
        RowBlocks::Place at;
        if (!RowBlocks::find(group, splits, i, at) || at.rows == 0) return;
        with_block_kernel<T>(TileForm::of<T>(isa, at.rows),
                             [&](BlockKernel& kernel) { run(kernel, at, upcoming(i), scratch); });
    }

private:
    SEMOE_NOINLINE void run(BlockKernel& kernel, RowBlocks::Place const& at,
                            WeightRows<T> const& next, std::span<std::byte> scratch) const {
        auto const f = expert(at.expert, at.rows);
        TaskScratch const memory(scratch,
                                 forward_scratch_bytes<T>(isa, f.hidden, f.intermediate, at.rows));
        if (part == Part::all) return forward(kernel, f, at.first, at.rows, next, memory.data());
        Range const panels(weights(f).panels(), at.split, splits);
        if (part == Part::in)
            forward_in(kernel, f, at.first, at.rows, panels.begin, panels.end, next, memory.data());
        else
            forward_down(kernel, f, at.first, at.rows, panels.begin, panels.end, next,
                         memory.data());
    }
};

template <class T, class B, class Block>
void run_feed_forward(B& b, Group<std::byte const> const& g, Block const& block,
                      IndexedRows<T const, HostSpace> const& in, MatrixView<T, HostSpace> saved,
                      MatrixView<T, HostSpace> act, MatrixView<T, HostSpace> out) {
    using Tasks = FeedForwardTasks<T, Block>;
    using Part = typename Tasks::Part;
    bool const pre_only = out.empty();
    Tasks tasks{
        selected_isa(), LongestFirst(g).sorted(g), block, in, saved, {}, out, b.concurrency(), 1,
        Part::all};
    index_t const blocks = RowBlocks::of(tasks.group);
    if (blocks == 0) return;
    tasks.splits = splits_of(blocks, tasks.workers);
    if (!pre_only && tasks.splits == 1) return b.parallel_tasks(blocks, tasks);
    tasks.part = Part::in;
    if (!pre_only) tasks.act = act;
    b.parallel_tasks(blocks * tasks.splits, tasks);
    if (pre_only) return;
    tasks.part = Part::down;
    b.parallel_tasks(blocks * tasks.splits, tasks);
}

} // namespace semoe::ops::cpu
