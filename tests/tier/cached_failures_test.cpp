#include "semoe/tier/cached.hpp"

#include "semoe/testing/check_backend.hpp"
#include "semoe/testing/detail/block_bytes.hpp"
#include "semoe/testing/faulty_store.hpp"
#include "support/allocation_counter.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace semoe;
using testing::detail::pattern, testing::detail::StampFn;

namespace cached_failures_test {
namespace {

using Store = testing::FaultyStore<CpuBackend>;
using Tier = tier::Cached<CpuBackend, Store>;
constexpr index_t bytes = 200;
constexpr int num_blocks = 6;
BlockKey key(int i) { return {0, i, BlockKind::weight}; }

struct Fixture {
    CpuBackend b{.threads = 1};
    Store store{b};
    Tier tier;

    explicit Fixture(tier::CachedOptions options)
      : tier(b, store, options) {
        for (int i = 0; i < num_blocks; ++i) {
            tier.declare(b, key(i), {bytes, LayoutId::row_major});
            auto const block = store.blocks().bytes(key(i));
            for (index_t n = 0; n < bytes; ++n)
                block[n] = testing::detail::pattern_byte(std::uint32_t(i), n);
        }
    }
    bool holds(int block, int stamp) {
        return read(b, block) == pattern(std::uint32_t(stamp), bytes);
    }
    testing::detail::HostBytes read(CpuBackend& queue, int block) {
        auto const lease = tier.acquire(queue, key(block), Access::read);
        return testing::detail::fetched(queue, lease.bytes().data, bytes);
    }
    void write(int block, int stamp) {
        auto const lease = tier.acquire(b, key(block), Access::overwrite);
        b.parallel_for(bytes, StampFn{lease.bytes().data, std::uint32_t(stamp)});
    }
    bool stored(int block, int stamp) {
        auto const memory = store.blocks().bytes(key(block));
        return testing::detail::HostBytes(memory.data, memory.data + bytes) ==
               pattern(std::uint32_t(stamp), bytes);
    }
    /// What a store_error says; empty if there was none.
    template <class F>
    static std::string error_of(F const& f) {
        try {
            f();
        } catch (store_error const& error) {
            return error.what();
        }
        return "";
    }
};

} // namespace

TEST_CASE("tier/cached: a load that fails while it runs is named at acquire, and can be retried") {
    for (bool const ahead : {false, true}) {
        Fixture f({.slots = 2});
        f.store.reset({.fail_load = 0, .late = true});
        std::vector const upcoming{key(4)};
        if (ahead) f.tier.prefetch(f.b, upcoming);
        CHECK(f.error_of([&] { (void)f.holds(4, 4); }) ==
              "tier::Cached: block (layer 0, expert 4, weight) could not be loaded: injected "
              "failure");
        CHECK_FALSE(f.tier.resident(key(4)));
        CHECK(f.tier.counters().acquires == 0);
        CHECK(f.holds(4, 4));
    }
    Fixture f({.slots = 2});
    f.store.reset({.fail_load = 0, .late = true});
    std::vector const upcoming{key(4)};
    f.tier.prefetch(f.b, upcoming);
    CHECK(f.error_of([&] { f.tier.flush(f.b); }) ==
          "tier::Cached: block (layer 0, expert 4, weight) could not be loaded: injected failure");
    CHECK(f.error_of([&] { f.tier.flush(f.b); }) == "");
    CHECK(f.holds(4, 4));
}

TEST_CASE("tier/cached: whichever load fails, an acquire throws or gives the right bytes") {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        std::mt19937_64 random(seed);
        Fixture f({.slots = index_t(1 + random() % 5)});
        f.store.reset(
            {.fail_load = index_t(random() % 12), .late = true, .reorder = random() % 2 == 0});
        int failures = 0;
        for (int step = 0; step < 60; ++step) {
            if (random() % 4 == 0) {
                std::vector<BlockKey> upcoming;
                for (int n = 0; n < 4; ++n) upcoming.push_back(key(int(random() % num_blocks)));
                f.tier.prefetch(f.b, upcoming);
            }
            int const block = int(random() % num_blocks);
            bool right = true;
            failures += f.error_of([&] { right = f.holds(block, block); }) != "";
            CAPTURE(seed);
            REQUIRE(right);
        }
        failures += f.error_of([&] { f.tier.flush(f.b); }) != "";
        CHECK(failures <= 1);
    }
}

TEST_CASE("tier/cached: a write-back that fails while it runs leaves the bytes in their slot") {
    Fixture f({.slots = 2});
    f.write(0, 50);
    f.write(1, 51);
    f.store.reset({.fail_store = 1, .late = true});
    CHECK(f.error_of([&] { f.tier.flush(f.b); }) ==
          "tier::Cached: block (layer 0, expert 1, weight) could not be written back: injected "
          "failure");
    CHECK(f.stored(0, 50));
    CHECK(f.stored(1, 1));
    f.store.reset({.fail_store = 0, .late = true});
    CHECK(f.holds(0, 50)); // used last
    CHECK(f.error_of([&] { (void)f.holds(2, 2); }) ==
          "tier::Cached: block (layer 0, expert 1, weight) could not be written back: injected "
          "failure");
    CHECK(f.holds(1, 51));
    f.tier.flush(f.b);
    CHECK(f.stored(1, 51));
    CHECK(f.tier.counters().write_backs == 4); // started
}

TEST_CASE("tier/cached: a write-back that fails behind a prefetch is named, at acquire or flush") {
    auto const lost = "tier::Cached: block (layer 0, expert 0, weight) could not be written back "
                      "and is lost: injected failure";
    // On queues of the store's own, which wait for the tier's, who hears of it first is a race.
    for (int run = 0; run < 40; ++run) {
        bool const flush = run % 2 == 1;
        Fixture f({.slots = 1});
        f.write(0, 50);
        f.store.reset({.fail_store = 0, .late = true, .reorder = run >= 2});
        std::vector const upcoming{key(3)};
        f.tier.prefetch(f.b, upcoming);
        CHECK(f.error_of([&] { flush ? f.tier.flush(f.b) : (void)f.holds(3, 3); }) ==
              std::string(lost));
        CHECK(f.holds(3, 3));
        f.tier.flush(f.b);
    }
    // One that is refused at once loses nothing.
    Fixture f({.slots = 1});
    f.write(0, 50);
    f.store.reset({.fail_store = 0});
    std::vector const upcoming{key(3)};
    f.tier.prefetch(f.b, upcoming);
    CHECK(f.tier.resident(key(0)));
    CHECK(f.holds(3, 3));
    CHECK(f.stored(0, 50));
}

TEST_CASE("tier/cached: who evicts a load that nobody waited for takes no failure with it") {
    Fixture f({.slots = 3});
    f.store.reset({.fail_load = 0, .late = true, .reorder = true});
    // Blocks 5 and 2 come by the same one of the store's queues, which tells of a failure once.
    std::vector const upcoming{key(5), key(4), key(2)};
    f.tier.prefetch(f.b, upcoming);
    CHECK(f.holds(1, 1));
    CHECK(f.holds(5, 5));
    CHECK(f.holds(4, 4));
}

TEST_CASE("tier/cached: threads share a tier, each with its own queue") {
    Fixture f({.slots = 3, .contexts = 3});
    CHECK(f.tier.max_pinned(BlockKind::weight) == 1);
    std::atomic<int> wrong = 0, failures = 0;
    for (bool const failing : {false, true}) {
        f.store.reset({.fail_load = failing ? 20 : -1, .late = true, .reorder = true});
        std::vector<std::thread> threads;
        for (int t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                std::mt19937_64 random{std::uint64_t(t)};
                CpuBackend queue = t == 0 ? f.b.fork() : f.b;
                for (int n = 0; n < 150; ++n) {
                    int const block = int(random() % num_blocks);
                    std::vector const upcoming{key(int(random() % num_blocks)), key(block)};
                    if (n % 5 == 0) f.tier.prefetch(queue, upcoming);
                    try {
                        wrong += f.read(queue, block) != pattern(std::uint32_t(block), bytes);
                    } catch (std::exception const&) {
                        ++failures;
                    }
                }
            });
        for (auto& thread : threads) thread.join();
        CHECK(wrong.load() == 0);
        CHECK(failures.load() <= int(failing));
    }
    CHECK(f.tier.counters().acquires == 900 - failures.load());
}

TEST_CASE("tier/cached: the error for too many leases says which knob to turn") {
    Fixture f({.slots = 2});
    auto const one = f.tier.acquire(f.b, key(0), Access::read);
    auto const two = f.tier.acquire(f.b, key(1), Access::write);
    CHECK_THROWS_WITH_AS(
        (void)f.tier.acquire(f.b, key(2), Access::read),
        "tier::Cached: all 2 weight slots are leased while block (layer 0, expert 2, weight) is "
        "acquired; raise CachedOptions::slots or release leases earlier, or say in "
        "CachedOptions::contexts how many forwards run at once",
        precondition_error);
    Fixture g({.bytes = bytes});
    auto const three = g.tier.acquire(g.b, key(0), Access::read);
    CHECK_THROWS_WITH_AS((void)g.tier.acquire(g.b, key(1), Access::read),
                         doctest::Contains("raise CachedOptions::bytes"), precondition_error);
    CHECK_THROWS_WITH_AS(
        f.tier.flush(f.b),
        "tier::Cached: flush while block (layer 0, expert 1, weight) is leased for "
        "writing; release the lease first",
        precondition_error);
    CHECK_THROWS_WITH_AS(
        f.tier.declare(f.b, key(9), {bytes + 1, LayoutId::row_major}),
        "tier::Cached: flush while block (layer 0, expert 1, weight) is leased for "
        "writing; release the lease first",
        precondition_error);
}

TEST_CASE("tier/cached: options out of range are named") {
    CpuBackend b;
    CHECK_THROWS_WITH_AS((Tier{b, Store{b}, {.slots = 0}}),
                         "CachedOptions: slots is 0, must be at least 1", precondition_error);
    CHECK_THROWS_WITH_AS((Tier{b, Store{b}, {.slots = 2, .contexts = 3}}),
                         "CachedOptions: contexts is 3, must not be above slots, 2",
                         precondition_error);
    CHECK_THROWS_WITH_AS((Tier{b, Store{b}, {.contexts = 0, .layers = 3}}),
                         "CachedOptions: contexts is 0, must be at least 1", precondition_error);
    CHECK_THROWS_WITH_AS((Tier{b, Store{b}, {.in_flight = 65}}),
                         "CachedOptions: in_flight is 65, must be between 1 and 64",
                         precondition_error);
}

TEST_CASE("tier/cached: a block on its way is waited for, not loaded again") {
    Fixture f({.slots = 4});
    f.store.reset({.slow_us = 2000});
    std::vector const upcoming{key(0), key(1), key(2), key(3)};
    f.tier.prefetch(f.b, upcoming);
    for (int i = 3; i >= 0; --i) CHECK(f.holds(i, i));
    CHECK(f.tier.counters().loads == 4);
    CHECK(f.tier.counters().hits == 4);
}

TEST_CASE("tier/cached: only so many loads are under way; acquiring starts the next") {
    for (int const most : {1, 3, 8}) {
        CpuBackend b;
        tier::Cached tier{b, tier::HostStore{}, {.slots = 20, .in_flight = most}};
        std::vector<BlockKey> keys;
        for (int i = 0; i < 20; ++i) {
            keys.push_back({0, i / 2, i % 2 ? BlockKind::gradient : BlockKind::weight});
            tier.declare(b, keys.back(), {64, LayoutId::row_major});
        }
        tier.prefetch(b, keys);
        CHECK(tier.counters().loads == most);
        for (int i = 0; i < 20; ++i) {
            CHECK(tier.resident(keys[std::size_t(i)]));
            (void)tier.acquire(b, keys[std::size_t(i)], Access::read).bytes();
            CHECK(tier.counters().loads == std::min(20, most + 1 + i));
        }
        CHECK(tier.counters().hits == 20);
    }
}

TEST_CASE("tier/cached: slots are allocated when blocks are declared, and grow with the largest") {
    CpuBackend b;
    auto const in_use = [&] { return b.counters().bytes_in_use; };
    index_t const before = in_use();
    {
        tier::HostStore store;
        tier::Cached tier{b, store, {.slots = 3}};
        CHECK(in_use() == before);
        tier.declare(b, {0, 0}, {100, LayoutId::row_major});
        CHECK(in_use() == before + 100);
        for (int i = 1; i < 7; ++i) tier.declare(b, {0, i}, {90, LayoutId::row_major});
        CHECK(in_use() == before + 300);
        {
            auto const lease = tier.acquire(b, {0, 3}, Access::overwrite);
            b.parallel_for(90, StampFn{lease.bytes().data, 8});
        }
        tier.declare(b, {1, 0}, {500, LayoutId::row_major});
        auto const written = store.bytes({0, 3}); // written back first
        CHECK(testing::detail::HostBytes(written.data, written.data + 90) == pattern(8, 90));
        tier.flush(b);
        CHECK(in_use() >= before + 1500);
        auto const lease = tier.acquire(b, {0, 3}, Access::read);
        CHECK(testing::detail::fetched(b, lease.bytes().data, 90) == pattern(8, 90));
        CHECK(in_use() == before + 1500);
        CHECK_THROWS_AS(tier.declare(b, {1, 1}, {501, LayoutId::row_major}), precondition_error);
    }
    CHECK(in_use() == before);
}

TEST_CASE("tier/cached: acquire, prefetch, release and flush allocate nothing") {
    for (tier::CachedOptions const& options :
         {tier::CachedOptions{.slots = 2}, tier::CachedOptions{.bytes = 2 * bytes}}) {
        CpuBackend b{.threads = 1};
        tier::Cached tier{b, tier::HostStore{}, options};
        std::vector<BlockKey> upcoming;
        for (int i = 0; i < num_blocks; ++i) {
            tier.declare(b, key(i), {bytes, LayoutId::row_major});
            upcoming.push_back(key(i));
        }
        auto const pass = [&] {
            tier.prefetch(b, upcoming);
            for (BlockKey const k : upcoming) (void)tier.acquire(b, k, Access::write).bytes();
            for (BlockKey const k : upcoming) (void)tier.acquire(b, k, Access::read).bytes();
            tier.flush(b);
        };
        pass();
        long const before = test::num_allocations;
        pass();
        CHECK(test::num_allocations == before);
        CHECK(tier.counters().write_backs == 12);
    }
}

TEST_CASE("tier/cached: errors of a queue are left to it when its block's slot is reused, or the "
          "tier is gone") {
    for (bool const reused : {false, true}) {
        std::optional<Fixture> f;
        f.emplace(tier::CachedOptions{.slots = 1});
        CpuBackend queue = f->b.fork();
        {
            auto const lease = f->tier.acquire(queue, key(0), Access::read);
            queue.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
        }
        if (reused) CHECK(f->holds(1, 1));
        f.reset();
        CHECK_THROWS_WITH_AS(queue.synchronize(), "mine 0", std::runtime_error);
    }
}

TEST_CASE("tier/cached: who overwrites a block takes no error of the slot's readers along") {
    Fixture f({.slots = 1});
    CpuBackend queue = f.b.fork();
    {
        auto const lease = f.tier.acquire(queue, key(0), Access::read);
        queue.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
    }
    (void)f.tier.acquire(queue, key(1), Access::overwrite).bytes();
    CHECK_THROWS_WITH_AS(queue.synchronize(), "mine 0", std::runtime_error);
}

TEST_CASE("tier/cached: a writer on another queue leaves readers' errors to theirs") {
    for (int const block : {0, 1}) { // the same one, and one that takes its slot
        Fixture f({.slots = 1});
        CpuBackend queue = f.b.fork();
        {
            auto const lease = f.tier.acquire(queue, key(0), Access::read);
            queue.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
        }
        CHECK_NOTHROW(f.write(block, 7));
        CHECK(f.holds(block, 7));
        CHECK_THROWS_WITH_AS(queue.synchronize(), "mine 0", std::runtime_error);
    }
}

TEST_CASE("tier/cached: a block that could not be overwritten is loaded when it is read") {
    CpuBackend b{.threads = 1};
    tier::Cached tier{b, tier::HostStore{}, {.slots = 1}};
    for (int i = 0; i < 3; ++i) tier.declare(b, key(i), {bytes, LayoutId::row_major});
    auto const write = [&](CpuBackend& queue, int i) {
        auto const lease = tier.acquire(queue, key(i), Access::overwrite);
        queue.parallel_for(bytes, StampFn{lease.bytes().data, std::uint32_t(i)});
        if (i == 0) queue.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
    };
    write(b, 2);
    tier.flush(b);
    CpuBackend queue = b.fork();
    write(queue, 0);
    std::vector const upcoming{key(1)};
    tier.prefetch(b, upcoming); // behind the writer that threw
    tier.prefetch(b, {});
    CHECK_THROWS_WITH_AS((void)tier.acquire(b, key(2), Access::overwrite), "mine 0",
                         std::runtime_error);
    CHECK_FALSE(tier.resident(key(2)));
    auto const lease = tier.acquire(b, key(2), Access::read);
    CHECK(testing::detail::fetched(b, lease.bytes().data, bytes) == pattern(2, bytes));
}

TEST_CASE("tier/store/file: a commit for which there was no memory is made by the next one") {
    test::ScratchDirectory directory;
    std::string const path = directory / "blocks";
    {
        CpuBackend b{.threads = 1};
        tier::FileStore store{path};
        store.declare(key(0), {bytes, LayoutId::row_major});
        test::store_pattern(b, store, key(0), 1);
        test::no_memory = true;
        CHECK_THROWS_AS(store.commit(), std::bad_alloc);
        test::no_memory = false;
        store.commit();
        CHECK(store.counters().commits == 1);
    }
    tier::FileStore store{path};
    REQUIRE(store.contains(key(0)));
    CHECK(test::holds(store, key(0), 1));
}

} // namespace cached_failures_test
