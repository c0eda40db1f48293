#include "semoe/testing/check_tier.hpp"
#include "semoe/tier/cached.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using testing::detail::fetched;
using testing::detail::pattern;
using testing::detail::StampFn;

namespace {

constexpr index_t block_size = 64;

template <class B>
auto tier_of(B& b, index_t blocks) {
    tier::Cached tier{b, tier::HostStore{}, {.slots = 2}};
    for (index_t e = 0; e < blocks; ++e)
        tier.declare(b, {0, expert_id(e)}, {block_size, LayoutId::row_major});
    return tier;
}
template <class B, class Tier>
void write(B& b, Tier& tier, expert_id e, int stamp) {
    auto lease = tier.acquire(b, {0, e}, Access::overwrite);
    b.parallel_for(block_size, StampFn{lease.bytes().data, std::uint32_t(stamp)});
}
template <class B, class Tier>
void read(B& b, Tier& tier, expert_id e) {
    auto lease = tier.acquire(b, {0, e}, Access::read);
}

} // namespace

TEST_CASE_TEMPLATE("tier/cached: a discarded block is neither written back nor loaded ahead", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto tier = tier_of(b, 4);
    static_assert(HasDiscard<decltype(tier)>);
    write(b, tier, 0, 1);
    b.synchronize();
    read(b, tier, 0); // known to have arrived
    tier.discard({0, 0});
    tier.flush(b);
    CHECK(tier.counters().write_backs == 0);

    BlockKey const upcoming[] = {{0, 0}};
    tier.prefetch(b, upcoming);
    b.synchronize();
    CHECK(tier.counters().loads == 0);
    CHECK_THROWS_WITH_AS(tier.discard({0, 9}), doctest::Contains("expert 9"), precondition_error);
}

TEST_CASE_TEMPLATE("tier/cached: what is written after a discard counts like any other", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto tier = tier_of(b, 4);
    write(b, tier, 0, 1);
    tier.discard({0, 0});
    write(b, tier, 0, 2);
    for (expert_id e : {1, 2, 3}) read(b, tier, e);
    CHECK(tier.counters().write_backs == 1);
    auto const lease = tier.acquire(b, {0, 0}, Access::read);
    CHECK(fetched(b, lease.bytes().data, block_size) == pattern(2, block_size));
}

TEST_CASE_TEMPLATE("tier/cached: a leased block that is discarded stays as it is for its reader", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto tier = tier_of(b, 2);
    write(b, tier, 0, 3);
    auto const lease = tier.acquire(b, {0, 0}, Access::read);
    tier.discard({0, 0});
    read(b, tier, 1);
    CHECK(fetched(b, lease.bytes().data, block_size) == pattern(3, block_size));
}

TEST_CASE_TEMPLATE("tier/cached: a leased block that is discarded is gone when it is released", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto tier = tier_of(b, 4);
    for (Access const access : {Access::read, Access::write, Access::overwrite}) {
        write(b, tier, 0, 3);
        {
            auto const lease = tier.acquire(b, {0, 0}, access);
            tier.discard({0, 0});
            CHECK(tier.resident({0, 0}));
        }
        CHECK_FALSE(tier.resident({0, 0}));
        for (expert_id e : {1, 2, 3}) read(b, tier, e);
    }
    CHECK(tier.counters().write_backs == 0);
}
