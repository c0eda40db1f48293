#include "semoe/tier/resident.hpp"

#include "semoe/testing/check_backend.hpp"
#include "semoe/testing/check_tier.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace semoe;

namespace resident_test {
namespace {

constexpr BlockKey key{3, 5, BlockKind::weight};

template <class B>
std::vector<std::byte> contents(B& b, tier::Resident<B>& tier, BlockKey which) {
    auto const lease = tier.acquire(b, which, Access::read);
    return test::to_host(b, lease.bytes().data, lease.bytes().size);
}

} // namespace

TEST_CASE_TEMPLATE("tier/resident: keeps the promises of a tier", B, SEMOE_TEST_BACKENDS) {
    testing::check_tier(B{}, [](B& b) { return tier::Resident<B>{b}; });
}

TEST_CASE_TEMPLATE("tier/resident: adopted memory is the block, not a copy, and is never freed", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    std::vector<std::byte> const mine(64, std::byte{42});
    auto memory = test::to_backend(b, mine);
    for (bool const declared_first : {false, true}) {
        {
            tier::Resident<B> tier{b};
            if (declared_first) tier.declare(b, key, {64, LayoutId::row_major});
            tier.adopt(key, memory.view(), {64, LayoutId::row_major});
            tier.declare(b, key, {64, LayoutId::row_major}); // as a layer does, and keeps the bytes
            CHECK(contents(b, tier, key) == mine);
            auto const lease = tier.acquire(b, key, Access::write);
            CHECK(lease.bytes().data == memory.data());
            ops::fill(b, lease.bytes(), std::byte{7});
        }
        CHECK(test::to_host(b, memory) == std::vector<std::byte>(64, std::byte{7}));
        b.copy(memory.data(), mine.data(), 64);
        b.synchronize();
    }
}

TEST_CASE("tier/resident: adopting or declaring with another size or layout names both") {
    CpuBackend b;
    tier::Resident<CpuBackend> tier{b};
    Buffer<std::byte, CpuBackend> memory(b, 64);
    CHECK_THROWS_WITH_AS(tier.adopt(key, memory.view(), {48, LayoutId::row_major}),
                         "tier::Resident: block (layer 3, expert 5, weight) is declared with 48 "
                         "bytes, row_major, but the memory to adopt has 64 bytes",
                         precondition_error);
    CHECK_FALSE(tier.contains(key));
    tier.adopt(key, memory.view(), {64, LayoutId::row_major});
    auto const other_layout = "tier::Resident: block (layer 3, expert 5, weight) is declared with "
                              "64 bytes, panels_16, but it exists with 64 bytes, row_major";
    CHECK_THROWS_WITH_AS(tier.declare(b, key, {64, LayoutId::panels_16}), other_layout,
                         precondition_error);
    CHECK_THROWS_WITH_AS(tier.adopt(key, memory.view(), {64, LayoutId::panels_16}), other_layout,
                         precondition_error);
    CHECK_THROWS_WITH_AS((void)tier.acquire(b, {0, router_block}, Access::read),
                         "tier::Resident: block (layer 0, router, weight) was never declared",
                         precondition_error);
}

TEST_CASE("tier/resident: a block of a negative size, or of no kind, is refused by name") {
    CpuBackend b;
    tier::Resident<CpuBackend> tier{b};
    BlockInfo const negative{-64, LayoutId::row_major};
    auto const message = "tier::Resident: block (layer 3, expert 5, weight) is declared with -64 "
                         "bytes, row_major, must not be negative";
    std::byte byte{};
    CHECK_THROWS_WITH_AS(tier.adopt(key, {&byte, -64}, negative), message, precondition_error);
    CHECK_THROWS_WITH_AS(tier.declare(b, key, negative), message, precondition_error);
    CHECK_THROWS_WITH_AS(tier.declare(b, {0, 1, BlockKind(4)}, {64, LayoutId::row_major}),
                         "tier::Resident: block (layer 0, expert 1, unknown) is of kind 4, must be "
                         "below 4",
                         precondition_error);
    CHECK_FALSE(tier.contains(key));
}

TEST_CASE("tier/resident: one allocation a block, none for adopted memory, none in acquire") {
    CpuBackend b;
    index_t const before = b.counters().allocations;
    {
        tier::Resident<CpuBackend> tier{b};
        std::vector<std::byte> mine(100);
        tier.adopt({0, 0}, {mine.data(), 100}, {100, LayoutId::row_major});
        for (int i = 1; i < 6; ++i) tier.declare(b, {0, i}, {100 * i, LayoutId::row_major});
        CHECK(b.counters().allocations == before + 5);
        for (int i = 0; i < 6; ++i) auto const lease = tier.acquire(b, {0, i}, Access::write);
        CHECK(b.counters().allocations == before + 5);
        CHECK(tier.counters().acquires == 6);
        CHECK(tier.counters().hits == 6);
        CHECK(tier.counters().loads == 0);
    }
    CHECK(b.counters().deallocations == b.counters().allocations);
}

TEST_CASE("tier/resident: threads acquire blocks of one tier at once") {
    CpuBackend b{.threads = 1};
    tier::Resident<CpuBackend> tier{b};
    constexpr int num_blocks = 4;
    for (int i = 0; i < num_blocks; ++i) {
        tier.declare(b, {0, i}, {256, LayoutId::row_major});
        auto const lease = tier.acquire(b, {0, i}, Access::overwrite);
        ops::fill(b, lease.bytes(), std::byte(i));
    }
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            CpuBackend queue = t == 0 ? b : b.fork();
            std::vector<std::byte> seen(256);
            for (int n = 0; n < 200; ++n) {
                int const i = (n + t) % num_blocks;
                {
                    auto const lease = tier.acquire(queue, {0, i}, Access::read);
                    queue.copy(seen.data(), lease.bytes().data, 256);
                }
                queue.synchronize();
                wrong += seen != std::vector<std::byte>(256, std::byte(i));
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(tier.counters().acquires == num_blocks + 600);
}

#if !defined(__CUDACC__)
TEST_CASE_TEMPLATE(
    "tier/resident: errors of a queue are left to it when others release or the tier "
    "is gone",
    B, SEMOE_TEST_BACKENDS) {
    for (Access const access : {Access::read, Access::write}) {
        B b;
        std::vector<B> queues;
        for (int i = 0; i < 5; ++i) queues.push_back(b.fork());
        {
            tier::Resident<B> tier{b};
            for (int i = 0; i < 2; ++i) tier.declare(b, {0, i}, {64, LayoutId::row_major});
            b.synchronize();
            for (std::size_t i = 0; i < queues.size(); ++i) { // a block for each writer's error
                BlockKey const block{0, access == Access::read ? 0 : i != 0};
                if (access == Access::write && i > 1) break;
                auto const lease = tier.acquire(queues[i], block, access);
                queues[i].parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
            }
            if (access == Access::read) (void)tier.acquire(b, {0, 0}, Access::read).bytes();
        }
        CHECK_NOTHROW(b.synchronize());
        for (std::size_t i = 0; i < (access == Access::read ? queues.size() : 2); ++i)
            CHECK_THROWS_WITH_AS(queues[i].synchronize(), "mine 0", std::runtime_error);
    }
}

TEST_CASE("tier/resident: a writer on another queue leaves readers' errors to theirs") {
    CpuBackend b{.threads = 1};
    CpuBackend queue = b.fork();
    tier::Resident<CpuBackend> tier{b};
    tier.declare(b, key, {64, LayoutId::row_major});
    {
        auto const lease = tier.acquire(queue, key, Access::read);
        queue.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
    }
    CHECK_NOTHROW((void)tier.acquire(b, key, Access::write).bytes());
    CHECK_THROWS_WITH_AS(queue.synchronize(), "mine 0", std::runtime_error);
}

TEST_CASE("tier/resident: memory is freed after every use, though an earlier one has failed") {
    CpuBackend b{.threads = 1}, failing = b.fork(), reading = b.fork();
    std::atomic<bool> read = false;
    std::optional<tier::Resident<CpuBackend>> tier(b);
    tier->declare(b, key, {64, LayoutId::row_major});
    {
        auto const lease = tier->acquire(failing, key, Access::read);
        failing.parallel_for(1, testing::detail::ThrowFn{"mine ", 0});
    }
    {
        auto const lease = tier->acquire(reading, key, Access::read);
        reading.parallel_for(1, [&](index_t) {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            read = true;
        });
    }
    tier.reset();
    CHECK(read);
}
#endif

} // namespace resident_test
