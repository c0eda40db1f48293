#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/testing/check_gate.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using semoe::testing::check_gate;
namespace gate = semoe::gate;

TEST_CASE_TEMPLATE("gate/concept: every gate of the library keeps the contract", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    check_gate(b, gate::TopK<gate::Softmax>{.num_experts = 7, .top_k = 3, .scale = 2.5});
    check_gate(b, gate::TopK<gate::TopKSoftmax>{.num_experts = 7, .top_k = 3});
    check_gate(b, gate::TopK<gate::Sigmoid>{.num_experts = 7, .top_k = 2, .scale = 0.5});
    check_gate(b, gate::TopK<gate::NormalizedSigmoid>{.num_experts = 7, .top_k = 7});
    check_gate(b, gate::TopK<gate::SigmoidBias>{.num_experts = 7, .top_k = 2});
    check_gate(b, gate::TopK<gate::Softmax>{.num_experts = 1, .top_k = 1});
    check_gate(b, gate::Switch{.num_experts = 5});
    check_gate(b, gate::Switch{.num_experts = 5, .jitter = 0.5});
    check_gate(b, gate::ExpertChoice{.num_experts = 4, .capacity_factor = 1.5});
    check_gate(b, gate::ExpertChoice{.num_experts = 3, .capacity_factor = 99});
}

TEST_CASE_TEMPLATE("gate/concept: a bias reorders ties, and nothing else", B, SEMOE_TEST_BACKENDS) {
    B b;
    auto const bias = semoe::test::to_backend(b, std::vector<float>{.1f, 0, .3f, -.2f, .3f});
    gate::TopK<gate::SigmoidBias> const biased{
        .num_experts = 5, .top_k = 2, .score = {bias.data()}, .scale = 2.5};
    check_gate(b, biased, {.ranks_by_logit = false});
    CHECK_THROWS_AS(check_gate(b, biased), semoe::testing::contract_violation);
}
