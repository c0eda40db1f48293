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
