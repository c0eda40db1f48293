#include "layer/combinations.hpp"

using namespace semoe;

TEST_CASE("layer/moe_layer: 4096 experts, nearly all without a row, equal the dense reference") {
    // The oracle's differences cost tokens * experts^2: few tokens, one case with each number.
    for (int ranks = 2; ranks <= 3; ++ranks) {
        CAPTURE(ranks);
        test::Combination n{.num_tokens = 4, .hidden = 3, .intermediate = 2, .ranks = ranks};
        n.chunks = 3;
        n.one_hot = ranks == 2;
        n.config.aux_loss_weight = ranks == 2 ? 0.1 : 0;
        using Silu = ops::activation::Silu;
        test::check_combination(
            n, gate::TopK<gate::Softmax>{.num_experts = 4096, .top_k = 5},
            test::reference_gate("softmax", 5),
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}
