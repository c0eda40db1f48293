#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/check_backend.hpp"

#include "support/allocation_counter.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <doctest/doctest.h>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>

using namespace semoe;

namespace {

/// A functor whose result would show a lost, doubled or torn index.
struct WaveFn {
    double* out;
    void operator()(index_t i) const { out[i] += std::sin(double(i)) / double(i + 1); }
};

std::vector<double> waves(CpuBackend b, index_t n) {
    std::vector<double> out(static_cast<std::size_t>(n));
    for (int round = 0; round < 3; ++round) b.parallel_for(n, WaveFn{out.data()});
    b.synchronize();
    return out;
}

/// The text of the exception that f() throws.
template <class F>
std::string thrown(F const& f) {
    try {
        f();
    } catch (std::exception const& error) {
        return error.what();
    }
    return "";
}

/// Whether the system knows that large pages are wished for here.
bool wishes_large_page(std::uintptr_t address) {
    std::ifstream mappings("/proc/self/smaps");
    bool here = false;
    for (std::string line; std::getline(mappings, line);) {
        std::uintptr_t begin = 0, end = 0;
        char to = 0;
        if (std::istringstream(line) >> std::hex >> begin >> to >> end && to == '-')
            here = begin <= address && address < end;
        else if (here && line.starts_with("VmFlags:"))
            return line.find(" hg") != std::string::npos;
    }
    return false;
}

/// False where the system has no large pages, or an emulator keeps such wishes to itself.
bool shows_wishes() {
    std::size_t const bytes = 1 << 22;
    void* const p =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
    ::madvise(p, bytes, MADV_HUGEPAGE);
    bool const shown = wishes_large_page(reinterpret_cast<std::uintptr_t>(p));
    ::munmap(p, bytes);
    return shown;
}

/// Threads that are started for every run: slow, and all that an executor must do.
struct ThreadPerWorker : cpu::Executor {
    int runs = 0;

    int concurrency() const override { return 3; }
    void run(index_t n, cpu::TaskRef task) override {
        ++runs;
        std::atomic<index_t> next{0};
        std::vector<std::thread> threads;
        for (int worker = 0; worker < 3; ++worker)
            threads.emplace_back([&, worker] {
                for (index_t i; (i = next++) < n;) task(i, worker);
            });
        for (std::thread& thread : threads) thread.join();
    }
};

} // namespace

TEST_CASE("backend/cpu: the contract holds for any number of threads") {
    CHECK_NOTHROW(testing::check_backend(CpuBackend{.threads = 1}));
    CHECK_NOTHROW(testing::check_backend(CpuBackend{.threads = 3}));
    for (int threads : {2, 8})
        CHECK_NOTHROW(testing::check_backend(CpuBackend{.threads = threads, .inline_us = 0}));
}

TEST_CASE("backend/cpu: results do not depend on the number of threads") {
    std::vector<double> const expected = waves(CpuBackend{.threads = 1}, 5003);
    for (int threads : {0, 2, 3, 8}) {
        CHECK(waves(CpuBackend{.threads = threads}, 5003) == expected);
        CHECK(waves(CpuBackend{.threads = threads, .inline_us = 0}, 5003) == expected);
        CHECK(waves(CpuBackend{.threads = threads, .inline_us = 0}.fork(), 5003) == expected);
    }
}

TEST_CASE("backend/cpu: threads = 0 takes the processors of the affinity mask") {
    CHECK(CpuBackend{}.concurrency() == cpu::available_processors());
    CHECK(CpuBackend{.threads = 5}.concurrency() == 5);
    CHECK(thrown([] { CpuBackend const bad{.threads = -2}; }) ==
          "CpuBackend: threads is -2, must not be negative");
}

TEST_CASE("backend/cpu: parallel_for spreads a long loop over the threads") {
    CpuBackend b{.threads = 3};
    std::atomic<int> arrived{0};
    b.parallel_for(4, [&](index_t i) {
        if (i == 0) { // outlasts the time that a loop is kept to one thread
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            return;
        }
        ++arrived;
        while (arrived < 3) std::this_thread::yield(); // hangs unless three threads meet
    });
    CHECK(arrived == 3);
}

TEST_CASE("backend/cpu: host threads, their forks and one pool work together") {
    CpuBackend const shared{.threads = 3, .inline_us = 0};
    std::vector<double> const expected = waves(CpuBackend{.threads = 1}, 301);
    std::vector<int> good(8);
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < good.size(); ++t)
        threads.emplace_back([&, t] {
            CpuBackend mine = shared;
            CpuBackend forked = mine.fork();
            bool all = true;
            for (int round = 0; round < 20; ++round)
                all = waves(mine, 301) == expected && waves(forked, 301) == expected && all;
            good[t] = all;
        });
    for (std::thread& thread : threads) thread.join();
    for (int g : good) CHECK(g == 1);
}

TEST_CASE("backend/cpu: a call from inside a task runs on the same thread, with other scratch") {
    CpuBackend b{.threads = 3, .inline_us = 0};
    b.reserve_scratch(256);
    std::vector<std::atomic<int>> count(20);
    std::atomic<int> faults{0};
    b.parallel_tasks(20, [&](index_t i, std::span<std::byte> outer) {
        auto const thread = std::this_thread::get_id();
        std::fill(outer.begin(), outer.end(), std::byte(i));
        b.parallel_for(7, [&](index_t) { faults += std::this_thread::get_id() != thread; });
        b.parallel_tasks(3, [&](index_t, std::span<std::byte> inner) {
            faults += std::this_thread::get_id() != thread || inner.size() < 256;
            std::fill(inner.begin(), inner.end(), std::byte(255));
            ++count[std::size_t(i)];
        });
        for (std::byte v : outer) faults += v != std::byte(i);
    });
    CHECK(faults == 0);
    for (auto const& c : count) CHECK(c == 3);
    CHECK(thrown([&] {
              b.parallel_tasks(2, [&](index_t, std::span<std::byte>) { b.reserve_scratch(1000); });
          }) == "CpuBackend: reserve_scratch is called from inside a task");
}

TEST_CASE(
    "backend/cpu: scratch grows while tasks run, which keep theirs and may fill other queues") {
    CpuBackend b{.threads = 2, .inline_us = 0}, forked = b.fork();
    b.reserve_scratch(128);
    std::atomic<bool> running{false}, grown{false};
    std::atomic<int> faults{0};
    std::thread submitter([&] {
        b.parallel_tasks(1, [&](index_t, std::span<std::byte> scratch) {
            faults += scratch.size() != 128;
            running = true;
            running.notify_one();
            grown.wait(false);
            for (int n = 0; n < 1000; ++n) // more than the queue holds
                forked.parallel_tasks(1, [&](index_t, std::span<std::byte>) {});
            b.parallel_tasks(
                1, [&](index_t, std::span<std::byte> inner) { faults += inner.size() != 512; });
            std::fill(scratch.begin(), scratch.end(), std::byte(1));
        });
    });
    running.wait(false);
    b.reserve_scratch(256);
    b.reserve_scratch(512);
    grown = true;
    grown.notify_one();
    submitter.join();
    for (CpuBackend* q : {&b, &forked})
        q->parallel_tasks(50, [&](index_t, std::span<std::byte> scratch) {
            faults += scratch.size() != 512;
            std::fill(scratch.begin(), scratch.end(), std::byte(2));
        });
    forked.synchronize();
    CHECK(faults == 0);
}

TEST_CASE("backend/cpu: scratch that could not grow serves as before, and may grow later") {
    struct Hook {
        static void* allocate(std::size_t n, void* left) {
            return --*static_cast<int*>(left) < 0 ? nullptr : std::aligned_alloc(64, n);
        }
        static void deallocate(void* p, std::size_t, void*) noexcept { std::free(p); }
    };
    int left = 1000;
    CpuBackend b{
        .threads = 2, .allocator = {Hook::allocate, Hook::deallocate, &left}, .inline_us = 0};
    auto const least = [&] {
        std::atomic<std::size_t> size{1 << 20};
        b.parallel_tasks(50, [&](index_t, std::span<std::byte> scratch) {
            std::fill(scratch.begin(), scratch.end(), std::byte(2));
            for (std::size_t seen = size; scratch.size() < seen;)
                if (size.compare_exchange_weak(seen, scratch.size())) break;
        });
        return size.load();
    };
    b.reserve_scratch(128);
    CHECK(least() == 128);
    left = 3;
    CHECK_THROWS_AS(b.reserve_scratch(4096), backend_error);
    CHECK(least() >= 128);
    left = 1000;
    b.reserve_scratch(256);
    CHECK(least() >= 256);
    b.reserve_scratch(8192);
    CHECK(least() == 8192);
}

TEST_CASE("backend/cpu: the lowest throwing index reaches the caller, whatever the threads") {
    for (int threads : {1, 2, 8}) {
        CpuBackend b{.threads = threads, .inline_us = threads == 2 ? 5 : 0};
        for (int round = 0; round < 20; ++round) {
            CHECK(thrown([&] {
                      b.parallel_for(500, testing::detail::ThrowFn{"at ", 37});
                  }) == "at 37");
            CHECK(thrown([&] {
                      b.parallel_tasks(50, [](index_t i, std::span<std::byte>) {
                          if (i % 10 == 9) throw std::runtime_error("task " + std::to_string(i));
                      });
                  }) == "task 9");
        }
        CHECK(waves(b, 100) == waves(CpuBackend{.threads = 1}, 100));
    }
}

TEST_CASE("backend/cpu: a lower task's error stands when a higher one throws after it") {
    CpuBackend b{.threads = 2, .inline_us = 0};
    for (int round = 0; round < 5; ++round) {
        std::atomic<bool> both{false};
        CHECK(thrown([&] {
                  b.parallel_tasks(2, [&](index_t i, std::span<std::byte>) {
                      if (i == 1) {
                          both = true;
                          std::this_thread::sleep_for(std::chrono::milliseconds(2));
                      }
                      while (!both) std::this_thread::yield();
                      throw std::runtime_error("task " + std::to_string(i));
                  });
              }) == "task 0");
    }
}

TEST_CASE("backend/cpu: an event shows errors of the work before it and no others") {
    CpuBackend b, forked = b.fork();
    forked.parallel_for(1, testing::detail::ThrowFn{"first ", 0});
    forked.parallel_for(1, testing::detail::ThrowFn{"second ", 0});
    CHECK(thrown([&] { b.wait(forked.record()); }) == "first 0");
    CHECK_NOTHROW(forked.synchronize());
    cpu::Event const before = forked.record();
    std::atomic<bool> thrown_by_now{false};
    forked.parallel_for(1, testing::detail::ThrowFn{"third ", 0});
    forked.parallel_for(1, [&](index_t) { thrown_by_now = true; });
    while (!thrown_by_now) std::this_thread::yield();
    CHECK_NOTHROW(b.wait(before));
    CHECK(thrown([&] { forked.synchronize(); }) == "third 0");
}

TEST_CASE("backend/cpu: a queue that waits for a failed one takes the error over") {
    CpuBackend b, first = b.fork(), second = b.fork();
    first.parallel_for(1, testing::detail::ThrowFn{"load ", 0});
    second.wait(first.record());
    CHECK(thrown([&] { second.synchronize(); }) == "load 0");
    CHECK_NOTHROW(first.synchronize());
    CHECK_NOTHROW(second.synchronize());
}

TEST_CASE("backend/cpu: the host waits when a queue's ring is full") {
    CpuBackend forked = CpuBackend{}.fork();
    std::atomic<bool> go{false};
    std::atomic<int> enqueued{0}, ran{0};
    forked.parallel_for(1, [&](index_t) {
        while (!go) std::this_thread::yield();
    });
    std::thread host([&] {
        for (int i = 0; i < 600; ++i) {
            forked.parallel_for(1, [&](index_t) { ++ran; });
            ++enqueued;
        }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(enqueued < 256);
    CHECK(ran == 0);
    go = true;
    host.join();
    forked.synchronize();
    CHECK(ran == 600);
}

TEST_CASE("backend/cpu: a task may hold the last handle of its own queue") {
    std::atomic<int> ran{0};
    {
        CpuBackend forked = CpuBackend{.threads = 1}.fork();
        std::atomic<bool> go{false};
        forked.parallel_for(1, [&](index_t) {
            while (!go) std::this_thread::yield();
        });
        CpuBackend copy = forked;
        forked.parallel_for(1, [copy, &ran](index_t) { ++ran; });
        copy = CpuBackend{.threads = 1};
        go = true;
        forked.synchronize();
    }
    CHECK(ran == 1);
}

TEST_CASE("backend/cpu: work of a queue that waits for its own queue is refused") {
    CpuBackend forked = CpuBackend{}.fork();
    forked.parallel_for(1, [&](index_t) { forked.synchronize(); });
    CHECK(thrown([&] { forked.synchronize(); }) ==
          "CpuBackend: work of a queue waits for the queue that runs it");
}

TEST_CASE("backend/cpu: enqueueing, recording, waiting and copying allocate nothing") {
    CpuBackend b{.threads = 3, .inline_us = 0}, forked = b.fork();
    b.reserve_scratch(1000);
    std::vector<double> out(1000), copy(1000);
    auto const step = [&] {
        for (CpuBackend* q : {&b, &forked}) {
            q->parallel_for(1000, WaveFn{out.data()});
            q->parallel_tasks(
                9, [](index_t, std::span<std::byte> scratch) { scratch[0] = std::byte(1); });
            q->copy(copy.data(), out.data(), 8000);
            forked.wait(b.record());
            b.wait(forked.record());
        }
        forked.synchronize();
    };
    step();
    long const before = test::num_allocations;
    for (int round = 0; round < 50; ++round) step();
    CHECK(test::num_allocations == before);
    ::operator delete(::operator new(8)); // the counter counts
    CHECK(test::num_allocations == before + 1);
}

TEST_CASE("backend/cpu: a user's executor takes the place of the threads") {
    ThreadPerWorker mine;
    CpuBackend b{.executor = &mine, .inline_us = 0};
    CHECK(b.concurrency() == 3);
    CHECK(waves(b, 1000) == waves(CpuBackend{.threads = 1}, 1000));
    CHECK(mine.runs == 3);
    CHECK_NOTHROW(testing::check_backend(CpuBackend{.executor = &mine, .inline_us = 1000}));
    b.parallel_tasks(4, [&](index_t, std::span<std::byte>) {
        b.parallel_for(10, [](index_t) {}); // does not come back to the executor
    });
    CHECK(thrown([&] { b.parallel_for(100, testing::detail::ThrowFn{"at ", 3}); }) == "at 3");
}

TEST_CASE("backend/cpu: an executor that runs nothing at a time is refused") {
    struct Nobody : ThreadPerWorker {
        int concurrency() const override { return 0; }
    } nobody;
    CHECK_THROWS_WITH_AS((CpuBackend{.executor = &nobody}.concurrency()),
                         "CpuBackend: the executor's concurrency() is 0, must be at least 1",
                         precondition_error);
}

TEST_CASE("backend/cpu: memory comes from the user's allocator and is counted") {
    struct Budget {
        std::size_t left = 4096;
        int calls = 0;
    } budget;
    CpuAllocator const hook{.allocate = [](std::size_t n, void* user) -> void* {
                                auto& mine = *static_cast<Budget*>(user);
                                if (n > mine.left) return nullptr;
                                mine.left -= n;
                                ++mine.calls;
                                return std::aligned_alloc(64, (n + 63) / 64 * 64);
                            },
                            .deallocate =
                                [](void* p, std::size_t n, void* user) noexcept {
                                    static_cast<Budget*>(user)->left += n;
                                    std::free(p);
                                },
                            .user = &budget};
    {
        CpuBackend b{.threads = 1, .allocator = hook};
        void* const p = b.allocate(1000);
        CHECK(budget.calls == 1);
        CHECK(b.counters().bytes_in_use == 1000);
        CHECK(thrown([&] { b.allocate(std::size_t(3) << 40); }) ==
              "backend: out of memory (3298534883328 bytes asked for, 1000 in use)");
        b.fork().deallocate(p, 1000);
        CHECK(b.counters().bytes_in_use == 0);
        CHECK(b.counters().peak_bytes == 1000);
        CHECK(b.counters().allocations == b.counters().deallocations);
        CHECK_THROWS_AS(b.reserve_scratch(1 << 20), backend_error);
        CHECK(b.allocate(0) == nullptr);
    }
    CHECK(budget.left == 4096);
}

TEST_CASE("backend/cpu: memory of 1 MiB or more is large pages, less begins with a line") {
    CpuBackend b{.threads = 1};
    constexpr std::size_t mebibyte = 1 << 20;
    bool const shown = shows_wishes();
    if (!shown) MESSAGE("the system does not tell where large pages are wished for");
    for (std::size_t const bytes : {std::size_t(1), std::size_t(1000), mebibyte - 1, mebibyte,
                                    3 * mebibyte, 4 * mebibyte + 1}) {
        std::uintptr_t const alignment = bytes < mebibyte ? 64 : 2 * mebibyte;
        CAPTURE(bytes);
        void* two[2]; // one alone may lie well by chance
        for (void*& p : two) {
            p = b.allocate(bytes);
            auto const begin = reinterpret_cast<std::uintptr_t>(p);
            CHECK(begin % alignment == 0);
            if (alignment == 64 || !shown) continue;
            CHECK(wishes_large_page(begin));
            CHECK(wishes_large_page(begin + (bytes - 1) / alignment * alignment + alignment - 1));
        }
        for (void* p : two) b.deallocate(p, bytes);
    }
}

TEST_CASE("backend/cpu: an allocator that ignores the alignment is refused") {
    static std::array<std::byte, 4096> memory;
    CpuBackend b{.threads = 1,
                 .allocator = {.allocate = [](std::size_t, void*) -> void* {
                                   auto const base = reinterpret_cast<std::uintptr_t>(&memory);
                                   return memory.data() + (64 - base % 64) + 8;
                               },
                               .deallocate = [](void*, std::size_t, void*) noexcept {}}};
    CHECK(thrown([&] {
              b.allocate(10);
          }).starts_with("backend: the allocator's memory is not aligned to 64 bytes"));
}
