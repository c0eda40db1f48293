#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/ops/activation.hpp"

#include <benchmark/benchmark.h>
#include <cmath>
#include <vector>

/// Elementwise work between the products of an expert, one thread, beside a loop over std::exp.

using namespace semoe;

namespace {

template <class T>
struct Rows {
    index_t rows, cols;
    std::vector<T> pre, out;
    ops::Group<> group;
    MatrixView<T, HostSpace> pre_view, out_view;

    Rows(index_t r, index_t c)
      : rows(r)
      , cols(c)
      , pre(std::size_t(2 * r * c))
      , out(std::size_t(r * c))
      , pre_view(pre.data(), r, 2 * c)
      , out_view(out.data(), r, c) {
        for (std::size_t i = 0; i < pre.size(); ++i) pre[i] = T(float(i % 97) * 0.1f - 5);
        group.add(0, rows, nullptr);
    }
};

void count(benchmark::State& state, index_t elements) {
    state.counters["elements/s"] =
        benchmark::Counter(double(elements), benchmark::Counter::kIsIterationInvariantRate);
}

template <class T, class Act>
void gate(benchmark::State& state) {
    CpuBackend b{.threads = 1};
    Rows<T> rows(state.range(0), 1024);
    for (auto _ : state)
        ops::grouped_unit(b, rows.group, ops::unit::Gated<Act>{}, rows.pre_view, rows.out_view);
    count(state, rows.rows * rows.cols);
}
template <class T, class Act>
void gate_backward(benchmark::State& state) {
    CpuBackend b{.threads = 1};
    Rows<T> rows(state.range(0), 1024);
    std::vector<T> d(rows.pre);
    MatrixView<T, HostSpace> d_pre{d.data(), rows.rows, 2 * rows.cols};
    for (auto _ : state)
        ops::grouped_unit_backward(b, rows.group, ops::unit::Gated<Act>{}, rows.pre_view,
                                   rows.out_view, d_pre);
    count(state, rows.rows * rows.cols);
}
void std_exp_loop(benchmark::State& state) {
    Rows<float> rows(state.range(0), 1024);
    for (auto _ : state) {
        for (index_t r = 0; r < rows.rows; ++r)
            for (index_t c = 0; c < rows.cols; ++c) {
                float const g = rows.pre_view(r, c), u = rows.pre_view(r, c + rows.cols);
                rows.out_view(r, c) = g / (1 + std::exp(-g)) * u;
            }
        benchmark::DoNotOptimize(rows.out.data());
    }
    count(state, rows.rows * rows.cols);
}

} // namespace

using Gelu = ops::activation::Gelu;
using Silu = ops::activation::Silu;
BENCHMARK(gate<float, Silu>)->Arg(1)->Arg(16)->Arg(256);
BENCHMARK(gate<bf16, Silu>)->Arg(16);
BENCHMARK(gate<f16, Silu>)->Arg(16);
BENCHMARK(gate<float, Gelu>)->Arg(16);
BENCHMARK(gate_backward<float, Silu>)->Arg(16);
BENCHMARK(gate_backward<bf16, Silu>)->Arg(16);
BENCHMARK(gate_backward<float, Gelu>)->Arg(16);
BENCHMARK(std_exp_loop)->Arg(16);

BENCHMARK_MAIN();
