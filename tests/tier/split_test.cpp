#include "semoe/tier/split.hpp"

#include "semoe/layer/sequence.hpp"
#include "semoe/testing/check_tier.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/ring.hpp"
#include "support/backends.hpp"
#include "support/recording_tier.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace semoe;
using Keys = std::vector<BlockKey>;

TEST_CASE_TEMPLATE("tier/split: keeps the promises of a tier", B, SEMOE_TEST_BACKENDS) {
    using Cached = tier::Cached<B, tier::HostStore>;
    testing::check_tier(B{}, [](B& b) {
        return tier::Split{tier::Resident<B>{b}, Cached{b, tier::HostStore{}, {.slots = 3}}};
    });
}

TEST_CASE("tier/split: router and shared expert lie in the first tier, experts in the second") {
    CpuBackend b;
    tier::Split tier{tier::Cached{b, tier::HostStore{}, {.slots = 1, .pin_dense = false}},
                     tier::Cached{b, tier::HostStore{}, {.slots = 2}}};
    BlockInfo const info{64, LayoutId::row_major};
    for (expert_id e : {shared_block, router_block, 0, 1, 2}) tier.declare(b, {0, e}, info);
    for (expert_id e : {shared_block, router_block}) {
        CHECK(tier.dense().contains({0, e}));
        CHECK_FALSE(tier.sparse().contains({0, e}));
    }
    for (expert_id e : {0, 1, 2}) {
        CHECK(tier.sparse().contains({0, e}));
        CHECK_FALSE(tier.dense().contains({0, e}));
        CHECK(tier.info({0, e}) == info);
    }
    CHECK(tier.max_pinned(BlockKind::weight) == 2);
    {
        auto dense = tier.acquire(b, {0, router_block}, Access::read);
        auto first = tier.acquire(b, {0, 0}, Access::write);
        auto const second = tier.acquire(b, {0, 1}, Access::read);
        CHECK(dense.bytes().size == 64);
        CHECK(first.bytes().data != second.bytes().data);
        CHECK_THROWS_AS((void)tier.acquire(b, {0, shared_block}, Access::read), precondition_error);
        auto moved = std::move(first);
        first = std::move(dense);
        CHECK_THROWS_AS((void)tier.acquire(b, {0, 2}, Access::read), precondition_error);
    }
    tier.flush(b);
    TierCounters const d = tier.dense().counters(), s = tier.sparse().counters();
    CHECK(tier.counters() == TierCounters{3, 0, 3, 0, 1, 192, 64});
    CHECK(d.acquires == 1);
    CHECK(s.acquires == 2);
    CHECK(s.write_backs == 1);
}

TEST_CASE("tier/split: offers what the tier of experts offers") {
    using Resident = tier::Resident<CpuBackend>;
    using Cached = tier::Cached<CpuBackend, tier::HostStore>;
    static_assert(!HasArrival<tier::Split<Cached, Resident>>);
    static_assert(HasArrival<tier::Split<Resident, Cached>>);
    static_assert(!HasPrediction<tier::Split<Resident, Cached>, CpuBackend>);
    static_assert(HasPrediction<tier::Split<Resident, Sequenced<Cached>>, CpuBackend>);
    CpuBackend b;
    tier::Split tier{Resident{b}, Sequenced{Cached{b, tier::HostStore{}, {.slots = 1}}}};
    for (expert_id e : {router_block, 0}) tier.declare(b, {0, e}, {64, LayoutId::row_major});
    CHECK(tier.arrived({0, router_block}));
    CHECK_FALSE(tier.arrived({0, 0}));
    for (expert_id e : {router_block, 0}) (void)tier.acquire_aside(b, {0, e}, Access::read).bytes();
    CHECK(tier.arrived({0, 0}));
}

TEST_CASE("tier/split: a tier is told of its own blocks in order, and not of others' lists") {
    CpuBackend b;
    test::RecordingTier dense, sparse;
    tier::Split tier{dense, sparse};
    for (int layer = 0; layer < 2; ++layer)
        for (expert_id e : {router_block, 0, 1})
            tier.declare(b, {layer, e}, {8, LayoutId::row_major});
    tier.prefetch(b, Keys{{0, 1}, {0, router_block}, {0, 0}, {1, router_block}});
    CHECK(*dense.told == std::vector<Keys>{{{0, router_block}, {1, router_block}}});
    CHECK(*sparse.told == std::vector<Keys>{{{0, 1}, {0, 0}}});
    tier.prefetch(b, Keys{{1, 0}});
    tier.prefetch(b, Keys{});
    CHECK(dense.told->size() == 1);
    CHECK(sparse.told->size() == 2);
    tier.prefetch(b, Keys{{1, router_block}});
    CHECK(dense.told->size() == 2);
    CHECK(sparse.told->size() == 2);
    Keys const endless(1000, BlockKey{0, 0});
    tier.prefetch(b, endless);
    CHECK(sparse.told->back().size() == 6 * 8);
}

TEST_CASE("tier/split: each tier forgets its own blocks where it can") {
    CpuBackend b;
    tier::Split tier{tier::Resident{b}, tier::Ring{b, tier::HostStore{}}};
    static_assert(HasDiscard<decltype(tier)>);
    for (expert_id e : {router_block, 0, 1}) {
        tier.declare(b, {0, e}, {64, LayoutId::row_major});
        (void)tier.acquire(b, {0, e}, Access::overwrite).bytes();
    }
    tier.discard({0, router_block}); // a Resident keeps it
    tier.discard({0, 1});
    tier.flush(b);
    CHECK(tier.counters().write_backs == 1);
}

TEST_CASE("tier/split: blocks that its tiers had before are announced like any other") {
    CpuBackend b;
    test::RecordingTier dense, sparse;
    BlockInfo const info{8, LayoutId::row_major};
    dense.declare(b, {0, router_block}, info);
    sparse.declare(b, {0, 0}, info);
    tier::Split tier{dense, sparse};
    for (int time = 0; time < 2; ++time)
        for (expert_id e : {router_block, 0}) tier.declare(b, {0, e}, info);
    tier.prefetch(b, Keys{{0, router_block}, {0, 0}});
    CHECK(*dense.told == std::vector<Keys>{{{0, router_block}}});
    REQUIRE(*sparse.told == std::vector<Keys>{{{0, 0}}});
    tier.prefetch(b, Keys(1000, BlockKey{0, 0}));
    CHECK(sparse.told->back().size() == 2 * 8);
}
