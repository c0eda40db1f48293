#include "layer/combinations.hpp"

// Gates with random numbers, and gates that look at the whole batch.

using namespace semoe;

namespace moe_layer_batch_gates_test {

using Silu = ops::activation::Silu;

TEST_CASE("layer/moe_layer: Switch with jitter equals the dense reference, whatever the ranks") {
    double const width = 0.1;
    for (std::uint64_t seed = 500; seed < 518; ++seed) {
        CAPTURE(seed);
        index_t const experts = test::draw_gate(seed).num_experts;
        auto const n = test::draw(seed);
        test::check_combination(
            n, gate::Switch{.num_experts = experts, .jitter = width},
            test::switch_rule<double>(n, width),
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
        test::check_combination(
            n, gate::ExpertChoice{.num_experts = experts, .capacity_factor = factor},
            test::expert_choice_rule(experts, factor),
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}

} // namespace moe_layer_batch_gates_test
