#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/ops/gemm.hpp"
#include "semoe/ops/worker_scratch.hpp"

#include <benchmark/benchmark.h>
#include <vector>

/// Products of a layer's size, by rows, beside the loop that anybody would write first.

using namespace semoe;

namespace {

template <class T>
struct Problem {
    std::vector<T> a, w, c;
    MatrixView<T, HostSpace> a_view, w_view, c_view;

    Problem(index_t m, index_t n, index_t k)
      : a(std::size_t(m * k), T(0.5f))
      , w(std::size_t(n * k), T(0.25f))
      , c(std::size_t(m * n))
      , a_view(a.data(), m, k)
      , w_view(w.data(), n, k)
      , c_view(c.data(), m, n) {}
};

void count(benchmark::State& state, index_t m, index_t n, index_t k) {
    state.counters["FLOP/s"] = benchmark::Counter(2.0 * double(m) * double(n) * double(k),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

/// Arguments: rows, N = K, threads.
template <class T>
void gemm_nt(benchmark::State& state) {
    index_t const m = state.range(0), n = state.range(1);
    CpuBackend b{.threads = int(state.range(2))};
    ops::reserve_worker_scratch(b);
    Problem<T> p(m, n, n);
    for (auto _ : state) ops::gemm_nt(b, p.a_view, p.w_view, p.c_view);
    count(state, m, n, n);
}
template <class T>
void gemm_nn(benchmark::State& state) {
    index_t const m = state.range(0), n = state.range(1);
    CpuBackend b{.threads = int(state.range(2))};
    ops::reserve_worker_scratch(b);
    Problem<T> p(m, n, n);
    for (auto _ : state) ops::gemm_nn(b, p.a_view, p.w_view, p.c_view);
    count(state, m, n, n);
}
/// The gradient of [N,N] weights over `rows` rows.
template <class T>
void gemm_tn(benchmark::State& state) {
    index_t const rows = state.range(0), n = state.range(1);
    CpuBackend b{.threads = int(state.range(2))};
    ops::reserve_worker_scratch(b);
    Problem<T> p(rows, n, n);
    std::vector<float> gradient(std::size_t(n * n));
    MatrixView<float, HostSpace> out{gradient.data(), n, n};
    for (auto _ : state) ops::gemm_tn(b, p.a_view, p.c_view, out);
    count(state, rows, n, n);
}
void naive_loop(benchmark::State& state) {
    index_t const m = state.range(0), n = state.range(1);
    Problem<float> p(m, n, n);
    for (auto _ : state) {
        for (index_t i = 0; i < m; ++i)
            for (index_t j = 0; j < n; ++j) {
                float sum = 0;
                for (index_t k = 0; k < n; ++k) sum += p.a_view(i, k) * p.w_view(j, k);
                p.c_view(i, j) = sum;
            }
        benchmark::DoNotOptimize(p.c.data());
    }
    count(state, m, n, n);
}

void rows_sweep(benchmark::internal::Benchmark* bench) {
    for (int threads : {1, 2})
        for (int rows : {1, 8, 32, 128, 512}) bench->Args({rows, 512, threads});
}

} // namespace

BENCHMARK(gemm_nt<float>)->Apply(rows_sweep)->UseRealTime();
BENCHMARK(gemm_nn<float>)->Apply(rows_sweep)->UseRealTime();
BENCHMARK(gemm_tn<float>)->Apply(rows_sweep)->UseRealTime();
BENCHMARK(gemm_nt<bf16>)->Apply(rows_sweep)->UseRealTime();
BENCHMARK(gemm_nt<f16>)->Args({512, 512, 2})->UseRealTime();
BENCHMARK(naive_loop)->Args({32, 512})->Args({512, 512})->UseRealTime();

BENCHMARK_MAIN();
