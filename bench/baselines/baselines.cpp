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
std::vector<std::unique_ptr<Baseline<T>>> make_baselines(Shape const& shape,
                                                         std::vector<LayerWeights<T>> const& layers,
                                                         BaselineOptions const& options) {
    std::vector<std::unique_ptr<Baseline<T>>> all;
    auto const add = [&](auto products, int threads) {
        using Products = decltype(products);
        BaselineOptions own = options;
        own.threads = threads;
        if (Products::trains || !options.training)
            all.push_back(
                std::make_unique<ExpertLoop<T, Products>>(shape, own, std::move(products)));
    };
#if BENCH_ONEDNN
    if (OneDnnProducts<T>::is_available())
        add(OneDnnProducts<T>(shape, layers, options), options.threads);
#endif
#if BENCH_OPENBLAS
    if constexpr (std::is_same_v<T, float>)
        add(OpenBlasProducts(layers, options.threads), options.threads);
#endif
    add(NaiveProducts<T>(layers), 1);
    return all;
}

template std::vector<std::unique_ptr<Baseline<float>>>
make_baselines(Shape const&, std::vector<LayerWeights<float>> const&, BaselineOptions const&);
template std::vector<std::unique_ptr<Baseline<semoe::bf16>>>
make_baselines(Shape const&, std::vector<LayerWeights<semoe::bf16>> const&, BaselineOptions const&);

} // namespace bench
