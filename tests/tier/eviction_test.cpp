#include "semoe/tier/eviction.hpp"

#include "semoe/tier/cached.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <random>
#include <vector>

using namespace semoe;

namespace eviction_test {
namespace {

constexpr index_t block_bytes = 40;
constexpr int num_blocks = 6;
BlockKey key(int i) { return {0, i, BlockKind::weight}; }

/// What Cached<..., Lru> must do when nothing is announced.
struct LruModel {
    struct Slot {
        int block;
        bool dirty;
        int pins;
    };
    std::size_t slots;
    std::deque<Slot> order = {}; // least recently used first
    TierCounters counters = {};

    void acquire(int block, Access access) {
        ++counters.acquires;
        auto found = std::find_if(order.begin(), order.end(),
                                  [&](Slot const& s) { return s.block == block; });
        Slot slot{block, false, 0};
        if (found != order.end()) {
            ++counters.hits;
            slot = *found;
            order.erase(found);
        } else {
            if (order.size() == slots) {
                auto const victim = std::find_if(order.begin(), order.end(),
                                                 [](Slot const& s) { return s.pins == 0; });
                ++counters.evictions;
                write_back(*victim);
                order.erase(victim);
            }
            if (access != Access::overwrite) {
                ++counters.loads;
                counters.bytes_loaded += block_bytes;
            }
        }
        ++slot.pins;
        order.push_back(slot);
    }
    void release(int block, Access access) {
        for (Slot& slot : order)
            if (slot.block == block) {
                --slot.pins;
                slot.dirty |= access != Access::read;
            }
    }
    void flush() {
        for (Slot& slot : order) write_back(slot);
    }
    void write_back(Slot& slot) {
        if (!slot.dirty) return;
        slot.dirty = false;
        ++counters.write_backs;
        counters.bytes_stored += block_bytes;
    }
};

/// What Cached<..., Lfu> must do when nothing is announced and one block is leased at a time.
struct LfuModel {
    struct Slot {
        int block;
        double uses;
        int last_use;
        bool dirty;
    };
    tier::eviction::Lfu policy;
    std::size_t slots;
    std::vector<Slot> cached = {};
    TierCounters counters = {};
    std::vector<int> victims = {};

    void acquire(int block, Access access) {
        auto found = std::find_if(cached.begin(), cached.end(),
                                  [&](Slot const& s) { return s.block == block; });
        counters.hits += found != cached.end();
        if (found == cached.end()) {
            if (cached.size() == slots) evict();
            ++counters.loads;
            counters.bytes_loaded += block_bytes;
            found = cached.insert(cached.end(), {block, 0, 0, false});
        }
        found->last_use = int(++counters.acquires);
        found->uses += 1;
        found->dirty |= access != Access::read;
        if (policy.period > 0 && counters.acquires % policy.period == 0)
            for (Slot& slot : cached) slot.uses *= policy.decay;
    }
    void evict() {
        auto const before = [](Slot const& a, Slot const& b) {
            return std::pair(a.uses, a.last_use) < std::pair(b.uses, b.last_use);
        };
        auto const earned = std::partition(cached.begin(), cached.end(), [&](Slot const& s) {
            return s.uses >= policy.threshold;
        });
        auto const victim = std::min_element(
            cached.begin(), earned == cached.begin() ? cached.end() : earned, before);
        ++counters.evictions;
        counters.write_backs += victim->dirty;
        counters.bytes_stored += victim->dirty ? block_bytes : 0;
        victims.push_back(victim->block);
        cached.erase(victim);
    }
};

/// How often a cache that knows the future would load (Belady's rule).
index_t belady(std::vector<int> const& trace, std::size_t slots) {
    std::map<int, std::deque<std::size_t>> uses; // of each block, from now on
    for (std::size_t n = 0; n < trace.size(); ++n) uses[trace[n]].push_back(n);
    auto const next_use = [&](int block) {
        return uses[block].empty() ? trace.size() : uses[block].front();
    };
    std::vector<int> cached;
    index_t loads = 0;
    for (int const block : trace) {
        uses[block].pop_front();
        if (std::find(cached.begin(), cached.end(), block) != cached.end()) continue;
        ++loads;
        if (cached.size() < slots) {
            cached.push_back(block);
            continue;
        }
        *std::max_element(cached.begin(), cached.end(),
                          [&](int a, int b) { return next_use(a) < next_use(b); }) = block;
    }
    return loads;
}

/// Blocks by Zipf's law.
std::vector<int> zipf_trace(std::uint64_t seed, int blocks, double exponent, int length) {
    std::mt19937_64 random(seed);
    std::vector<double> weights;
    for (int i = 0; i < blocks; ++i) weights.push_back(std::pow(i + 1, -exponent));
    std::discrete_distribution<int> zipf(weights.begin(), weights.end());
    std::vector<int> trace;
    for (int n = 0; n < length; ++n) trace.push_back(zipf(random));
    return trace;
}

template <class Policy>
index_t loads_of(std::vector<int> const& trace, int blocks, index_t slots, Policy policy) {
    CpuBackend b{.threads = 1};
    tier::Cached tier{b, tier::HostStore{}, {.slots = slots}, policy};
    for (int i = 0; i < blocks; ++i) tier.declare(b, key(i), {block_bytes});
    for (int const block : trace) (void)tier.acquire(b, key(block), Access::read).bytes();
    return tier.counters().loads;
}

template <class M>
void declare_all(CpuBackend& b, M& tier) {
    for (int i = 0; i < num_blocks; ++i)
        tier.declare(b, key(i), {block_bytes, LayoutId::row_major});
}

} // namespace

TEST_CASE("tier/eviction: without announcements, counters are those of a least-recently-used "
          "model") {
    CpuBackend b;
    for (index_t slots = 1; slots <= num_blocks; ++slots)
        for (std::uint64_t seed = 0; seed < 3; ++seed) {
            tier::Cached tier{b, tier::HostStore{}, {.slots = slots}};
            declare_all(b, tier);
            LruModel model{std::size_t(slots)};
            std::mt19937_64 random(seed);
            using Lease = decltype(tier)::lease_type;
            std::vector<std::pair<int, std::pair<Access, Lease>>> leases;
            for (int step = 0; step < 400; ++step) {
                if (random() % 50 == 0) {
                    while (!leases.empty()) {
                        model.release(leases.back().first, leases.back().second.first);
                        leases.pop_back();
                    }
                    tier.flush(b);
                    model.flush();
                } else if (leases.size() == std::size_t(slots) || random() % 3 == 0) {
                    if (leases.empty()) continue;
                    auto const at = leases.begin() + std::ptrdiff_t(random() % leases.size());
                    model.release(at->first, at->second.first);
                    leases.erase(at);
                } else {
                    int const block = int(random() % num_blocks);
                    auto const access = Access(random() % 3);
                    leases.emplace_back(block,
                                        std::pair(access, tier.acquire(b, key(block), access)));
                    model.acquire(block, access);
                }
                REQUIRE(tier.counters() == model.counters);
            }
        }
}

TEST_CASE("tier/eviction: announced blocks are there in time, each slot holding what is needed "
          "soonest") {
    CpuBackend b;
    for (index_t slots = 1; slots <= num_blocks; ++slots)
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
            tier::Cached tier{b, tier::HostStore{}, {.slots = slots}};
            declare_all(b, tier);
            std::mt19937_64 random(seed);
            std::vector<BlockKey> trace(40);
            for (BlockKey& block : trace) block = key(int(random() % num_blocks));
            tier.prefetch(b, trace);
            for (std::size_t i = 0; i < trace.size(); ++i) {
                (void)tier.acquire(b, trace[i], Access::read).bytes();
                auto const next_use = [&](BlockKey block) {
                    return std::find(trace.begin() + std::ptrdiff_t(i) + 1, trace.end(), block);
                };
                auto const missing =
                    std::find_if(trace.begin() + std::ptrdiff_t(i) + 1, trace.end(),
                                 [&](BlockKey block) { return !tier.resident(block); });
                for (int block = 0; block < num_blocks && missing != trace.end(); ++block)
                    if (tier.resident(key(block))) REQUIRE(next_use(key(block)) < missing);
            }
            CHECK(tier.counters().hits == 40);
        }
}

TEST_CASE("tier/eviction: what is announced earlier never gives way to what is announced later") {
    CpuBackend b;
    tier::Cached tier{b, tier::HostStore{}, {.slots = 2}};
    declare_all(b, tier);
    auto const resident = [&] {
        std::vector<int> blocks;
        for (int i = 0; i < num_blocks; ++i)
            if (tier.resident(key(i))) blocks.push_back(i);
        return blocks;
    };
    std::vector<BlockKey> const upcoming{key(3), key(1), key(0), key(2)};
    tier.prefetch(b, upcoming);
    CHECK(resident() == std::vector{1, 3});
    {
        auto const unannounced = tier.acquire(b, key(5), Access::read);
        CHECK(resident() == std::vector{3, 5});
    }
    CHECK(resident() == std::vector{1, 3}); // 5 was not announced
    {
        auto const lease = tier.acquire(b, key(3), Access::read);
        CHECK(resident() == std::vector{1, 3});
    }
    CHECK(resident() == std::vector{0, 1});
    tier.prefetch(b, std::vector{key(4)}); // another list: the old one no longer counts
    CHECK(tier.resident(key(4)));
    CHECK(tier.counters().hits == 1);
}

TEST_CASE("tier/eviction: the least often used goes first of those that have earned it") {
    CpuBackend b;
    auto const resident_after = [&](tier::eviction::Lfu policy, std::vector<int> const& uses) {
        tier::Cached tier{b, tier::HostStore{}, {.slots = 3}, policy};
        declare_all(b, tier);
        for (int const block : uses) (void)tier.acquire(b, key(block), Access::read).bytes();
        std::vector<int> blocks;
        for (int i = 0; i < num_blocks; ++i)
            if (tier.resident(key(i))) blocks.push_back(i);
        return blocks;
    };
    std::vector<int> const uses{0, 0, 0, 1, 2, 2, 3};
    CHECK(resident_after({}, uses) == std::vector{0, 2, 3});
    // Below the threshold nothing is given up while something above it is there.
    CHECK(resident_after({.threshold = 2}, uses) == std::vector{0, 1, 3});
    CHECK(resident_after({.threshold = 3}, uses) == std::vector{1, 2, 3});
    CHECK(resident_after({.threshold = 9}, uses) == std::vector{0, 2, 3}); // none has earned it
    // The least recently used decides between equals.
    CHECK(resident_after({}, {0, 1, 2, 0, 1, 2, 3}) == std::vector{1, 2, 3});
    // Four uses long ago count less than three of today.
    CHECK(resident_after({.threshold = 0, .decay = 0.1, .period = 4},
                         {0, 0, 0, 0, 1, 1, 2, 2, 1, 2, 3}) == std::vector{1, 2, 3});
    CHECK(resident_after({.period = 0}, {0, 0, 0, 0, 1, 1, 2, 2, 1, 2, 3}) == std::vector{0, 2, 3});
}

TEST_CASE("tier/eviction: who overwrites a block has not had the turn that was announced for it") {
    CpuBackend b;
    tier::Cached tier{b, tier::HostStore{}, {.slots = 2}};
    declare_all(b, tier);
    (void)tier.acquire(b, key(0), Access::overwrite).bytes();
    BlockKey const upcoming[] = {key(0), key(1)};
    tier.prefetch(b, upcoming);
    (void)tier.acquire(b, key(0), Access::overwrite).bytes();
    (void)tier.acquire(b, key(2), Access::read).bytes();
    CHECK(tier.resident(key(0)));
    CHECK(tier.counters().write_backs == 0);
}

TEST_CASE("tier/eviction: counters and victims are those of a least-often-used model") {
    CpuBackend b{.threads = 1};
    for (double const threshold : {0., 1., 2., 3., 16.})
        for (index_t const period : {0, 7, 64})
            for (index_t const slots : {1, 2, 5, 13}) {
                CAPTURE(threshold);
                CAPTURE(period);
                CAPTURE(slots);
                tier::eviction::Lfu const policy{.threshold = threshold, .period = period};
                LfuModel model{policy, std::size_t(slots)};
                tier::Cached tier{b, tier::HostStore{}, {.slots = slots}, policy};
                for (int i = 0; i < 16; ++i) tier.declare(b, key(i), {block_bytes});
                std::mt19937_64 random(std::uint64_t(slots) + std::uint64_t(threshold));
                for (int const block : zipf_trace(random(), 16, 0.7, 400)) {
                    Access const access = random() % 2 ? Access::read : Access::write;
                    std::size_t const evicted = model.victims.size();
                    (void)tier.acquire(b, key(block), access).bytes();
                    model.acquire(block, access);
                    REQUIRE(tier.counters() == model.counters);
                    if (model.victims.size() > evicted)
                        REQUIRE(!tier.resident(key(model.victims.back())));
                }
            }
}

TEST_CASE("tier/eviction: on skewed traces counts load no more than the order of use, and no fewer "
          "than who knows the future") {
    constexpr int blocks = 64, length = 1000;
    for (index_t const slots : {4, 16, 48}) {
        CAPTURE(slots);
        index_t by_use = 0, by_count = 0;
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
            auto const trace = zipf_trace(seed, blocks, 1, length);
            index_t const optimum = belady(trace, std::size_t(slots));
            auto const loads = [&](auto policy) {
                index_t const n = loads_of(trace, blocks, slots, policy);
                CHECK(n >= optimum);
                return n;
            };
            by_use += loads(tier::eviction::Lru{});
            by_count += loads(tier::eviction::Lfu{});
            for (double const threshold : {2., 4., 16.})
                loads(tier::eviction::Lfu{.threshold = threshold});
        }
        CHECK(by_count <= by_use);
        for (std::uint64_t seed = 0; seed < 4; ++seed) { // more skewed: in every trace
            auto const trace = zipf_trace(seed, blocks, 1.2, 4000);
            CHECK(loads_of(trace, blocks, slots, tier::eviction::Lfu{}) <=
                  loads_of(trace, blocks, slots, tier::eviction::Lru{}));
        }
    }
}

namespace acme {

/// The least often used block goes first; counts fade, so that old fame does not last.
struct Lfu {
    struct SlotState {
        double uses = 0;
        int faded = 0;
    };
    int period = 16, requests = 0;

    double uses(SlotState const& s) const {
        double value = s.uses;
        for (int n = s.faded; n < requests / period; ++n) value *= 0.5;
        return value;
    }
    void placed(SlotState& s) { s = {0, requests / period}; }
    void used(SlotState& s) {
        ++requests;
        s = {uses(s) + 1, requests / period};
    }
    bool before(tier::eviction::Candidate<SlotState> a,
                tier::eviction::Candidate<SlotState> b) const {
        return uses(a.state) < uses(b.state);
    }
};
static_assert(tier::eviction::EvictionPolicy<Lfu>);

} // namespace acme

TEST_CASE("tier/eviction: a policy of one's own keeps what it counts as hot") {
    CpuBackend b;
    auto const loads_of_hot = [&](auto policy) {
        tier::Cached tier{b, tier::HostStore{}, {.slots = 2}, policy};
        declare_all(b, tier);
        for (int n = 0; n < 4; ++n) (void)tier.acquire(b, key(0), Access::read).bytes();
        index_t lost = 0;
        for (int i = 1; i < num_blocks; ++i) {
            (void)tier.acquire(b, key(i), Access::read).bytes();
            lost += !tier.resident(key(0));
        }
        return lost;
    };
    CHECK(loads_of_hot(acme::Lfu{}) == 0);
    CHECK(loads_of_hot(tier::eviction::Lru{}) == 4);
}

TEST_CASE("tier/eviction: a decay that is no share is refused by the tier that takes it") {
    CpuBackend b;
    auto const make = [&](double decay) {
        tier::Cached{b, tier::HostStore{}, {}, tier::eviction::Lfu{.decay = decay}};
    };
    for (double const decay : {0.0, 0.5, 1.0}) CHECK_NOTHROW(make(decay));
    CHECK_THROWS_WITH_AS(make(1.5), "eviction::Lfu: decay is 1.5, must be from 0 to 1",
                         precondition_error);
    CHECK_THROWS_AS(make(-0.5), precondition_error);
    CHECK_THROWS_AS(make(std::nan("")), precondition_error);
}

} // namespace eviction_test
