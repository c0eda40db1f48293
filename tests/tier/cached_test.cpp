#include "semoe/tier/cached.hpp"

#include "semoe/testing/check_tier.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE_TEMPLATE("tier/cached: keeps the promises of a tier over a store", B,
                   SEMOE_TEST_BACKENDS) {
    testing::check_slots(B{}, [](B& b, testing::FaultyStore<B> store, index_t slots) {
        return tier::Cached{b, store, {.slots = slots}};
    });
}
