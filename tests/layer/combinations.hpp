#pragma once

#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/ops/activation.hpp"
#include "support/combination.hpp"

namespace semoe::test {

/// Sizes of the gate for a seed: few experts mostly, sometimes as many choices as experts.
struct GateSize {
    index_t num_experts, top_k;
};
inline GateSize draw_gate(std::uint64_t seed) {
    std::mt19937_64 engine(seed * 7 + 1);
    index_t const sizes[] = {1, 2, 5, 8, 33};
    index_t const experts = sizes[engine() % 5];
    return {experts, 1 + index_t(engine() % std::uint64_t(std::min<index_t>(experts, 6)))};
}

/// Switch with jitter. @tparam Real  of the layer's random numbers
template <class Real>
testing::ReferenceGate switch_rule(Combination const& n, double width) {
    using testing::Vector;
    // Random numbers are keyed by the global token, so the oracle needs no ranks.
    RngKey const key{n.config.seed, n.seed, std::uint32_t(n.config.layer)};
    auto const jittered = [=](Vector z, index_t token) {
        for (std::size_t e = 0; e < z.size(); ++e)
            z[e] *= 1 + width * (2 * random_uniform<Real>(key, token, index_t(e)) - 1);
        return z;
    };
    testing::ReferenceGate rule = reference_gate("softmax", 1);
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
    return rule;
}
/// Expert choice among the real tokens of the whole batch.
inline testing::ReferenceGate expert_choice_rule(index_t experts, double factor) {
    using testing::Vector;
    testing::ReferenceGate rule;
    rule.select = [=](Vector const& logits, index_t tokens, index_t E,
                      std::vector<char> const& mask) {
        auto const T = std::size_t(tokens);
        std::vector<std::vector<expert_id>> chosen(
            T, std::vector<expert_id>(std::size_t(E), dropped_expert));
        std::vector<std::size_t> real;
        for (std::size_t t = 0; t < T; ++t)
            if (mask.empty() || mask[t]) real.push_back(t);
        auto const take = std::min(
            real.size(), std::size_t(std::ceil(factor * double(real.size()) / double(E) - 1e-9)));
        for (index_t e = 0; e < E; ++e) {
            auto const probability = [&](std::size_t t) {
                auto const row = logits.begin() + index_t(t) * E;
                return testing::reference_softmax(Vector(row, row + E))[std::size_t(e)];
            };
            auto order = real;
            std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
                return probability(a) > probability(b);
            });
            for (std::size_t i = 0; i < take; ++i) chosen[order[i]][std::size_t(e)] = expert_id(e);
        }
        return chosen;
    };
    rule.weights = reference_gate("softmax", experts).weights;
    return rule;
}

/// An activation and what the oracle calls it by.
template <class Activation>
struct Scalar {
    static double value(double x) { return Activation{}(x); }
    static double derivative(double x) { return Activation{}.derivative(x); }
};

template <class Score>
void check_topk(std::uint64_t seed, char const* rule, double scale = 1) {
    auto const [experts, k] = draw_gate(seed);
    auto n = draw(seed);
    // One normalised choice weighs the same for every token: which is dropped hangs on rounding.
    if (k == 1) n.config.capacity.drop = Drop::position;
    gate::TopK<Score> const gate{.num_experts = experts, .top_k = k, .scale = float(scale)};
    using Silu = ops::activation::Silu;
    check_combination(n, gate, reference_gate(rule, k, scale),
                      expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
                      Scalar<Silu>::value, Scalar<Silu>::derivative);
}

template <class Activation, class X>
void check_expert(std::uint64_t seed, Combination const& n, X const& expert) {
    auto const [experts, k] = draw_gate(seed);
    check_combination(n, gate::TopK<gate::Softmax>{.num_experts = experts, .top_k = k},
                      reference_gate("softmax", k), expert, Scalar<Activation>::value,
                      Scalar<Activation>::derivative);
}

} // namespace semoe::test
