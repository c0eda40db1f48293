#include "layer/combinations.hpp"

// Gates with random numbers, and gates that look at the whole batch.

using namespace semoe;
using testing::Vector;

namespace moe_layer_batch_gates_test {

using Silu = ops::activation::Silu;

TEST_CASE("layer/moe_layer: Switch with jitter equals the dense reference, whatever the ranks") {
    double const width = 0.1;
    for (std::uint64_t seed = 500; seed < 518; ++seed) {
        CAPTURE(seed);
        index_t const experts = test::draw_gate(seed).num_experts;
        auto const n = test::draw(seed);
        // Random numbers are keyed by the global token, so the oracle needs no ranks.
        RngKey const key{n.config.seed, n.seed, std::uint32_t(n.config.layer)};
        auto const jittered = [=](Vector z, index_t token) {
            for (std::size_t e = 0; e < z.size(); ++e)
                z[e] *= 1 + width * (2 * random_uniform<double>(key, token, index_t(e)) - 1);
            return z;
        };
        testing::ReferenceGate rule = test::reference_gate("softmax", 1);
        auto const plain = rule;
        rule.select = [=](Vector const& logits, index_t tokens, index_t E,
                          std::vector<char> const& mask) {
            Vector all;
            for (index_t t = 0; t < tokens; ++t) {
                auto const z =
                    jittered(Vector(logits.begin() + t * E, logits.begin() + (t + 1) * E), t);
                all.insert(all.end(), z.begin(), z.end());
            }
            return plain.select(all, tokens, E, mask);
        };
        rule.weights = [=](Vector const& z, std::vector<expert_id> const& chosen, index_t token) {
            return plain.weights(jittered(z, token), chosen, token);
        };
        test::check_combination(
            n, gate::Switch{.num_experts = experts, .jitter = width}, rule,
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}

TEST_CASE("layer/moe_layer: expert choice equals the dense reference, whatever the ranks") {
    for (std::uint64_t seed = 600; seed < 618; ++seed) {
        CAPTURE(seed);
        index_t const experts = test::draw_gate(seed).num_experts;
        auto const n = test::draw(seed);
        double const factor = 1.5;
        testing::ReferenceGate rule;
        rule.select = [=](Vector const& logits, index_t tokens, index_t E,
                          std::vector<char> const& mask) {
            auto const T = std::size_t(tokens);
            std::vector<std::vector<expert_id>> chosen(
                T, std::vector<expert_id>(std::size_t(E), dropped_expert));
            std::vector<std::size_t> real;
            for (std::size_t t = 0; t < T; ++t)
                if (mask.empty() || mask[t]) real.push_back(t);
            auto const take =
                std::min(real.size(),
                         std::size_t(std::ceil(factor * double(real.size()) / double(E) - 1e-9)));
            for (index_t e = 0; e < E; ++e) {
                auto const probability = [&](std::size_t t) {
                    auto const row = logits.begin() + index_t(t) * E;
                    return testing::reference_softmax(Vector(row, row + E))[std::size_t(e)];
                };
                auto order = real;
                std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
                    return probability(a) > probability(b);
                });
                for (std::size_t i = 0; i < take; ++i)
                    chosen[order[i]][std::size_t(e)] = expert_id(e);
            }
            return chosen;
        };
        rule.weights = test::reference_gate("softmax", experts).weights;
        test::check_combination(
            n, gate::ExpertChoice{.num_experts = experts, .capacity_factor = factor}, rule,
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}

} // namespace moe_layer_batch_gates_test
