// Capacity and drops: with a capacity factor, an expert takes at most its share of the batch times
// the factor; choices past that are dropped by position or by weight. Dropless is the default.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <vector>

using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

int main() {
    constexpr semoe::index_t tokens = 64, hidden = 8, experts = 4;
    // Tokens that resemble each other crowd the same expert.
    std::vector<float> x(tokens * hidden), y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = 1 + 0.3f * semoe::random_uniform({.seed = 5}, semoe::index_t(i), 0);

    bool fine = true;
    for (semoe::Capacity const capacity :
         {semoe::Capacity{}, semoe::Capacity{.factor = 1.0},
          semoe::Capacity{.factor = 1.0, .drop = semoe::Drop::probability},
          semoe::Capacity{.factor = 2.0}}) {
        semoe::MoeLayer layer{
            semoe::CpuBackend{},
            semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = experts, .top_k = 1},
            semoe::expert::SwiGlu<float>{.hidden = hidden, .intermediate = 16},
            semoe::MoeConfig{.capacity = capacity}};
        layer.initialize(2);
        auto context = layer.make_context(tokens);
        layer.forward(Matrix{x.data(), tokens, hidden}, Matrix{y.data(), tokens, hidden}, context);
        auto const& n = context.counters;
        std::printf("factor %.1f: rows", capacity.factor);
        for (semoe::index_t rows : n.tokens_per_expert) {
            std::printf(" %lld", static_cast<long long>(rows));
            fine = fine && (capacity.factor == 0 || double(rows) <= 16 * capacity.factor);
        }
        std::printf(", dropped %lld, balance loss %.2f\n", static_cast<long long>(n.dropped),
                    context.losses.aux_loss);
        fine = fine && (capacity.factor != 0 || n.dropped == 0);
    }
    return fine ? 0 : 1;
}
