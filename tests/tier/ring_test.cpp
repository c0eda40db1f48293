#include "semoe/tier/ring.hpp"

#include "semoe/testing/check_tier.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <limits>
#include <vector>

using namespace semoe;

namespace ring_test {
namespace {

constexpr index_t block_bytes = 96;
constexpr int num_experts = 3;
BlockKey block_of(int layer, int expert) { return {layer, expert, BlockKind::weight}; }

auto ring_of(CpuBackend& b, int layers, index_t slots) {
    tier::Ring tier{b, tier::HostStore{}, {.slots = slots}};
    for (int l = 0; l < layers; ++l)
        for (int e = 0; e < num_experts; ++e)
            tier.declare(b, block_of(l, e), {block_bytes, LayoutId::row_major});
    return tier;
}
/// @return how many blocks were there, or on their way
template <class Tier>
index_t pass_through(CpuBackend& b, Tier& tier, int layer) {
    index_t hits = 0;
    for (int e = 0; e < num_experts; ++e) {
        hits += tier.resident(block_of(layer, e));
        (void)tier.acquire(b, block_of(layer, e), Access::read).bytes();
    }
    return hits;
}

} // namespace

TEST_CASE_TEMPLATE("tier/ring: keeps the promises of a tier", B, SEMOE_TEST_BACKENDS) {
    for (index_t slots = 1; slots <= 3; ++slots)
        for (bool const pin : {true, false})
            testing::check_tier(B{}, [&](B& b) {
                return tier::Ring{
                    b, testing::FaultyStore<B>(b), {.slots = slots, .pin_dense = pin}};
            });
}

TEST_CASE_TEMPLATE("tier/ring: keeps them in any order that queues and events allow", B,
                   SEMOE_TEST_BACKENDS) {
    if constexpr (requires(B b) { b.seed; })
        for (std::uint64_t seed = 1; seed <= 4; ++seed)
            testing::check_tier(B{.seed = seed}, [](B& b) {
                return tier::Ring{b, testing::FaultyStore<B>(b), {.slots = 2}};
            });
}

TEST_CASE("tier/ring: a layer is there when its turn comes, token after token, and loaded at "
          "most once a turn") {
    CpuBackend b;
    for (int layers = 1; layers <= 6; ++layers)
        for (index_t slots = 1; slots <= 7; ++slots) {
            CAPTURE(layers);
            CAPTURE(slots);
            auto tier = ring_of(b, layers, slots);
            index_t const first = pass_through(b, tier, 0); // the rest of it comes ahead of its use
            CHECK(first == num_experts - 1);
            for (int turn = 1; turn < 3 * layers; ++turn)
                CHECK(pass_through(b, tier, turn % layers) == num_experts);
            index_t const turns = slots >= layers ? layers : 3 * layers;
            CHECK(tier.counters().loads <= (turns + slots) * num_experts);
            CHECK(tier.counters().write_backs == 0);
        }
}

TEST_CASE("tier/ring: errors name the options of the ring") {
    CpuBackend b;
    using Ring = tier::Ring<CpuBackend, tier::HostStore>;
    CHECK_THROWS_WITH_AS((Ring{b, tier::HostStore{}, {.slots = 0}}),
                         "RingOptions: slots is 0, must be at least 1", precondition_error);
    CHECK_THROWS_WITH_AS((Ring{b, tier::HostStore{}, {.in_flight = 0}}),
                         "RingOptions: in_flight is 0, must be between 1 and 64",
                         precondition_error);
    auto tier = ring_of(b, 2, 1);
    std::vector<Ring::lease_type> leases;
    for (int e = 0; e < num_experts; ++e)
        leases.push_back(tier.acquire(b, block_of(0, e), Access::read));
    CHECK_THROWS_WITH_AS(
        (void)tier.acquire(b, block_of(1, 0), Access::read),
        "tier::Cached: all 3 weight slots are leased while block (layer 1, expert 0, weight) is "
        "acquired; raise RingOptions::slots or release leases earlier, or say in its option "
        "contexts how many forwards run at once",
        precondition_error);
    CHECK_THROWS_WITH_AS((Ring{b, tier::HostStore{}, {.contexts = 0}}),
                         "RingOptions: contexts is 0, must be at least 1", precondition_error);
}

TEST_CASE("tier/ring: forwards that run at once share a layer's places") {
    CpuBackend b;
    for (index_t const contexts : {1, 2, 3}) {
        tier::Ring tier{b, tier::HostStore{}, {.slots = 1, .contexts = contexts}};
        for (int e = 0; e < 6; ++e) tier.declare(b, block_of(0, e), {64, LayoutId::row_major});
        CHECK(tier.max_pinned(BlockKind::weight) == 6 / contexts);
    }
}

TEST_CASE("tier/ring: the places of a layer go to the one that is `slots` further on") {
    CpuBackend b;
    auto tier = ring_of(b, 5, 2);
    auto const present = [&](int layer) {
        int n = 0;
        for (int e = 0; e < num_experts; ++e) n += tier.resident(block_of(layer, e));
        return n;
    };
    (void)pass_through(b, tier, 0);
    for (int turn = 1; turn < 12; ++turn) {
        (void)pass_through(b, tier, turn % 5);
        CHECK(present((turn + 1) % 5) == num_experts);
        CHECK(present((turn + 2) % 5) == num_experts); // in the places of this one
        CHECK(present(turn % 5) == 0);
    }
}

TEST_CASE("tier/ring: it turns backwards with a backward pass") {
    CpuBackend b;
    auto tier = ring_of(b, 5, 2);
    for (int pass = 0; pass < 3; ++pass) {
        for (int l = 0; l < 5; ++l) (void)pass_through(b, tier, l);
        (void)pass_through(b, tier, 4); // nobody knew
        (void)pass_through(b, tier, 3);
        for (int l = 2; l >= 0; --l) CHECK(pass_through(b, tier, l) == num_experts);
    }
}

TEST_CASE("tier/ring: blocks that nobody chose make room at once") {
    CpuBackend b;
    auto tier = ring_of(b, 4, 1);
    for (int l = 0; l < 4; ++l) tier.declare(b, {l, router_block}, {40, LayoutId::row_major});
    auto const present = [&](int layer) {
        int n = 0;
        for (int e = 0; e < num_experts; ++e) n += tier.resident(block_of(layer, e));
        return n;
    };
    for (int turn = 0; turn < 8; ++turn) {
        (void)tier.acquire(b, {turn % 4, router_block}, Access::read).bytes();
        CHECK(present(turn % 4) == num_experts); // for all that is known
        BlockKey const chosen = block_of(turn % 4, turn % num_experts);
        tier.prefetch(b, std::span(&chosen, 1));
        CHECK(present((turn + 1) % 4) == num_experts - 1);
        (void)tier.acquire(b, chosen, Access::read).bytes();
        CHECK(present((turn + 1) % 4) == num_experts);
    }
}

TEST_CASE("tier/ring: its memory is that of a few layers, beside the dense blocks'") {
    CpuBackend b;
    index_t const before = b.counters().bytes_in_use;
    {
        auto tier = ring_of(b, 6, 2);
        CHECK(b.counters().bytes_in_use == before + 2 * num_experts * block_bytes);
        for (int l = 0; l < 6; ++l) tier.declare(b, {l, router_block}, {40, LayoutId::row_major});
        CHECK(b.counters().bytes_in_use == before + 2 * num_experts * block_bytes + 6 * 40);
        for (int turn = 0; turn < 12; ++turn) {
            (void)tier.acquire(b, {turn % 6, router_block}, Access::read).bytes();
            CHECK(pass_through(b, tier, turn % 6) == num_experts);
        }
        CHECK(tier.counters().loads <= 6 + (12 + 2) * num_experts);
        CHECK(b.counters().bytes_in_use == before + 2 * num_experts * block_bytes + 6 * 40);
    }
    CHECK(b.counters().bytes_in_use == before);
    CHECK_THROWS_AS((tier::Ring{b, tier::HostStore{}, {.slots = 0}}), precondition_error);
}

TEST_CASE("tier/ring: more layers than there are take the memory of those") {
    CpuBackend b;
    auto tier = ring_of(b, 4, std::numeric_limits<index_t>::max() / 2 + 1);
    CHECK(tier.max_pinned(BlockKind::weight) == 4 * num_experts);
    for (int turn = 0; turn < 8; ++turn) (void)pass_through(b, tier, turn % 4);
    CHECK(tier.counters().loads == 4 * num_experts);
}

TEST_CASE("tier/ring: a block whose place was refused at first turns with the others") {
    bool refuse = false;
    CpuBackend b{.threads = 1,
                 .allocator = {[](std::size_t n, void* r) -> void* {
                                   if (*static_cast<bool*>(r)) return nullptr;
                                   return std::aligned_alloc(64, (n + 63) / 64 * 64);
                               },
                               [](void* p, std::size_t, void*) noexcept { std::free(p); },
                               &refuse}};
    tier::Ring tier{b, tier::HostStore{}, {.slots = 2}};
    tier.declare(b, block_of(0, 0), {block_bytes, LayoutId::row_major});
    refuse = true;
    CHECK_THROWS_AS(tier.declare(b, block_of(1, 0), {2 * block_bytes, LayoutId::row_major}),
                    backend_error);
    refuse = false;
    tier.declare(b, block_of(1, 0), {2 * block_bytes, LayoutId::row_major});
    (void)tier.acquire(b, block_of(0, 0), Access::read).bytes();
    CHECK(tier.resident(block_of(1, 0)));
}

} // namespace ring_test
