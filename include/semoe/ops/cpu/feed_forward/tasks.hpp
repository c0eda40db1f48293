#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/view.hpp"
#include "semoe/ops/cpu/amx/block_kernel.hpp"
#include "semoe/ops/cpu/avx2/block_kernel.hpp"
#include "semoe/ops/cpu/avx512/block_kernel.hpp"
#include "semoe/ops/cpu/feed_forward/backward.hpp"
#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/portable/block_kernel.hpp"
#include "semoe/ops/gradient_taker.hpp"
#include "semoe/ops/group.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

namespace semoe::ops::cpu {

/// Rows that one task takes at a time, so that they stay in L2 while the weights stream by.
inline constexpr index_t feed_forward_rows = 192;
/// The same in backward, where every block but the first reads and writes a gradient once more.
inline constexpr index_t backward_rows = 384;

/// Enough for a task of any number of rows.
template <class T>
constexpr index_t feed_forward_scratch(Isa isa, index_t hidden, index_t intermediate,
                                       index_t inputs) {
    index_t bytes = max(forward_scratch_bytes<T>(isa, hidden, intermediate, feed_forward_rows),
                        forward_scratch_bytes<T>(isa, hidden, intermediate, few_columns));
    for (index_t rows = tile_rows; rows <= backward_rows; rows += tile_rows)
        bytes = max(bytes, backward_scratch_bytes<T>(isa, hidden, intermediate, inputs, rows));
    return bytes;
}

/// f(kernel) of two kernels: that of tiles of floats, or that of a few columns of bf16 as they are.
template <class T, class Floats, class FewWidened, class F>
void with_kernel_of_floats(TileForm form, F const& f) {
    if constexpr (!std::same_as<T, float>)
        if (!form.widens<T>()) return f(FewWidened{});
    f(Floats{});
}
/// Calls f(kernel) with the BlockKernel of tiles in a form, made of elements of T.
/// @pre is_available(form.isa)
template <class T, class F>
void with_block_kernel(TileForm form, F const& f) {
    auto const with = [&](auto&& kernel) { f(static_cast<BlockKernel&>(kernel)); };
    if (form.isa == Isa::portable) {
        using V = portable::Vectors;
        with_kernel_of_floats<T, portable::FloatKernel<V>,
                              portable::FewKernel<portable::WidenedWords<V>>>(form, with);
        return;
    }
#if SEMOE_X86
    if (form.isa == Isa::avx2)
        with_kernel_of_floats<T, avx2::VectorKernel<avx2::FloatWords>,
                              avx2::FewKernel<avx2::WidenedWords>>(form, with);
    else if constexpr (std::same_as<T, float>)
        with(avx512::VectorKernel<avx512::FloatWords>{});
    else if (form.isa == Isa::amx)
        with(amx::TileKernel<amx::HardwareTiles>{});
    else if (form.isa == Isa::avx512_bf16)
        with(avx512::VectorKernel<avx512::DotWords>{});
    else
        with(avx512::VectorKernel<avx512::WidenedWords>{});
#elif SEMOE_ARM
    using V = neon::Vectors;
    with_kernel_of_floats<T, portable::FloatKernel<V>,
                          portable::FewKernel<portable::WidenedWords<V>>>(form, with);
#endif
}

/// A worker's scratch where it is large enough, else memory for one task.
class TaskScratch {
public:
    TaskScratch(std::span<std::byte> scratch, index_t bytes)
      : data_(reinterpret_cast<char*>(scratch.data())) {
        if (index_t(scratch.size()) >= bytes) return;
        own_.reset(new (std::align_val_t{64}) char[std::size_t(bytes)]);
        data_ = own_.get();
    }
    char* data() const { return data_; }

private:
    struct Free {
        void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    std::unique_ptr<char[], Free> own_;
    char* data_;
};

/// Numbers of a group's experts in falling order of rows, so that the last tasks are short.
struct LongestFirst {
    int expert[Group<>::capacity];

    template <class Byte>
    explicit LongestFirst(Group<Byte> const& g) {
        for (int i = 0; i < g.size; ++i) expert[i] = i;
        // std::stable_sort would allocate.
        std::sort(expert, expert + g.size, [&](int a, int b) {
            return g.rows[a] != g.rows[b] ? g.rows[a] > g.rows[b] : a < b;
        });
    }
    template <class Byte>
    Group<Byte> sorted(Group<Byte> const& g) const {
        Group<Byte> out;
        for (int i = 0; i < g.size; ++i)
            out.add(g.first_row[expert[i]], g.rows[expert[i]], g.block[expert[i]]);
        return out;
    }
};

/// Task `split` of the `splits` that share a range of [0, n) units.
struct Range {
    index_t begin, end;
    Range(index_t n, index_t split, index_t splits)
      : begin(n * split / splits)
      , end(n * (split + 1) / splits) {}
};

/// How many tasks share an expert where there are too few experts to keep all workers busy.
inline index_t splits_of(index_t blocks, int workers) {
    index_t const enough = 4 * index_t(workers);
    return workers == 1 || blocks >= enough ? 1 : (2 * enough + blocks - 1) / blocks;
}

/// The rows of a group's experts in blocks, numbered through the group; `splits` tasks share each.
struct RowBlocks {
    struct Place {
        int expert;
        index_t first, rows; ///< of the expert's rows
        index_t split;
    };

    static index_t of(index_t rows) { return (rows + feed_forward_rows - 1) / feed_forward_rows; }
    static index_t of(Group<std::byte const> const& group) {
        index_t n = 0;
        for (int e = 0; e < group.size; ++e) n += of(group.rows[e]);
        return n;
    }
    /// Where task i works. @return false beyond the last task
    static bool find(Group<std::byte const> const& group, index_t splits, index_t i, Place& at) {
        at.split = i % splits;
        i /= splits;
        for (at.expert = 0; at.expert < group.size; ++at.expert) {
            index_t const rows = group.rows[at.expert], n = of(rows);
            if (i >= n) {
                i -= n;
                continue;
            }
            index_t const each = ((rows + n - 1) / n + 31) / 32 * 32;
            at.first = min(i * each, rows);
            at.rows = min(each, rows - at.first);
            return true;
        }
        return false;
    }
};

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
