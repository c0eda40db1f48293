// For engines with a router of their own: hand over the experts and weights of every token, and
// the expert weights as they lie in the engine's memory.

#include <semoe/semoe.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

int main() {
    constexpr semoe::index_t tokens = 5, hidden = 8, intermediate = 12, experts = 3, top_k = 2;
    semoe::CpuBackend backend;
    semoe::expert::SwiGlu<float> const expert{.hidden = hidden, .intermediate = intermediate};

    // The engine's weights: gate_proj [I,H], up_proj [I,H] and down_proj [H,I] of each expert.
    std::vector<std::vector<float>> weights(experts);
    semoe::tier::Resident<semoe::CpuBackend> tier{backend};
    for (semoe::expert_id e = 0; e < experts; ++e) {
        auto& w = weights[std::size_t(e)];
        w.resize(3 * hidden * intermediate);
        for (std::size_t i = 0; i < w.size(); ++i)
            w[i] = semoe::random_uniform({.seed = 1}, semoe::index_t(i), e) - 0.5f;
        auto const bytes = semoe::index_t(w.size() * sizeof(float));
        tier.adopt({.expert = e}, {reinterpret_cast<std::byte*>(w.data()), bytes},
                   {.bytes = bytes});
    }
    semoe::MoeLayer layer{
        backend, semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = experts, .top_k = top_k},
        expert, semoe::comm::Self{}, tier};

    std::vector<float> x(tokens * hidden, 0.25f), y(x.size());
    std::vector<semoe::expert_id> const ids{0, 1, 1, 2, 2, 0, 0, -1, 1, 0}; // -1: nobody
    std::vector<float> const shares{.5f, .5f, .9f, .1f, .3f, .7f, 1, 0, .2f, .8f};
    auto context = layer.make_context(tokens);
    layer.forward_routed(Matrix{x.data(), tokens, hidden}, {ids.data(), tokens, top_k},
                         {shares.data(), tokens, top_k}, Matrix{y.data(), tokens, hidden}, context);

    // Token 3 went to expert 0 alone: check it by hand.
    float const* const w = weights[0].data();
    double expected = 0;
    for (semoe::index_t i = 0; i < intermediate; ++i) {
        double gate = 0, up = 0;
        for (semoe::index_t h = 0; h < hidden; ++h) {
            gate += double(w[i * hidden + h]) * 0.25;
            up += double(w[(intermediate + i) * hidden + h]) * 0.25;
        }
        expected += double(w[2 * hidden * intermediate + i]) * gate / (1 + std::exp(-gate)) * up;
    }
    std::printf("y[3,0] = %.6f, by hand %.6f\n", double(y[3 * hidden]), expected);
    return std::abs(double(y[3 * hidden]) - expected) < 1e-5 ? 0 : 1;
}
