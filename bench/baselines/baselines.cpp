#include "baselines/baseline.hpp"
#include "baselines/expert_loop.hpp"
#include "baselines/naive.hpp"

#if BENCH_ONEDNN
#include "baselines/onednn.hpp"
#endif
#if BENCH_OPENBLAS
#include "baselines/openblas.hpp"
#endif

/// Built for the processor at hand, so that no baseline is held back by a plain build.

namespace bench {

char const* baseline_names() {
    return ""
#if BENCH_ONEDNN
           "oneDNN "
#endif
#if BENCH_OPENBLAS
           "OpenBLAS "
#endif
           "naive";
}

template <class T>
std::vector<std::unique_ptr<Baseline<T>>> make_baselines(Shape const& shape, index_t max_tokens,
                                                         std::vector<LayerWeights<T>> const& layers,
                                                         int threads) {
    std::vector<std::unique_ptr<Baseline<T>>> all;
    auto const add = [&](auto products, int loop_threads) {
        all.push_back(std::make_unique<ExpertLoop<T, decltype(products)>>(
            shape, max_tokens, loop_threads, std::move(products)));
    };
#if BENCH_ONEDNN
    add(OneDnnProducts<T>(shape, layers, threads), threads);
#endif
#if BENCH_OPENBLAS
    if constexpr (std::is_same_v<T, float>) add(OpenBlasProducts(layers, threads), threads);
#endif
    add(NaiveProducts<T>(layers), 1);
    return all;
}

template std::vector<std::unique_ptr<Baseline<float>>>
make_baselines(Shape const&, index_t, std::vector<LayerWeights<float>> const&, int);
template std::vector<std::unique_ptr<Baseline<semoe::bf16>>>
make_baselines(Shape const&, index_t, std::vector<LayerWeights<semoe::bf16>> const&, int);

} // namespace bench
