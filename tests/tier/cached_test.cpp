#include "semoe/tier/cached.hpp"

#include "semoe/testing/check_tier.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace {
struct MakeCached {
    template <class B>
    auto operator()(B& b, testing::FaultyStore<B> store, index_t slots) const {
        return tier::Cached{b, store, {.slots = slots}};
    }
};
} // namespace

TEST_CASE_TEMPLATE("tier/cached: keeps the promises of a tier over a store", B,
                   SEMOE_TEST_BACKENDS) {
    testing::check_slots(B{}, MakeCached{});
}

TEST_CASE_TEMPLATE("tier/cached: keeps them in any order that queues and events allow", B,
                   SEMOE_TEST_BACKENDS) {
    if constexpr (requires(B b) { b.seed; })
        for (std::uint64_t seed = 1; seed <= 4; ++seed)
            testing::check_slots(B{.seed = seed}, MakeCached{});
}

TEST_CASE("tier/cached: a block of a negative size, or of no kind, is refused before its store has "
          "it") {
    CpuBackend b;
    tier::HostStore store;
    tier::Cached tier{b, store, {.slots = 1}};
    CHECK_THROWS_WITH_AS(tier.declare(b, {0, 1}, {-64, LayoutId::row_major}),
                         "tier::Cached: block (layer 0, expert 1, weight) is declared with -64 "
                         "bytes, row_major, must not be negative",
                         precondition_error);
    CHECK_THROWS_WITH_AS(tier.declare(b, {0, 1, BlockKind(4)}, {64, LayoutId::row_major}),
                         "tier::Cached: block (layer 0, expert 1, unknown) is of kind 4, must be "
                         "below 4",
                         precondition_error);
    CHECK_FALSE(tier.contains({0, 1}));
    CHECK_FALSE(store.contains({0, 1}));
    CHECK_FALSE(store.contains({0, 1, BlockKind(4)}));
}
