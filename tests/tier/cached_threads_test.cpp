#include "semoe/tier/cached.hpp"

#include "semoe/testing/detail/block_bytes.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace semoe;

namespace cached_threads_test {
namespace {

constexpr index_t small = 128, large = 1 << 16;
BlockKey key(int expert) { return {0, expert, BlockKind::weight}; }
constexpr BlockKey router{0, router_block, BlockKind::weight};
BlockInfo sized(index_t bytes) { return {bytes, LayoutId::row_major}; }

class Gate {
public:
    void open() {
        open_ = true;
        open_.notify_all();
    }
    void pass() const { open_.wait(false); }

private:
    std::atomic<bool> open_ = false;
};
struct PassFn {
    Gate const* gate;
    void operator()(index_t) const { gate->pass(); }
};

/// A host store whose transfers, on the tier's queue, and commits do what a test says.
struct ScriptedStore {
    struct Script {
        tier::HostStore blocks;
        bool refuse_loads = false;
        std::function<void(BlockKey)> on_load = [](BlockKey) {}, on_store = on_load;
        std::function<void()> on_commit = [] {};
    };
    struct TransferFn {
        std::function<void(BlockKey)> const* script;
        BlockKey key;
        std::byte* to;
        std::byte const* from;
        index_t bytes;
        void operator()(index_t) const {
            (*script)(key);
            std::memcpy(to, from, std::size_t(bytes));
        }
    };
    std::shared_ptr<Script> script = std::make_shared<Script>();

    void declare(BlockKey k, BlockInfo info) { script->blocks.declare(k, info); }
    bool contains(BlockKey k) const { return script->blocks.contains(k); }
    BlockInfo info(BlockKey k) const { return script->blocks.info(k); }
    CpuBackend::event_type load(CpuBackend& b, BlockKey k, Bytes<HostSpace> to) {
        if (script->refuse_loads) throw std::runtime_error("refused");
        b.parallel_for(
            1, TransferFn{&script->on_load, k, to.data, script->blocks.bytes(k).data, to.size});
        return b.record();
    }
    CpuBackend::event_type store(CpuBackend& b, BlockKey k, ConstBytes<HostSpace> from) {
        b.parallel_for(1, TransferFn{&script->on_store, k, script->blocks.bytes(k).data, from.data,
                                     from.size});
        return b.record();
    }
    void commit() { script->on_commit(); }
};

struct Fixture {
    CpuBackend b{.threads = 1};
    ScriptedStore store;
    ScriptedStore::Script& script = *store.script;
    tier::Cached<CpuBackend, ScriptedStore> tier;

    Fixture(int experts, tier::CachedOptions options)
      : tier(b, store, options) {
        for (int e = 0; e < experts; ++e) tier.declare(b, key(e), sized(small));
    }
    int read(BlockKey k) {
        CpuBackend queue = b;
        return int(tier.acquire(queue, k, Access::read).bytes()[0]);
    }
    void write(BlockKey k, int value) {
        auto const bytes = tier.acquire(b, k, Access::overwrite).bytes();
        std::memset(bytes.data, value, std::size_t(bytes.size));
    }
    void prefetch(std::vector<BlockKey> const& upcoming) { tier.prefetch(b, upcoming); }
    void fail_next_store() {
        script.on_store = [this](BlockKey) {
            if (std::exchange(store_fails, false)) throw std::runtime_error("disk full");
        };
    }
    bool store_fails = true; ///< seen by the tier's queue alone
};
/// What an exception says; empty if there was none.
template <class F>
std::string error_of(F const& f) {
    try {
        f();
    } catch (std::exception const& error) {
        return error.what();
    }
    return "";
}

} // namespace

TEST_CASE("tier/cached: slots that are made while a larger block is declared are large enough") {
    CpuBackend b{.threads = 1};
    index_t const before = b.counters().bytes_in_use;
    tier::Cached tier{b, tier::HostStore{}, {.slots = 2}};
    for (int e = 0; e < 2; ++e) tier.declare(b, key(e), sized(small));
    (void)tier.acquire(b, key(1), Access::read).bytes();
    Gate gate;
    {
        CpuBackend queue = b.fork();
        {
            auto const lease = tier.acquire(queue, key(0), Access::read);
            queue.parallel_for(1, PassFn{&gate});
        }
        std::thread declares([&] { tier.declare(b, key(2), sized(large)); });
        while (tier.resident(key(1))) std::this_thread::yield();
        std::vector const upcoming{key(1)}; // the old slots are gone but for the queue's work
        tier.prefetch(b, upcoming);
        std::thread acquires(
            [&, other = b]() mutable { (void)tier.acquire(other, key(1), Access::read).bytes(); });
        gate.open();
        declares.join();
        acquires.join();
    }
    CHECK(b.counters().bytes_in_use - before == 2 * large);
    CHECK(tier.acquire(b, key(2), Access::read).bytes().size == large);
}

TEST_CASE("tier/cached: what is written while slots are replaced is written back as well") {
    Fixture f(2, {.slots = 2});
    CHECK(f.read(key(0)) == 0);
    f.write(key(1), 5);
    Gate storing, written;
    f.script.on_store = [&](BlockKey k) {
        if (k != key(1)) return;
        storing.open();
        written.pass();
    };
    std::thread declares([&, b = f.b]() mutable { f.tier.declare(b, key(2), sized(large)); });
    storing.pass();
    f.write(key(0), 7);
    written.open();
    declares.join();
    CHECK(f.read(key(0)) == 7);
    CHECK(f.read(key(1)) == 5);
}

TEST_CASE("tier/cached: a block whose memory is refused is not declared, until it is not refused") {
    bool refuse = false;
    CpuBackend b{.threads = 1,
                 .allocator = {[](std::size_t n, void* r) -> void* {
                                   if (*static_cast<bool*>(r) && n >= std::size_t(large))
                                       return nullptr;
                                   return std::aligned_alloc(64, (n + 63) / 64 * 64);
                               },
                               [](void* p, std::size_t, void*) noexcept { std::free(p); },
                               &refuse}};
    tier::Cached tier{b, tier::HostStore{}, {.slots = 1}};
    tier.declare(b, key(0), sized(small));
    index_t const before = b.counters().bytes_in_use;
    for (BlockKey const k : {router, key(1)}) {
        refuse = true;
        for (int n = 0; n < 2; ++n)
            CHECK_THROWS_AS(tier.declare(b, k, sized(large)), backend_error);
        CHECK(tier.contains(k) == (k == key(1))); // a shared slot may still come
        CHECK_THROWS((void)tier.acquire(b, k, Access::read));
        refuse = false;
        tier.declare(b, k, sized(large));
        CHECK(tier.acquire(b, k, Access::read).bytes().size == large);
    }
    CHECK(b.counters().bytes_in_use - before == 2 * large - small);
}

TEST_CASE("tier/cached: loads that slots were dropped with are no longer under way") {
    Fixture f(3, {.slots = 2, .in_flight = 1});
    f.prefetch({key(0), key(1)});
    f.tier.declare(f.b, key(3), sized(large));
    f.prefetch({key(0), key(1)});
    CHECK(f.tier.resident(key(0)));
}

TEST_CASE("tier/cached: a write-back that fails behind a prefetch is named by whoever meets it") {
    std::string const met = "tier::Cached: block (layer 0, expert 3, weight) could not be loaded: "
                            "disk full; block (layer 0, expert 0, weight) was being written back "
                            "and may be lost";
    for (bool const unwanted : {false, true}) {
        Fixture f(4, {.slots = 2});
        f.write(key(0), 7);
        CHECK(f.read(key(1)) == 0);
        f.fail_next_store();
        f.prefetch({key(2), key(3)}); // 2 where 0 was
        if (unwanted) {
            while (!f.tier.arrived(key(3))) std::this_thread::yield();
            f.prefetch({key(2)});
            CHECK(error_of([&] { f.tier.flush(f.b); }) == met);
        } else {
            CHECK(error_of([&] { (void)f.read(key(3)); }) == met);
        }
        CHECK(error_of([&] { f.tier.flush(f.b); }) == "");
        CHECK(f.read(key(3)) == 0);
        CHECK(f.read(key(0)) == 0);
    }
    for (bool const flush : {false, true}) {
        Fixture f(2, {.slots = 1});
        f.write(key(0), 7);
        f.fail_next_store();
        f.script.refuse_loads = true;
        f.prefetch({key(1)});
        f.script.refuse_loads = false;
        CHECK(error_of([&] { flush ? f.tier.flush(f.b) : (void)f.read(key(1)); }) ==
              "tier::Cached: block (layer 0, expert 0, weight) could not be written back and is "
              "lost: disk full");
        CHECK(f.read(key(1)) == 0);
        CHECK(error_of([&] { f.tier.flush(f.b); }) == "");
    }
}

TEST_CASE("tier/cached: a flush brings what another queue has evicted and not yet written") {
    CpuBackend b{.threads = 1};
    CpuBackend queue = b.fork();
    tier::Cached tier{b, tier::HostStore{}, {.slots = 1}};
    for (int i = 0; i < 2; ++i) tier.declare(b, key(i), sized(small));
    {
        auto const lease = tier.acquire(queue, key(0), Access::overwrite);
        queue.parallel_for(
            1, [](index_t) { std::this_thread::sleep_for(std::chrono::milliseconds(100)); });
        queue.parallel_for(small, testing::detail::StampFn{lease.bytes().data, 7});
    }
    (void)tier.acquire(queue, key(1), Access::read).bytes();
    tier.flush(b);
    auto const stored = tier.store().bytes(key(0));
    CHECK(std::vector(stored.data, stored.data + small) == testing::detail::pattern(7, small));
    queue.synchronize();
}

TEST_CASE("tier/cached: a dense block that is loaded again while it is acquired is waited for") {
    Fixture f(1, {.slots = 1});
    f.tier.declare(f.b, router, sized(small));
    f.write(key(0), 7);
    Gate storing, acquiring;
    f.script.on_store = [&](BlockKey) {
        storing.open();
        acquiring.pass();
        throw std::runtime_error("disk full");
    };
    std::atomic<int> loads = 0;
    f.script.on_load = [&](BlockKey) {
        if (++loads == 2) throw std::runtime_error("second load");
    };
    f.prefetch({router, router});
    std::string flushed, acquired;
    index_t const before = f.tier.counters().acquires;
    std::thread flushes([&, b = f.b]() mutable { flushed = error_of([&] { f.tier.flush(b); }); });
    storing.pass();
    std::thread acquires([&] { acquired = error_of([&] { (void)f.read(router); }); });
    while (f.tier.counters().acquires == before) std::this_thread::yield();
    acquiring.open(); // the flush fails, and the first load of the router is forgotten
    flushes.join();
    acquires.join();
    CHECK(flushed.find("expert 0, weight) could not be written back: disk full") != flushed.npos);
    CHECK(acquired.find("router, weight) could not be loaded: second load") != acquired.npos);
    f.script.on_store = [](BlockKey) {};
    CHECK(f.read(router) == 0);
}

TEST_CASE("tier/cached: no transfer is under way, or begins, while the store commits") {
    std::atomic<int> loaded = 0;
    int commits = 0;
    Fixture f(3, {.slots = 3, .in_flight = 1}); // its last load may still run when it goes
    f.script.on_load = [&](BlockKey) { ++loaded; };
    f.script.on_commit = [&] {
        ++commits;
        CHECK(loaded.load() == 1);
        f.prefetch({key(1), key(2)});
        CHECK(f.tier.counters().loads == 1);
    };
    f.prefetch({key(0), key(1)});
    f.tier.flush(f.b);
    CHECK(commits == 1);
    CHECK(f.tier.resident(key(1))); // announced, and loaded as soon as that was over
}

TEST_CASE("tier/cached: what somebody begins to write during a flush is not half in the store") {
    Fixture f(2, {.slots = 2});
    f.write(key(0), 7);
    f.write(key(1), 8);
    Gate storing, leased;
    BlockKey other;
    int commits = 0;
    f.script.on_store = [&](BlockKey k) {
        other = key(k == key(0) ? 1 : 0);
        storing.open();
        leased.pass();
    };
    f.script.on_commit = [&] { ++commits; };
    std::string error;
    std::thread flushes([&, b = f.b]() mutable { error = error_of([&] { f.tier.flush(b); }); });
    storing.pass();
    {
        auto const lease = f.tier.acquire(f.b, other, Access::write);
        leased.open();
        flushes.join();
    }
    CHECK(error == "tier::Cached: flush while " + to_string(other) +
                       " is leased for writing; release the lease first");
    CHECK(commits == 0);
    f.tier.flush(f.b);
    CHECK(commits == 1);
}

TEST_CASE("tier/cached: who overwrites a block is not told that it could not be loaded ahead") {
    for (bool const late : {false, true}) {
        Fixture f(2, {.slots = 1});
        f.script.refuse_loads = !late;
        f.script.on_load = [](BlockKey) { throw std::runtime_error("bad sector"); };
        f.prefetch({key(1)});
        CHECK(error_of([&] { f.write(key(1), 3); }) == "");
        CHECK(f.read(key(1)) == 3);
        CHECK(error_of([&] { f.tier.flush(f.b); }) == "");
    }
}

TEST_CASE("tier/cached: a slot that is being written back is waited for, not counted as leased") {
    Fixture f(3, {.slots = 2});
    f.write(key(0), 7);
    Gate storing;
    std::atomic<bool> acquiring = false, refused = false;
    f.script.on_store = [&](BlockKey) {
        storing.open();
        while (!acquiring) std::this_thread::yield();
        // Who is refused is so at once; who waits, waits for this.
        for (int n = 0; n < 2000 && !refused; ++n) std::this_thread::yield();
    };
    auto const lease = f.tier.acquire(f.b, key(1), Access::read);
    std::thread flushes([&, b = f.b]() mutable { f.tier.flush(b); });
    storing.pass();
    acquiring = true;
    std::string const error = error_of([&] { (void)f.read(key(2)); });
    refused = error != "";
    flushes.join();
    CHECK(error == "");
}

} // namespace cached_threads_test
