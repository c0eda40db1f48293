#include "semoe/routing/make_plan.hpp"

#include "choices.hpp"
#include "semoe/testing/check_plan.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <set>

using namespace semoe;
using test::random_choices;
using test::to_backend;
using test::to_host;
using Ids = std::vector<expert_id>;
using Counts = std::vector<index_t>;

namespace {

/// A plan and the memory that it and its ids lie in.
template <class B>
struct Planned {
    index_t T, K, E;
    Buffer<expert_id, B> ids;
    Workspace<B> memory;
    RoutingPlan<B> plan;

    Planned(B& b, Ids const& host_ids, index_t t, index_t k, index_t e)
      : T(t)
      , K(k)
      , E(e)
      , ids(to_backend(b, host_ids))
      , memory(b, bytes(t, k, e)) {
        auto arena = memory.arena();
        plan = take_plan<B>(arena, T, K, E);
        make_plan<B>(b, ids.matrix(T, K), plan,
                     arena.template take<std::byte>(make_plan_scratch_bytes(T, K, E)));
    }
    static index_t bytes(index_t t, index_t k, index_t e) {
        Arena<space_of<B>> arena;
        take_plan<B>(arena, t, k, e);
        return arena.used() + make_plan_scratch_bytes(t, k, e) + arena.alignment;
    }
    void check(B& b) const { testing::check_plan<B>(b, ids.matrix(T, K), plan); }
};

} // namespace

TEST_CASE_TEMPLATE("routing/make_plan: counts and positions of the reference operators", B,
                   SEMOE_TEST_BACKENDS) {
    // number_count, and assign_pos in its stable order, of Paddle's documentation.
    B b;
    Planned<B> p(b, {0, 2, 0, 2}, 2, 2, 6);
    p.check(b);
    CHECK(to_host(b, p.plan.tokens_per_expert.data, 6) == Counts{2, 0, 2, 0, 0, 0});
    CHECK(to_host(b, p.plan.expert_offsets.data, 7) == Counts{0, 2, 2, 4, 4, 4, 4});
    auto const slot_of = to_host(b, p.plan.slot_of.data, 4);
    Counts pairs(4);
    for (index_t pair = 0; pair < 4; ++pair) pairs[std::size_t(slot_of[std::size_t(pair)])] = pair;
    CHECK(pairs == Counts{0, 2, 1, 3});
    CHECK(to_host(b, p.plan.token_of_slot.data, 4) == Counts{0, 1, 0, 1});
}

TEST_CASE_TEMPLATE("routing/make_plan: random and adversarial ids keep every invariant", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    struct Shape {
        index_t T, K, E;
        double drop;
    };
    for (Shape const s : {Shape{0, 2, 4, 0},
                          {1, 1, 1, 0},
                          {1, 3, 5, .5},
                          {64, 2, 8, 0},
                          {65, 2, 8, .3},
                          {257, 4, 7, .1},
                          {131, 13, 13, .2},
                          {67, 3, 301, 0},
                          {127, 2, 3, 1},
                          {300, 1, 2, 0},
                          {5, 4, 2500, 0}}) {
        CAPTURE(s.T);
        CAPTURE(s.E);
        Planned<B>(b, random_choices(7, s.T, s.K, s.E, s.drop), s.T, s.K, s.E).check(b);
    }
    Planned<B>(b, Ids(200, 3), 200, 1, 9).check(b); // all on one expert
}

TEST_CASE_TEMPLATE("routing/make_plan: an id outside the experts is nobody's", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Planned<B> p(b, {0, 5, -7, 1, 2147483647, 4}, 3, 2, 5);
    p.check(b);
    CHECK(to_host(b, p.plan.slot_of.data, 6) == Counts{0, -1, -1, 1, -1, 2});
}

TEST_CASE_TEMPLATE("routing/make_plan: a wrong shape or too little scratch is named", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Planned<B> p(b, {0, 1, 2, 3}, 2, 2, 4);
    auto scratch = Buffer<std::byte, B>(b, make_plan_scratch_bytes(2, 2, 4));
    auto const what = [&](auto&& call) {
        try {
            call();
        } catch (precondition_error const& e) {
            return std::string(e.what());
        }
        return std::string();
    };
    auto wrong = p.plan;
    wrong.expert_offsets.size = 4;
    CHECK(what([&] { make_plan<B>(b, p.ids.matrix(2, 2), wrong, scratch.view()); }) ==
          "make_plan: ids are [2,2], the plan has 4 experts, 4 offsets, 4 slots, slot_of [2,2]");
    CHECK(what([&] { make_plan<B>(b, p.ids.matrix(2, 2), p.plan, scratch.view().part(0, 8)); }) ==
          "make_plan: scratch has 8 bytes, " + std::to_string(make_plan_scratch_bytes(2, 2, 4)) +
              " needed");
}
