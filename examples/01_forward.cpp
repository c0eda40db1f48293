// A Mixture-of-Experts layer in fifteen lines: choose a gate and an expert, make a context, run.
// Prints how the tokens were spread over the experts.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <vector>

int main() {
    semoe::MoeLayer layer{semoe::CpuBackend{},
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 8, .top_k = 2},
                          semoe::expert::SwiGlu<float>{.hidden = 64, .intermediate = 128}};
    layer.initialize(/*seed=*/42);

    std::vector<float> tokens(16 * 64, 0.5f), outputs(16 * 64);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = float(i % 17) / 17 - 0.5f;
    semoe::MatrixView<float, semoe::HostSpace> x{tokens.data(), 16, 64}, y{outputs.data(), 16, 64};

    auto context = layer.make_context(/*max_tokens=*/16);
    layer.forward(x, y, context);

    semoe::index_t choices = 0;
    for (semoe::index_t n : context.counters.tokens_per_expert)
        std::printf("%lld ", static_cast<long long>(n)), choices += n;
    std::printf("of %lld choices; balance loss %.3f\n", static_cast<long long>(choices),
                context.losses.aux_loss);
    return choices == 16 * 2 && y(0, 0) != 0 ? 0 : 1;
}
