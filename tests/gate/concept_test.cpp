#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/testing/check_gate.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using semoe::testing::check_gate;
namespace gate = semoe::gate;

// What users write, in a namespace of their own.
namespace acme {

struct Exponential {
    static constexpr auto normalize = semoe::Normalize::sum_topk;
    SEMOE_HD float weight(float logit, semoe::expert_id) const { return semoe::exp(logit); }
    SEMOE_HD float key(float logit, semoe::expert_id) const { return logit; }
    SEMOE_HD float d_weight(float logit, semoe::expert_id) const { return semoe::exp(logit); }
};

template <class B, class Real>
struct RoundRobinFn {
    semoe::RouteInput<B, Real> input;
    semoe::Assignment<B, Real> out;
    semoe::index_t experts;
    SEMOE_HD void operator()(semoe::index_t t) const {
        for (semoe::index_t k = 0; k < out.topk_ids.cols; ++k) {
            semoe::index_t const e = (input.first_token + t + k) % experts;
            out.topk_ids(t, k) = input.masked(t) ? semoe::dropped_expert : semoe::expert_id(e);
            out.topk_weights(t, k) = input.masked(t) ? Real(0) : Real(1) / Real(out.topk_ids.cols);
        }
    }
};
struct RoundRobin {
    semoe::index_t num_experts, top_k;
    template <semoe::Backend B, class Real>
    void forward(B& b, semoe::RouteInput<B, Real> const& in, semoe::Assignment<B, Real> out) const {
        b.parallel_for(in.logits.rows, RoundRobinFn<B, Real>{in, out, num_experts});
    }
};

} // namespace acme

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

TEST_CASE_TEMPLATE("gate/concept: a user's score and a user's gate keep the contract", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    // The score computes in float, in a layer of doubles too.
    check_gate(b, gate::TopK<acme::Exponential>{.num_experts = 7, .top_k = 3},
               {.gradient_tolerance = 1e-3, .difference_step = 1e-2});
    check_gate(b, acme::RoundRobin{8, 2});
}
