#include "layer/combinations.hpp"

// Every gate with one expert, under all drop rules, ranks, chunks and tiers that the seeds draw.

using namespace semoe;

TEST_CASE("layer/moe_layer: softmax gates equal the dense reference") {
    for (std::uint64_t seed = 0; seed < 18; ++seed) {
        CAPTURE(seed);
        test::check_topk<gate::Softmax>(seed, "softmax", 2.5);
        test::check_topk<gate::TopKSoftmax>(seed + 100, "topk_softmax");
    }
}
TEST_CASE("layer/moe_layer: sigmoid gates equal the dense reference") {
    for (std::uint64_t seed = 0; seed < 18; ++seed) {
        CAPTURE(seed);
        test::check_topk<gate::Sigmoid>(seed + 200, "sigmoid");
        test::check_topk<gate::NormalizedSigmoid>(seed + 300, "sigmoid_normalised", 1.5);
    }
}
TEST_CASE("layer/moe_layer: a sigmoid gate with a bias equals the dense reference") {
    std::vector<float> bias(33);
    for (std::size_t e = 0; e < bias.size(); ++e) bias[e] = 0.07f * float(e % 5);
    using Silu = ops::activation::Silu;
    for (std::uint64_t seed = 400; seed < 418; ++seed) {
        CAPTURE(seed);
        auto const [experts, k] = test::draw_gate(seed);
        auto const n = test::draw(seed);
        test::check_combination(
            n,
            gate::TopK<gate::SigmoidBias>{
                .num_experts = experts, .top_k = k, .score = {.bias = bias.data()}},
            test::reference_gate("sigmoid_bias", k, 1, {bias.begin(), bias.end()}),
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}

TEST_CASE("layer/moe_layer: 4096 experts, nearly all without a row, equal the dense reference") {
    // The oracle's differences cost tokens * experts^2: a token a rank, and fewer experts for more.
    for (int ranks = 2; ranks <= 3; ++ranks) {
        CAPTURE(ranks);
        test::Combination n{.num_tokens = ranks, .hidden = 3, .intermediate = 2, .ranks = ranks};
        n.chunks = 3;
        n.one_hot = ranks == 2;
        n.config.aux_loss_weight = ranks == 3 ? 0.1 : 0;
        using Silu = ops::activation::Silu;
        test::check_combination(
            n, gate::TopK<gate::Softmax>{.num_experts = ranks == 2 ? 4096 : 1000, .top_k = 5},
            test::reference_gate("softmax", 5),
            expert::SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
            test::Scalar<Silu>::value, test::Scalar<Silu>::derivative);
    }
}
