#include "semoe/tier/cached.hpp"

#include "semoe/testing/check_tier.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace semoe;
using testing::detail::fetched;
using testing::detail::pattern;
using testing::detail::StampFn;

namespace cached_budget_test {
namespace {

constexpr index_t n = 100; // bytes a weight
BlockInfo of(BlockKind kind) {
    index_t const factor[] = {1, 2, 2, 4};
    return {factor[int(kind)] * n, LayoutId::row_major};
}
constexpr BlockKind kinds[] = {BlockKind::weight, BlockKind::gradient, BlockKind::master,
                               BlockKind::moments};
constexpr index_t of_all_kinds = 9 * n;

template <class Tier>
void declare(CpuBackend& b, Tier& tier, int layers, int experts, int num_kinds) {
    for (int k = 0; k < num_kinds; ++k)
        for (int l = 0; l < layers; ++l)
            for (int e = 0; e < experts; ++e) tier.declare(b, {l, e, kinds[k]}, of(kinds[k]));
}

} // namespace

TEST_CASE_TEMPLATE("tier/cached: with a budget of bytes it keeps the promises of a tier", B,
                   SEMOE_TEST_BACKENDS) {
    for (index_t const bytes : {3000, 10000, 1 << 20})
        testing::check_tier(B{}, [&](B& b) {
            return tier::Cached{b, testing::FaultyStore<B>(b), {.bytes = bytes}};
        });
}

TEST_CASE("tier/cached: a budget of bytes is never exceeded, whatever is declared and used") {
    std::mt19937 random{5};
    for (index_t const budget :
         {of_all_kinds + 40, index_t(2500), index_t(7001), index_t(100000)}) {
        CAPTURE(budget);
        CpuBackend b{.threads = 1};
        index_t const before = b.counters().bytes_in_use;
        tier::Cached tier{b, tier::HostStore{}, {.bytes = budget}};
        auto const within = [&] { return b.counters().peak_bytes - before <= budget; };
        tier.declare(b, {0, router_block}, {40, LayoutId::row_major});
        std::vector<BlockKey> keys{{0, router_block}};
        for (int k = 0; k < 4; ++k) {
            for (int l = 0; l < 2; ++l)
                for (int e = 0; e < 5; ++e) {
                    keys.push_back({l, e, kinds[k]});
                    tier.declare(b, keys.back(), of(kinds[k]));
                }
            for (int use = 0; use < 100; ++use) {
                BlockKey const key = keys[random() % keys.size()];
                auto const lease = tier.acquire(b, key, use % 3 ? Access::read : Access::write);
                if (use % 7 == 0) tier.prefetch(b, keys);
                REQUIRE(within());
            }
        }
        for (BlockKind const kind : kinds) CHECK(tier.max_pinned(kind) >= 1);
    }
}

TEST_CASE("tier/cached: blocks keep their bytes when a budget is shared out anew") {
    CpuBackend b;
    tier::Cached tier{b, tier::HostStore{}, {.bytes = 2 * of_all_kinds}};
    declare(b, tier, 2, 4, 1);
    for (int e = 0; e < 4; ++e) {
        auto const lease = tier.acquire(b, {0, e}, Access::overwrite);
        b.parallel_for(n, StampFn{lease.bytes().data, std::uint32_t(e)});
    }
    CHECK(tier.max_pinned(BlockKind::weight) == 8); // all of them: nothing else wants memory
    declare(b, tier, 2, 4, 4);
    CHECK(tier.max_pinned(BlockKind::weight) < 8);
    for (int e = 0; e < 4; ++e) {
        auto const lease = tier.acquire(b, {0, e}, Access::read);
        CHECK(fetched(b, lease.bytes().data, n) == pattern(std::uint32_t(e), n));
    }
    auto const leased = tier.acquire(b, {0, 0}, Access::read);
    CHECK_THROWS_AS(tier.declare(b, {7, 0}, {2 * n, LayoutId::row_major}), precondition_error);
}

TEST_CASE("tier/cached: a budget goes to a few slots of each kind, then to weights first") {
    CpuBackend b;
    auto const slots = [&](index_t bytes) {
        tier::Cached tier{b, tier::HostStore{}, {.bytes = bytes}};
        declare(b, tier, 4, 4, 4);
        std::vector<index_t> most;
        for (BlockKind const kind : kinds) most.push_back(tier.max_pinned(kind));
        return most;
    };
    using Slots = std::vector<index_t>;
    CHECK(slots(of_all_kinds) == Slots{1, 1, 1, 1});
    CHECK(slots(4 * of_all_kinds) == Slots{4, 4, 4, 4});
    CHECK(slots(4 * of_all_kinds + 12 * n) == Slots{16, 4, 4, 4});
    CHECK(slots(4 * of_all_kinds + 12 * 3 * n) == Slots{16, 16, 4, 4});
    CHECK(slots(16 * of_all_kinds) == Slots{16, 16, 16, 16});
    CHECK(slots(100 * of_all_kinds) == Slots{16, 16, 16, 16});
}

TEST_CASE("tier/cached: a budget that is too small is refused with the least that would do") {
    CpuBackend b;
    tier::Cached tier{b, tier::HostStore{}, {.contexts = 2, .bytes = 5 * n}};
    tier.declare(b, {0, router_block}, {n, LayoutId::row_major});
    for (int e = 0; e < 3; ++e) tier.declare(b, {0, e}, {n, LayoutId::row_major});
    bool said = false;
    try {
        tier.declare(b, {0, 0, BlockKind::gradient}, {3 * n, LayoutId::row_major});
    } catch (precondition_error const& error) {
        std::string const text = error.what();
        said = text.find("bytes is 500") != text.npos && text.find("at least 600") != text.npos;
    }
    CHECK(said);
    CHECK_FALSE(tier.contains({0, 0, BlockKind::gradient}));
    for (expert_id const id : {expert_id(3), router_block})
        CHECK_THROWS_AS(tier.declare(b, {1, id}, {index_t(1) << 62, LayoutId::row_major}),
                        precondition_error);
    (void)tier.acquire(b, {0, 1}, Access::read).bytes(); // it goes on as before
    CHECK_THROWS_AS((tier::Cached{b, tier::HostStore{}, {.bytes = -1}}), precondition_error);
    CHECK_THROWS_AS((tier::Cached{b, tier::HostStore{}, {.layers = -1}}), precondition_error);
}

TEST_CASE("tier/cached: dense blocks are loaded once and stay, in memory of their own") {
    CpuBackend b;
    index_t const before = b.counters().bytes_in_use;
    tier::Cached tier{b, tier::HostStore{}, {.slots = 1}};
    for (int l = 0; l < 3; ++l) {
        tier.declare(b, {l, router_block}, {8, LayoutId::row_major});
        tier.declare(b, {l, shared_block}, {200, LayoutId::row_major});
        for (int e = 0; e < 2; ++e) tier.declare(b, {l, e}, {n, LayoutId::row_major});
    }
    CHECK(b.counters().bytes_in_use - before == 3 * 208 + n);
    for (int pass = 0; pass < 4; ++pass)
        for (int l = 0; l < 3; ++l) {
            auto const router = tier.acquire(b, {l, router_block}, Access::write);
            auto const shared = tier.acquire(b, {l, shared_block}, Access::read);
            for (int e = 0; e < 2; ++e) (void)tier.acquire(b, {l, e}, Access::read).bytes();
        }
    CHECK(tier.counters().loads == 6 + 4 * 6);
    CHECK(tier.counters().write_backs == 0);
    tier.flush(b);
    CHECK(tier.counters().write_backs == 3);
}

TEST_CASE(
    "tier/cached: more slots, layers or contexts than there are blocks are as good as those") {
    CpuBackend b;
    constexpr index_t most = std::numeric_limits<index_t>::max();
    for (tier::CachedOptions const options : {tier::CachedOptions{.slots = most},
                                              {.layers = most},
                                              {.layers = most / 2 + 1},
                                              {.slots = most, .contexts = most},
                                              {.contexts = most, .bytes = 1 << 20},
                                              {.contexts = most / 2 + 1, .bytes = 8 * n},
                                              {.contexts = most, .layers = 1}}) {
        tier::Cached tier{b, tier::HostStore{}, options};
        declare(b, tier, 2, 4, 1);
        for (int pass = 0; pass < 2; ++pass)
            for (int l = 0; l < 2; ++l)
                for (int e = 0; e < 4; ++e) (void)tier.acquire(b, {l, e}, Access::read).bytes();
        CHECK(tier.counters().loads == 8);
    }
}

} // namespace cached_budget_test
