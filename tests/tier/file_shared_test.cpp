#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

using namespace semoe;
using namespace semoe::test;

namespace file_shared_test {
namespace {

constexpr index_t block_bytes = 4096;

/// Waits on the queue for what may never come; that ends the test instead of hanging it.
struct WaitFn {
    std::atomic<bool> const* flag;
    std::atomic<bool>* given_up;
    void operator()(index_t) const {
        auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (!*flag && !*given_up) {
            *given_up = std::chrono::steady_clock::now() > end;
            std::this_thread::yield();
        }
    }
};

/// Reads that wait at a gate.
struct Gated : io::PosixFileSystem {
    std::atomic<bool> open_gate{true};
    ssize_t read_at(int descriptor, void* to, std::size_t n, index_t at) override {
        while (!open_gate) std::this_thread::yield();
        return io::PosixFileSystem::read_at(descriptor, to, n, at);
    }
    bool native() const override { return false; }
};

} // namespace

TEST_CASE("tier/store/file: of two tiers over it, each hears of its own failures alone") {
    ScratchDirectory directory;
    CpuBackend b{.threads = 1};
    {
        tier::FileStore store{directory / "blocks"};
        for (int i = 0; i < 2; ++i) {
            store.declare(file_key(i), {block_bytes, LayoutId::row_major});
            store_pattern(b, store, file_key(i), i);
        }
        store.commit();
    }
    std::string text = read_text(directory / "blocks");
    text[8192] = char(text[8192] ^ 1); // of block 0
    write_text(directory / "blocks", text);

    tier::FileStore store{directory / "blocks"};
    tier::Cached bad{b, store, {.slots = 1}}, good{b, store, {.slots = 1}};
    bad.declare(b, file_key(0), {block_bytes, LayoutId::row_major});
    good.declare(b, file_key(1), {block_bytes, LayoutId::row_major});
    std::vector const first{file_key(0)};
    bad.prefetch(b, first);
    while (!bad.arrived(file_key(0))) std::this_thread::yield();
    CHECK(store_error_of([&] { (void)good.acquire(b, file_key(1), Access::read); }) == "");
    CHECK(store_error_of([&] {
              (void)bad.acquire(b, file_key(0), Access::read);
          }).find("block (layer 0, expert 0, weight): corrupted") != std::string::npos);
}

TEST_CASE("tier/store/file: of two tiers over it, none waits for the other's computation") {
    ScratchDirectory directory;
    CpuBackend b{.threads = 1};
    tier::FileStore store{directory / "blocks"};
    tier::Cached one{b, store, {.slots = 1}}, other{b, store, {.slots = 1}};
    for (int i = 0; i < 2; ++i) one.declare(b, file_key(i), {block_bytes, LayoutId::row_major});
    other.declare(b, file_key(2), {block_bytes, LayoutId::row_major});
    // What computes with a block of one tier waits for who waits for a block of the other, as ranks
    // of one process do; a load into that block's slot is asked for meanwhile.
    std::atomic<bool> done = false, given_up = false;
    CpuBackend queue = b.fork();
    {
        auto const lease = one.acquire(queue, file_key(0), Access::read);
        queue.parallel_for(1, WaitFn{&done, &given_up});
    }
    std::vector const next{file_key(1)};
    one.prefetch(queue, next);
    REQUIRE(one.counters().loads == 2);
    (void)other.acquire(b, file_key(2), Access::read);
    done = true;
    queue.synchronize();
    CHECK_FALSE(given_up);
}

TEST_CASE("tier/store/file: pages that are being read are another block's only afterwards") {
    ScratchDirectory directory;
    CpuBackend b{.threads = 1};
    Gated system;
    tier::FileStore store{directory / "blocks", {}, system};
    for (int i = 0; i < 2; ++i) store.declare(file_key(i), {block_bytes, LayoutId::row_major});
    auto reader = store;
    for (int round = 0; round < 10; ++round) {
        bool const committed = round % 2 == 1;
        store_pattern(b, store, file_key(0), 1);
        if (committed) store.commit();
        system.open_gate = false;
        HostBytes bytes(block_bytes);
        auto const loaded = reader.load(b, file_key(0), {bytes.data(), block_bytes});
        store_pattern(b, store, file_key(0), 2);
        if (committed) store.commit();
        store_pattern(b, store, file_key(1), 3);
        store_pattern(b, store, file_key(1), 4);
        system.open_gate = true;
        b.wait(loaded);
        CHECK(bytes == pattern(1, block_bytes));
    }
    CHECK(holds(store, file_key(0), 2));
    CHECK(holds(store, file_key(1), 4));
    // Headers, two tables, each block twice and once more for what was being read or stored.
    CHECK(index_t(read_text(store.path()).size()) <= (2 + 2 + 4 + 2) * 4096);
}

} // namespace file_shared_test
