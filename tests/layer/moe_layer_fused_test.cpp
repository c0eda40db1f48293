#include "layer/combinations.hpp"

// Layers over float and bf16, whose experts are one operation. Seeds were drawn so that routing has
// no near-ties.

using namespace semoe;

namespace moe_layer_fused_test {
namespace {

template <class Activation, class G, class X>
void check(test::Combination const& n, G const& gate, testing::ReferenceGate const& rule,
           X const& expert) {
    test::check_combination(n, gate, rule, expert, test::Scalar<Activation>::value,
                            test::Scalar<Activation>::derivative);
}
template <class T>
auto swiglu(test::Combination const& n) {
    return expert::SwiGlu<T>{.hidden = n.hidden, .intermediate = n.intermediate};
}
using ops::activation::Gelu, ops::activation::Silu;

TEST_CASE_TEMPLATE("layer/moe_layer: a fused expert behind any gate is near the dense reference", T,
                   float, bf16) {
    for (std::uint64_t seed = 1100; seed < 1106; ++seed) {
        CAPTURE(seed);
        auto const [experts, k] = test::draw_gate(seed);
        auto n = test::draw_beside_tiles(seed);
        check<Silu>(n, gate::TopK<gate::Softmax>{.num_experts = experts, .top_k = k},
                    test::reference_gate("softmax", k), swiglu<T>(n));
        n = test::draw_beside_tiles(seed + 10);
        check<Silu>(n, gate::Switch{.num_experts = experts, .jitter = 0.1},
                    test::switch_rule<float>(n, 0.1), swiglu<T>(n));
        n = test::draw_beside_tiles(seed + 20);
        check<Silu>(n, gate::ExpertChoice{.num_experts = experts, .capacity_factor = 1.5},
                    test::expert_choice_rule(experts, 1.5), swiglu<T>(n));
    }
}
TEST_CASE(
    "layer/moe_layer: a fused expert of two matrices and biases is near the dense reference") {
    for (std::uint64_t seed = 1130; seed < 1136; ++seed) {
        CAPTURE(seed);
        auto const n = test::draw_beside_tiles(seed);
        test::check_expert<Gelu>(seed, n,
                                 expert::Ffn<bf16, Gelu>{.hidden = n.hidden,
                                                         .intermediate = n.intermediate,
                                                         .bias = true});
    }
}
TEST_CASE("layer/moe_layer: a fused shared expert is near the dense reference") {
    for (std::uint64_t seed = 1140; seed < 1146; ++seed) {
        CAPTURE(seed);
        auto n = test::draw_beside_tiles(seed);
        n.shared_intermediate = n.intermediate + 2;
        auto shared = swiglu<float>(n);
        shared.intermediate = n.shared_intermediate;
        test::check_expert<Silu>(seed, n,
                                 expert::WithShared{swiglu<float>(n), shared, seed % 2 == 0});
    }
}

} // namespace
} // namespace moe_layer_fused_test
