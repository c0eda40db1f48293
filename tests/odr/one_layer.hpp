#pragma once

#include <semoe/semoe.hpp>

#include <vector>

/// A small layer's output; both translation units instantiate the same templates and inline
/// functions, so the linker keeps one of each.
template <class T>
std::vector<T> one_layer() {
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 4, .top_k = 2},
                          semoe::expert::SwiGlu<T>{.hidden = 16, .intermediate = 24}};
    layer.initialize(1);
    auto context = layer.make_context(8, semoe::Mode::training);

    std::vector<T> x(8 * 16), y(8 * 16), dx(8 * 16);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = T(float(i % 7) - 3);
    using View = semoe::MatrixView<T, semoe::HostSpace>;
    View const in{x.data(), 8, 16}, out{y.data(), 8, 16}, d_in{dx.data(), 8, 16};
    layer.forward(in, out, context);
    layer.backward(out, d_in, context);
    y.insert(y.end(), dx.begin(), dx.end());
    return y;
}

std::vector<float> one_layer_baseline();
std::vector<float> one_layer_avx2();
