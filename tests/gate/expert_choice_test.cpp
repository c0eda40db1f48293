#include "semoe/gate/expert_choice.hpp"

#include "routed.hpp"
#include "support/backends.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <numeric>
#include <string>

using namespace semoe;
using test::route;
using Ids = std::vector<expert_id>;
using Values = std::vector<double>;
using Mask = std::vector<std::uint8_t>;

namespace {

test::Routed<double> reference(Values const& logits, index_t E, double factor, Mask const& mask) {
    std::size_t const n = std::size_t(E), T = logits.size() / n;
    Values p = logits;
    std::vector<std::size_t> tokens;
    for (std::size_t t = 0; t < T; ++t) {
        double sum = 0;
        for (std::size_t e = 0; e < n; ++e) sum += p[t * n + e] = std::exp(p[t * n + e]);
        for (std::size_t e = 0; e < n; ++e) p[t * n + e] /= sum;
        if (mask.empty() || mask[t]) tokens.push_back(t);
    }
    test::Routed<double> out{Ids(T * n, -1), Values(T * n)};
    std::size_t const rows = std::min(
        tokens.size(), std::size_t(std::ceil(double(tokens.size()) * factor / double(E) - 1e-9)));
    for (std::size_t e = 0; e < n; ++e) {
        auto order = tokens;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return p[a * n + e] > p[b * n + e]; });
        for (std::size_t i = 0; i < rows; ++i) {
            out.ids[order[i] * n + e] = expert_id(e);
            out.weights[order[i] * n + e] = p[order[i] * n + e];
        }
    }
    return out;
}

} // namespace

TEST_CASE_TEMPLATE("gate/expert_choice: every expert takes its best tokens", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (index_t T : {0, 1, 7, 64, 101})
        for (index_t E : {1, 3, 8})
            for (double factor : {0.3, 1.0, 2.0, 100.0})
                for (bool masked : {false, true}) {
                    CAPTURE(T);
                    CAPTURE(E);
                    CAPTURE(factor);
                    Mask mask;
                    for (index_t t = 0; masked && t < T; ++t) mask.push_back(t % 4 == 1 ? 0 : 1);
                    gate::ExpertChoice const gate{.num_experts = E, .capacity_factor = factor};
                    Values const logits = test::random_values<double>(std::uint64_t(T), T * E);
                    auto const expected = reference(logits, E, factor, mask);
                    auto const answer = route(b, gate, logits, {.mask = mask});
                    CHECK(answer.ids == expected.ids);
                    CHECK(test::relative_error(answer.weights, expected.weights) <= 1e-12);
                }
}

TEST_CASE_TEMPLATE("gate/expert_choice: a token may have every expert, or none", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    // Two experts, one token each; the same token is best for both in probability alone.
    gate::ExpertChoice const gate{.num_experts = 2, .capacity_factor = 1};
    auto const r = route(b, gate, Values{0, 0, 3, 0});
    CHECK(r.ids == Ids{-1, 1, 0, -1});
    auto const tied = route(b, gate, Values{1, 1, 1, 1});
    CHECK(tied.ids == Ids{0, 1, -1, -1});
    CHECK(tied.weights == Values{0.5, 0.5, 0, 0});
}

TEST_CASE("gate/expert_choice: it asks for the global batch, for E slots and for scratch") {
    gate::ExpertChoice const gate{.num_experts = 5, .capacity_factor = 2};
    CHECK(needs_global_batch<gate::ExpertChoice>());
    CHECK(slots_per_token(gate) == 5);
    CHECK(max_rows_per_expert(gate, 0) == 0);
    CHECK(max_rows_per_expert(gate, 11) == 5);
    CHECK(max_rows_per_expert(gate::ExpertChoice{.num_experts = 4, .capacity_factor = 9}, 3) == 3);
    for (index_t t = 0; t < 20; ++t) CHECK(gate.scratch_bytes(t) <= gate.scratch_bytes(t + 1));
    CpuBackend b;
    RouteInput<CpuBackend, float> input;
    input.logits = {nullptr, 10, 5};
    Assignment<CpuBackend, float> const out{{nullptr, 10, 5}, {nullptr, 10, 5}};
    CHECK_THROWS_WITH_AS(gate.forward(b, input, out),
                         ("gate::ExpertChoice: scratch has 0 bytes, " +
                          std::to_string(gate.scratch_bytes(10)) + " needed")
                             .c_str(),
                         precondition_error);
    CHECK_THROWS_WITH_AS(validate_gate(gate::ExpertChoice{.num_experts = 4, .capacity_factor = 0}),
                         "gate::ExpertChoice: capacity_factor is 0, must lie in (0, 1e6)",
                         precondition_error);
}
