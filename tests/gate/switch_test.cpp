#include "semoe/gate/switch.hpp"

#include "routed.hpp"
#include "support/backends.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>

using namespace semoe;
using test::route;
using Ids = std::vector<expert_id>;
using Values = std::vector<double>;

TEST_CASE_TEMPLATE("gate/switch: without training it is the best softmax", B, SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 50, E = 6;
    Values const logits = test::random_values<double>(1, T * E, 3);
    auto const r = route(b, gate::Switch{.num_experts = E, .jitter = 0.9}, logits);
    for (index_t t = 0; t < T; ++t) {
        double const* z = logits.data() + t * E;
        index_t best = 0;
        double sum = 0;
        for (index_t e = 0; e < E; ++e) best = z[e] > z[best] ? e : best;
        for (index_t e = 0; e < E; ++e) sum += std::exp(z[e] - z[best]);
        CHECK(r.ids[std::size_t(t)] == best);
        CHECK(r.weights[std::size_t(t)] == doctest::Approx(1 / sum).epsilon(1e-14));
    }
}

TEST_CASE_TEMPLATE("gate/switch: training multiplies each logit by a draw of its own", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 40, E = 4;
    double const jitter = 0.25;
    RngKey const rng{3, 1, 4};
    gate::Switch const gate{.num_experts = E, .jitter = jitter};
    Values const logits = test::random_values<double>(2, T * E);
    Values moved;
    for (index_t t = 0; t < T; ++t)
        for (index_t e = 0; e < E; ++e) {
            double const u = random_uniform<double>(rng, 1000 + t, e);
            moved.push_back(logits[std::size_t(t * E + e)] * (1 - jitter + 2 * jitter * u));
        }
    auto const trained =
        route(b, gate, logits, {.rng = rng, .first_token = 1000, .training = true});
    auto const expected = route(b, gate, moved);
    CHECK(trained.ids == expected.ids);
    CHECK(test::relative_error(trained.weights, expected.weights) <= 1e-14);
    CHECK(trained.weights != route(b, gate, logits).weights);
    // Another step draws anew; multiplying leaves a logit of zero alone, adding would not.
    auto const next =
        route(b, gate, logits, {.rng = {3, 2, 4}, .first_token = 1000, .training = true});
    CHECK(next.weights != trained.weights);
    auto const zeros = route(b, gate, Values(std::size_t(T * E)), {.rng = rng, .training = true});
    CHECK(zeros.weights == Values(std::size_t(T), 0.25));
    CHECK(zeros.ids == Ids(std::size_t(T), 0));
}

TEST_CASE_TEMPLATE("gate/switch: factors fill [1 - jitter, 1 + jitter) evenly", B,
                   SEMOE_TEST_BACKENDS) {
    // Of two experts with logits 1 and 0 the weight tells the factor of the first.
    B b;
    index_t const T = 4000;
    Values logits;
    for (index_t t = 0; t < T; ++t) logits.insert(logits.end(), {1, 0});
    auto const r = route(b, gate::Switch{.num_experts = 2, .jitter = 0.5}, logits,
                         {.rng = {7, 0, 0}, .training = true});
    double low = 9, high = 0, mean = 0;
    for (double w : r.weights) {
        double const factor = -std::log(1 / w - 1);
        low = std::min(low, factor);
        high = std::max(high, factor);
        mean += factor / double(T);
    }
    CHECK(low >= 0.5 - 1e-12);
    CHECK(low < 0.51);
    CHECK(high < 1.5 + 1e-12);
    CHECK(high > 1.49);
    CHECK(std::abs(mean - 1) < 0.02); // four standard deviations
}

TEST_CASE("gate/switch: a jitter that makes no sense is named") {
    CHECK(slots_per_token(gate::Switch{.num_experts = 4}) == 1);
    CHECK_THROWS_WITH_AS(validate_gate(gate::Switch{.num_experts = 4, .jitter = 1}),
                         "gate::Switch: jitter is 1, must lie in [0, 1)", precondition_error);
}
