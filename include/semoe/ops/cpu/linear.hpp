#pragma once

#include "semoe/ops/cpu/feed_forward/backward.hpp"
#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/feed_forward/kernel.hpp"
#include "semoe/ops/cpu/feed_forward/tasks.hpp"

namespace semoe::ops::cpu {

/// Rows in blocks and, where there are few of them, panels of weights in ranges: one task each.
struct LinearTasks {
    index_t rows, each, splits;

    LinearTasks(index_t all, int workers)
      : rows(all)
      , each(min((all / (4 * index_t(workers)) + 31) / 32 * 32, feed_forward_rows)) {
        each = max(each, index_t(32));
        splits = splits_of(blocks(), workers);
    }
    index_t blocks() const { return (rows + each - 1) / each; }
    index_t tasks() const { return blocks() * splits; }
    index_t first(index_t i) const { return i / splits * each; }
    index_t count(index_t i) const { return min(each, rows - first(i)); }
    Range range(index_t panels, index_t i) const { return {panels, i % splits, splits}; }
};

template <class T>
constexpr index_t linear_scratch(Isa isa, index_t inputs, index_t outputs) {
    auto const form = TileForm::of<T>(isa);
    index_t bytes = 0;
    for (index_t const rows : columns_of_forms(isa, feed_forward_rows)) {
        auto const own = TileForm::of<T>(isa, rows);
        bytes = max(bytes, own.bytes(rows, inputs) + by_rows_scratch_bytes<T>(own, inputs, rows));
    }
    for (index_t rows = tile_rows; rows <= backward_rows; rows += tile_rows) {
        index_t const blocks = blocks_of_16(rows), steps = form.steps(rows);
        bytes = max(bytes,
                    form.bytes(rows, outputs) + by_columns_scratch_bytes<T>(form, blocks, inputs));
        bytes = max(bytes, (blocks_of_16(outputs) + blocks_of_16(inputs) + 2) * steps * tile_bytes);
    }
    return bytes;
}

/// y = x w^T.
template <class T>
struct LinearForward {
    Isa isa;
    LinearTasks tasks;
    MatrixView<T const, HostSpace> x, w;
    MatrixView<T, HostSpace> y;

    void operator()(index_t i, std::span<std::byte> scratch) const {
        TaskScratch const memory(scratch, linear_scratch<T>(isa, w.cols, w.rows));
        Parts parts(memory.data());
        index_t const first = tasks.first(i), n = tasks.count(i);
        auto const form = TileForm::of<T>(isa, n);
        char* const words = parts.take(form.bytes(n, x.cols));
        tile_words_of(form, detail::host_rows(x, first, n), words);
        auto const rows = WeightRows<T>::of(w.data, w.rows, w.cols);
        Range const panels = tasks.range(rows.panels(), i);
        with_block_kernel<T>(form, [&](BlockKernel& kernel) {
            multiply_by_rows(form, kernel, rows, panels.begin, panels.end, words, n,
                             WeightRows<T>{}, parts.rest(),
                             detail::FinishRows<T>{isa, rows, nullptr, y.row_range(first, n)});
        });
    }
};
/// dx = dy w.
template <class T>
struct LinearBackwardInput {
    Isa isa;
    LinearTasks tasks;
    MatrixView<T const, HostSpace> dy, w;
    MatrixView<T, HostSpace> dx;

    void operator()(index_t i, std::span<std::byte> scratch) const {
        TaskScratch const memory(scratch, linear_scratch<T>(isa, w.cols, w.rows));
        Parts parts(memory.data());
        index_t const first = tasks.first(i), n = tasks.count(i), blocks = blocks_of_16(n);
        auto const form = TileForm::of<T>(isa);
        char* const rows = parts.take(form.bytes(n, dy.cols));
        tile_left(form, detail::host_rows(dy, first, n), rows);
        WeightColumns<T> const columns{w.data, w.ld, w.rows, w.cols};
        Range const panels = tasks.range(ColumnPanels<T>(form, blocks, w.cols).panels, i);
        with_block_kernel<T>(form, [&](BlockKernel& kernel) {
            multiply_by_columns(isa, kernel, rows, n, columns, panels.begin, panels.end,
                                WeightColumns<T>{}, parts.rest(),
                                detail::FinishColumns<T>{isa, dx.row_range(first, n)});
        });
    }
};
/// dw (+)= dy^T x: a task has some rows of dw.
template <class T>
struct LinearBackwardWeights {
    Isa isa;
    index_t tasks;
    MatrixView<T const, HostSpace> dy, x;
    GradientRows dw;

    void operator()(index_t i, std::span<std::byte> scratch) const {
        TaskScratch const memory(scratch, linear_scratch<T>(isa, dw.cols, dw.rows));
        Range const pairs((dw.rows + 31) / 32, i, tasks);
        index_t const begin = pairs.begin * 32, end = min(pairs.end * 32, dw.rows);
        if (begin >= end) return;
        auto const form = TileForm::of<T>(isa);
        with_block_kernel<T>(form, [&](BlockKernel& kernel) {
            auto g = dw.row_range(begin, end);
            for (index_t first = 0; first < x.rows; first += backward_rows, g.add = true) {
                index_t const rows = min(backward_rows, x.rows - first);
                index_t const steps = form.steps(rows);
                Parts parts(memory.data());
                char* const left = parts.take(blocks_of_16(end - begin) * steps * tile_bytes);
                tile_transposed(
                    isa, detail::host_rows(dy, first, rows).part(0, begin, rows, end - begin),
                    left);
                tile_by_columns(isa, detail::host_rows(x, first, rows), parts.rest());
                multiply_outer(form, kernel, left, parts.rest(), rows, g);
            }
        });
    }
};

template <class T, class B>
void run_linear(B& b, MatrixView<T const, HostSpace> x, MatrixView<T const, HostSpace> w,
                MatrixView<T, HostSpace> y) {
    LinearTasks const tasks(x.rows, b.concurrency());
    b.parallel_tasks(tasks.tasks(), LinearForward<T>{selected_isa(), tasks, x, w, y});
}
template <class T, class B>
void run_linear_backward_input(B& b, MatrixView<T const, HostSpace> dy,
                               MatrixView<T const, HostSpace> w, MatrixView<T, HostSpace> dx) {
    LinearTasks const tasks(dy.rows, b.concurrency());
    b.parallel_tasks(tasks.tasks(), LinearBackwardInput<T>{selected_isa(), tasks, dy, w, dx});
}
template <class T, class B>
void run_linear_backward_weights(B& b, MatrixView<T const, HostSpace> dy,
                                 MatrixView<T const, HostSpace> x, MatrixView<float, HostSpace> dw,
                                 bool add) {
    index_t const tasks = min(2 * index_t(b.concurrency()), (dw.rows + 31) / 32);
    b.parallel_tasks(tasks, LinearBackwardWeights<T>{
                                selected_isa(), tasks, dy, x, {dw.data, dw.rows, dw.cols, add}});
}

} // namespace semoe::ops::cpu
