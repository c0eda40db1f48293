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
