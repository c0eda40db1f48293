#include "semoe/gate/topk.hpp"
#include "semoe/testing/check_gate.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

using semoe::testing::check_gate;

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

TEST_CASE_TEMPLATE("gate/custom: a user's score and a user's gate keep the contract", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    // The score computes in float, in a layer of doubles too.
    check_gate(b, semoe::gate::TopK<acme::Exponential>{.num_experts = 7, .top_k = 3},
               {.gradient_tolerance = 1e-3, .difference_step = 1e-2});
    check_gate(b, acme::RoundRobin{8, 2});
}
