#include "semoe/testing/check_plan.hpp"

#include "semoe/backend/cpu/cpu.hpp"

#include <doctest/doctest.h>
#include <functional>

using namespace semoe;

namespace {

/// Three tokens, two choices, three experts; a correct plan unless `break_it` changes it.
struct Plan {
    std::vector<expert_id> ids{2, 0, 0, -1, 2, 1};
    std::vector<index_t> counts{2, 1, 2}, offsets{0, 2, 3, 5}, tokens{0, 1, 2, 0, 2},
        slot_of{3, 0, 1, -1, 4, 2};
    index_t choices = 2; ///< columns of slot_of
};
std::string violation(std::function<void(Plan&)> const& break_it) {
    Plan p;
    break_it(p);
    RoutingPlan<CpuBackend> const plan{{p.counts.data(), 3},
                                       {p.offsets.data(), index_t(p.offsets.size())},
                                       {p.tokens.data(), index_t(p.tokens.size())},
                                       {p.slot_of.data(), 3, p.choices}};
    CpuBackend b;
    try {
        testing::check_plan<CpuBackend>(b, {p.ids.data(), 3, 2}, plan);
    } catch (testing::contract_violation const& v) {
        return v.what();
    }
    return "";
}

} // namespace

TEST_CASE("testing/check_plan: each broken invariant is found and named") {
    CHECK(violation([](Plan&) {}) == "");
    CHECK(violation([](Plan& p) { p.choices = 1; }) ==
          "RoutingPlan: slot_of has an element for each choice");
    CHECK(violation([](Plan& p) { p.tokens.resize(4); }) ==
          "RoutingPlan: token_of_slot has an element for each slot (expert 2)");
    CHECK(violation([](Plan& p) { p.offsets.pop_back(); }) ==
          "RoutingPlan: expert_offsets has E+1 elements and starts at 0");
    CHECK(violation([](Plan& p) { p.offsets[0] = 1; }) ==
          "RoutingPlan: expert_offsets has E+1 elements and starts at 0");
    CHECK(violation([](Plan& p) { p.offsets[2] = 4; }) ==
          "RoutingPlan: an expert's slots begin where the one before it ends (expert 2)");
    CHECK(violation([](Plan& p) { p.offsets[3] = 6; }) ==
          "RoutingPlan: the last offset is the number of slots");
    CHECK(violation([](Plan& p) { std::swap(p.slot_of[1], p.slot_of[2]); }) ==
          "RoutingPlan: slots are in order of expert, token, choice (expert 0)");
    CHECK(violation([](Plan& p) { p.tokens[2] = 1; }) ==
          "RoutingPlan: a slot leads back to its token (expert 1)");
    CHECK(violation([](Plan& p) { p.counts[1] = 0; }) ==
          "RoutingPlan: tokens_per_expert counts the kept choices (expert 1)");
    CHECK(violation([](Plan& p) { p.slot_of[3] = 0; }) ==
          "RoutingPlan: a dropped choice has slot -1");
}
