#pragma once

#include "semoe/ops/cpu/amx/block_kernel.hpp"
#include "semoe/ops/cpu/amx/byte_tiles.hpp"
#include "semoe/ops/cpu/avx512/byte_words.hpp"
#include "semoe/ops/cpu/feed_forward/tasks.hpp"
#include "semoe/ops/cpu/neon/byte_kernel.hpp"
#include "semoe/ops/cpu/portable/byte_kernel.hpp"
#include "semoe/ops/cpu/quantized/forward.hpp"

namespace semoe::ops::cpu {

/// Calls f(kernel) with the BlockKernel of bytes for an instruction set.
/// @pre is_available(isa)
template <class F>
void with_byte_kernel(Isa isa, F const& f) {
    auto const with = [&](auto&& kernel) { f(static_cast<BlockKernel&>(kernel)); };
    // Without dot products of bytes, AVX2 and AVX-512 have loops of their own, and call no kernel.
    if (isa <= Isa::avx512) return with(portable::ByteKernel{});
#if SEMOE_X86
    if (isa == Isa::amx)
        with(amx::TileKernel<amx::HardwareByteTiles>{});
    else
        with(avx512::VectorKernel<avx512::ByteDotWords>{});
#elif SEMOE_ARM
    if (isa == Isa::neon)
        with(neon::ByteKernel<neon::LongSums>{});
    else
        with(neon::ByteKernel<neon::DotSums>{});
#endif
}

template <class Format, class T>
constexpr index_t quantized_feed_forward_scratch(index_t hidden, index_t intermediate) {
    return quantized_forward_scratch_bytes<Format, T>(hidden, intermediate, feed_forward_rows);
}

/// The rows of a group's experts in blocks, each one task, or several that share its panels of
/// weights.
template <class Format, class T, class Block>
struct QuantizedTasks {
    enum class Part { all, in, down };
    using Unit = decltype(Block::unit);
    using Expert = QuantizedFeedForward<Format, T, Unit>;

    Isa isa;
    Group<std::byte const> group;
    Block block;
    IndexedRows<T const, HostSpace> x;
    MatrixView<T, HostSpace> act, out;
    int workers;
    index_t splits;
    Part part;

    Expert expert(int e) const {
        auto const of = [&](auto m) {
            return m.data ? m.row_range(group.first_row[e], group.rows[e]) : m;
        };
        std::byte const* const w = group.block[e];
        return {isa,
                block.unit,
                block.hidden,
                block.intermediate,
                block.in(w),
                block.down(w),
                block.in_bias(w),
                block.down_bias(w),
                x.row_range(group.first_row[e], group.rows[e]),
                of(act),
                of(out)};
    }
    QuantizedRows<Format> weights(Expert const& f) const {
        return part == Part::down ? f.down_rows() : f.in_rows();
    }
    /// The weights that this worker will want next, as far as one can know.
    QuantizedRows<Format> upcoming(index_t i) const {
        RowBlocks::Place next;
        if (!RowBlocks::find(group, splits, i + workers, next) || next.rows == 0) return {};
        auto const w = weights(expert(next.expert));
        return w.from(Range(w.panels(), next.split, splits).begin);
    }
    void operator()(index_t i, std::span<std::byte> scratch) const {
        RowBlocks::Place at;
        if (!RowBlocks::find(group, splits, i, at) || at.rows == 0) return;
        with_byte_kernel(isa, [&](BlockKernel& kernel) { run(kernel, at, upcoming(i), scratch); });
    }

private:
    SEMOE_NOINLINE void run(BlockKernel& kernel, RowBlocks::Place const& at,
                            QuantizedRows<Format> const& next, std::span<std::byte> scratch) const {
        auto const f = expert(at.expert);
        TaskScratch const memory(
            scratch, quantized_forward_scratch_bytes<Format, T>(f.hidden, f.intermediate, at.rows));
        if (part == Part::all) return forward(kernel, f, at.first, at.rows, next, memory.data());
        Range const panels(weights(f).panels(), at.split, splits);
        if (part == Part::in)
            forward_in(kernel, f, at.first, at.rows, panels.begin, panels.end, next, memory.data());
        else
            forward_down(kernel, f, at.first, at.rows, panels.begin, panels.end, next,
                         memory.data());
    }
};

template <class Format, class T, class B, class Block>
void run_quantized_feed_forward(B& b, Group<std::byte const> const& g, Block const& block,
                                IndexedRows<T const, HostSpace> const& in,
                                MatrixView<T, HostSpace> act, MatrixView<T, HostSpace> out) {
    using Tasks = QuantizedTasks<Format, T, Block>;
    using Part = typename Tasks::Part;
    Tasks tasks{selected_isa(), LongestFirst(g).sorted(g), block, in, {}, out, b.concurrency(), 1,
                Part::all};
    index_t const blocks = RowBlocks::of(tasks.group);
    if (blocks == 0) return;
    tasks.splits = splits_of(blocks, tasks.workers);
    if (tasks.splits == 1) return b.parallel_tasks(blocks, tasks);
    tasks.act = act;
    tasks.part = Part::in;
    b.parallel_tasks(blocks * tasks.splits, tasks);
    tasks.part = Part::down;
    b.parallel_tasks(blocks * tasks.splits, tasks);
}

} // namespace semoe::ops::cpu
