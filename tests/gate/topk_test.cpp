#include "semoe/gate/topk.hpp"

#include "routed.hpp"
#include "support/backends.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <numeric>

using namespace semoe;
using test::relative_error;
using test::route;
using test::Routed;
using Ids = std::vector<expert_id>;
using Values = std::vector<double>;

namespace acme {

/// A score of one's own, in float alone: the least that there is to write.
struct Halves {
    static constexpr auto normalize = Normalize::none;
    SEMOE_HD float key(float logit, expert_id) const { return logit; }
    SEMOE_HD float weight(float logit, expert_id e) const { return logit / float(2 + e); }
    SEMOE_HD float d_weight(float, expert_id e) const { return 1 / float(2 + e); }
};
/// A softmax over something else than the logit.
struct Cooler {
    static constexpr auto normalize = Normalize::softmax_topk;
    template <Real R>
    SEMOE_HD R key(R logit, expert_id) const {
        return logit;
    }
    template <Real R>
    SEMOE_HD R weight(R logit, expert_id) const {
        return 3 * logit;
    }
};

} // namespace acme

namespace {

double logistic(double z) { return 1 / (1 + std::exp(-z)); }

/// The rules in double, as their papers say them.
enum class Rule { softmax, topk_softmax, sigmoid, normalized_sigmoid };
Routed<double> reference(Rule rule, Values const& logits, index_t E, index_t K, double scale,
                         std::vector<float> const& bias = {}) {
    Routed<double> out;
    for (std::size_t t = 0; t < logits.size() / std::size_t(E); ++t) {
        double const* z = logits.data() + t * std::size_t(E);
        bool const softmax = rule == Rule::softmax || rule == Rule::topk_softmax;
        double const top = *std::max_element(z, z + E);
        Values p;
        for (index_t e = 0; e < E; ++e)
            p.push_back(softmax ? std::exp(z[e] - top) : logistic(z[e]));
        double all = 0;
        for (double v : p) all += v;
        Values key(z, z + E); // monotone in p
        if (!bias.empty())
            for (std::size_t e = 0; e < key.size(); ++e) key[e] = p[e] + double(bias[e]);
        Ids order(static_cast<std::size_t>(E));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](expert_id a, expert_id b) {
            return key[std::size_t(a)] > key[std::size_t(b)];
        });
        double chosen = 0;
        for (index_t k = 0; k < K; ++k) chosen += p[std::size_t(order[std::size_t(k)])];
        for (index_t k = 0; k < K; ++k) {
            expert_id const e = order[std::size_t(k)];
            double const divisor = rule == Rule::softmax ? all : rule == Rule::sigmoid ? 1 : chosen;
            out.ids.push_back(e);
            out.weights.push_back(scale * p[std::size_t(e)] / divisor);
        }
    }
    return out;
}

template <class Score, class B>
void check_rule(B& b, Rule rule, index_t T, index_t E, index_t K, double scale) {
    CAPTURE(int(rule));
    CAPTURE(E);
    CAPTURE(K);
    gate::TopK<Score> const gate{.num_experts = E, .top_k = K, .scale = scale};
    Values const logits = test::random_values<double>(std::uint64_t(E + K), T * E, 2);
    auto const expected = reference(rule, logits, E, K, scale);
    auto const exact = route(b, gate, logits);
    CHECK(exact.ids == expected.ids);
    CHECK(relative_error(exact.weights, expected.weights) <= 1e-12);

    std::vector<float> const narrow(logits.begin(), logits.end());
    auto const from_narrow = reference(rule, Values(narrow.begin(), narrow.end()), E, K, scale);
    auto const rounded = route(b, gate, narrow);
    CHECK(rounded.ids == from_narrow.ids);
    CHECK(relative_error(rounded.weights, from_narrow.weights) <= 2e-6);
}

} // namespace

TEST_CASE_TEMPLATE("gate/topk: the four scores agree with their definition at any E and K", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    struct Shape {
        index_t T, E, K;
    };
    for (Shape const s : {Shape{7, 1, 1},
                          {64, 8, 2},
                          {13, 7, 7},
                          {5, 64, 8},
                          {3, 301, 17},
                          {2, 4096, 9},
                          {1, 1024, 1024}}) {
        check_rule<gate::Softmax>(b, Rule::softmax, s.T, s.E, s.K, 1);
        check_rule<gate::TopKSoftmax>(b, Rule::topk_softmax, s.T, s.E, s.K, 1);
        check_rule<gate::Sigmoid>(b, Rule::sigmoid, s.T, s.E, s.K, 1);
        check_rule<gate::NormalizedSigmoid>(b, Rule::normalized_sigmoid, s.T, s.E, s.K, 1);
    }
}

TEST_CASE_TEMPLATE("gate/topk: scale multiplies the normalised weights, once", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    check_rule<gate::Softmax>(b, Rule::softmax, 9, 6, 3, 2.5);
    check_rule<gate::TopKSoftmax>(b, Rule::topk_softmax, 9, 6, 3, 2.5);
    check_rule<gate::Sigmoid>(b, Rule::sigmoid, 9, 6, 3, 2.5);
    check_rule<gate::NormalizedSigmoid>(b, Rule::normalized_sigmoid, 9, 6, 3, -0.5);
}

TEST_CASE_TEMPLATE("gate/topk: a bias moves the choice and not the weights", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const E = 12, K = 3;
    std::vector<float> const host{.5f, 0, -.5f, .1f, 0, 0, .3f, -1, 1, 0, .2f, -.2f};
    auto const bias = test::to_backend(b, host);
    gate::TopK<gate::SigmoidBias> const gate{
        .num_experts = E, .top_k = K, .score = {bias.data()}, .scale = 2.5};
    Values const logits = test::random_values<double>(3, 40 * E);
    auto const expected = reference(Rule::normalized_sigmoid, logits, E, K, 2.5, host);
    auto const answer = route(b, gate, logits);
    CHECK(answer.ids == expected.ids);
    CHECK(answer.ids != reference(Rule::normalized_sigmoid, logits, E, K, 2.5).ids);
    CHECK(relative_error(answer.weights, expected.weights) <= 1e-12);
}

TEST_CASE_TEMPLATE("gate/topk: ties go to the lower id, NaN logits to the end", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    float const nan = std::numeric_limits<float>::quiet_NaN();
    float const infinity = std::numeric_limits<float>::infinity();
    gate::TopK<gate::Softmax> const gate{.num_experts = 6, .top_k = 4};
    auto const ids = route(b, gate, std::vector<float>{1,   2,   1,        2,         1,   1,   //
                                                       0,   0,   -0.0f,    0,         0,   0,   //
                                                       nan, 3,   nan,      -infinity, nan, 5,   //
                                                       nan, nan, nan,      nan,       nan, nan, //
                                                       nan, nan, infinity, nan,       nan, -1})
                         .ids;
    CHECK(ids == Ids{1, 3, 0, 2, 0, 1, 2, 3, 5, 1, 3, 0, 0, 1, 2, 3, 2, 5, 0, 1});
}

TEST_CASE_TEMPLATE("gate/topk: sigmoids that round to one are still told apart", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    gate::TopK<gate::Sigmoid> const gate{.num_experts = 4, .top_k = 2};
    auto const r = route(b, gate, std::vector<float>{30, 40, 35, 50});
    CHECK(r.ids == Ids{3, 1});
    CHECK(r.weights == std::vector<float>{1, 1});
}

TEST_CASE_TEMPLATE("gate/topk: weights of vanishing sigmoids are finite", B, SEMOE_TEST_BACKENDS) {
    B b;
    gate::TopK<gate::SigmoidBias> const gate{.num_experts = 3, .top_k = 2};
    auto const r = route(b, gate, std::vector<float>{-200, -300, -250});
    CHECK(r.weights == std::vector<float>{0, 0});
}

TEST_CASE_TEMPLATE("gate/topk: a score that only speaks float serves a layer of doubles", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    gate::TopK<acme::Halves> const gate{.num_experts = 3, .top_k = 2, .scale = 2};
    auto const r = route(b, gate, Values{3, 1, 2});
    CHECK(r.ids == Ids{0, 2});
    CHECK(r.weights == Values{3, 1});
}

TEST_CASE_TEMPLATE("gate/topk: a softmax rule is taken over weight, whatever it is", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    gate::TopK<acme::Cooler> const gate{.num_experts = 3, .top_k = 2};
    auto const r = route(b, gate, Values{0.5, 1, 0.25});
    CHECK(r.weights[0] == doctest::Approx(1 / (1 + std::exp(-1.5))).epsilon(1e-14));
    CHECK(r.weights[1] == doctest::Approx(1 / (1 + std::exp(1.5))).epsilon(1e-14));
}

TEST_CASE("gate/topk: a gate is deduced from its values") {
    gate::TopK const plain{256, 8, gate::SigmoidBias{}};
    gate::TopK const scaled{16, 2, gate::Softmax{}, 2.5};
    CHECK(plain.top_k == 8);
    CHECK(scaled.scale == 2.5);
    CHECK(router_probability<gate::TopK<gate::SigmoidBias>>() == RouterProbability::sigmoid);
    CHECK(router_probability<gate::TopK<gate::TopKSoftmax>>() == RouterProbability::softmax);
    CHECK(gate_trains<gate::TopK<acme::Halves>>());
}

TEST_CASE("gate/topk: numbers and shapes that make no sense are named") {
    CHECK_THROWS_WITH_AS(validate_gate(gate::TopK<gate::Softmax>{.num_experts = 4, .top_k = 5}),
                         "gate: top_k is 5, must lie in [1, num_experts = 4]", precondition_error);
    CHECK_THROWS_WITH_AS(
        validate_gate(gate::TopK<gate::Softmax>{
            .num_experts = 4, .top_k = 2, .scale = std::numeric_limits<double>::infinity()}),
        "gate::TopK: scale is inf, must be finite", precondition_error);
    CpuBackend b;
    RouteInput<CpuBackend, float> input;
    Assignment<CpuBackend, float> out;
    input.logits = {nullptr, 3, 5};
    gate::TopK<gate::Softmax> const gate{.num_experts = 4, .top_k = 2};
    CHECK_THROWS_WITH_AS(gate.forward(b, input, out),
                         "gate::TopK: logits are [3,5], num_experts is 4", precondition_error);
    input.logits = {nullptr, 3, 4};
    CHECK_THROWS_WITH_AS(gate.forward(b, input, out),
                         "gate::TopK: for 3 tokens of 2 choices topk_ids are [0,0], topk_weights "
                         "[0,0]",
                         precondition_error);
    out = {{nullptr, 3, 2}, {nullptr, 3, 2}};
    input.mask = {nullptr, 2};
    CHECK_THROWS_WITH_AS(gate.forward(b, input, out), "gate::TopK: mask of 2 for 3 tokens",
                         precondition_error);
    input.mask = {};
    MatrixView<float, HostSpace> const d_weights(nullptr, 3, 1), d_logits(nullptr, 3, 4);
    CHECK_THROWS_WITH_AS(gate.backward(b, input, out, d_weights, d_logits),
                         "gate::TopK: logits are [3,4], d_weights [3,1], d_logits [3,4]",
                         precondition_error);
}
