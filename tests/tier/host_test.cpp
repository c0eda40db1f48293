#include "semoe/tier/store/host.hpp"

#include "semoe/testing/check_store.hpp"
#include "semoe/testing/faulty_store.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE_TEMPLATE("tier/store/host: keeps the promises of a store", B, SEMOE_TEST_BACKENDS) {
    testing::check_store(B{}, tier::HostStore{});
    B b;
    testing::check_store(b, testing::FaultyStore<B>(b, {.reorder = true, .slow_us = 50}));
}

TEST_CASE("tier/store/host: counts transfers and their bytes, and shows its blocks in place") {
    CpuBackend b;
    tier::HostStore store;
    BlockKey const key{1, shared_block, BlockKind::moments};
    store.declare(key, {10, LayoutId::row_major});
    std::vector<std::byte> memory(10, std::byte{3});
    b.wait(store.store(b, key, {memory.data(), 10}));
    b.wait(store.store(b, key, {memory.data(), 10}));
    b.wait(store.load(b, key, {memory.data(), 10}));
    auto const counters = store.counters();
    CHECK(counters.stores == 2);
    CHECK(counters.bytes_stored == 20);
    CHECK(counters.loads == 1);
    CHECK(counters.bytes_loaded == 10);
    CHECK(store.bytes(key).size == 10);
    CHECK(store.bytes(key)[9] == std::byte{3});
}

TEST_CASE("tier/store/host: a block of negative size is refused") {
    tier::HostStore store;
    for (index_t const bytes : {index_t(-1), -(index_t(1) << 40)})
        CHECK_THROWS_AS(store.declare({1, 2}, {bytes, LayoutId::row_major}), precondition_error);
    CHECK_FALSE(store.contains({1, 2}));
}

TEST_CASE("tier/store/host: a transfer of another size names the block and both sizes") {
    CpuBackend b;
    tier::HostStore store;
    store.declare({1, 2}, {10, LayoutId::row_major});
    std::vector<std::byte> memory(16);
    auto const message = "tier::HostStore: block (layer 1, expert 2, weight) has 10 bytes, "
                         "row_major, the memory to transfer has 16 bytes";
    CHECK_THROWS_WITH_AS((void)store.load(b, {1, 2}, {memory.data(), 16}), message,
                         precondition_error);
    CHECK_THROWS_WITH_AS((void)store.store(b, {1, 2}, {memory.data(), 16}), message,
                         precondition_error);
    CHECK(store.counters().loads == 0);
    CHECK_THROWS_WITH_AS((void)store.load(b, {1, 3}, {memory.data(), 16}),
                         "tier::HostStore: block (layer 1, expert 3, weight) was never declared",
                         store_error);
}
