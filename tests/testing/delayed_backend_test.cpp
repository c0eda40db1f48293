#include "semoe/testing/delayed_backend.hpp"

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "support/allocation_counter.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace semoe;
using testing::DelayedBackend;

namespace {

struct SetFn {
    int* out;
    int value;
    void operator()(index_t i) const { out[i] = value; }
};
struct NoteFn {
    std::vector<int>* notes;
    int note;
    void operator()(index_t) const { notes->push_back(note); }
};

/// The order in which six pieces of work on three queues run.
std::vector<int> order_of_run(std::uint64_t seed) {
    std::vector<int> notes;
    DelayedBackend a{.seed = seed}, b = a.fork(), c = a.fork();
    for (int i = 0; i < 4; ++i) {
        a.parallel_for(1, NoteFn{&notes, i});
        b.parallel_for(1, NoteFn{&notes, 10 + i});
        c.parallel_for(1, NoteFn{&notes, 20 + i});
    }
    a.wait(b.record());
    a.wait(c.record());
    a.synchronize();
    return notes;
}

template <class B>
std::vector<double> sums(B b) {
    std::vector<double> out(701);
    b.reserve_scratch(64);
    b.parallel_tasks(701, [p = out.data()](index_t i, std::span<std::byte> scratch) {
        double sum = 0;
        for (std::size_t k = 0; k < scratch.size(); ++k) sum += std::sqrt(double(i) + double(k));
        p[i] = sum;
    });
    b.parallel_for(701, [p = out.data()](index_t i) { p[i] = std::sin(p[i]) / 3; });
    b.synchronize();
    return out;
}

} // namespace

TEST_CASE("testing/delayed_backend: nothing runs before the host synchronises") {
    DelayedBackend b;
    std::vector<int> x(10, 1), y(10, 2);
    b.parallel_for(10, SetFn{x.data(), 5});
    b.copy(y.data(), x.data(), 10 * sizeof(int));
    b.record();
    CHECK(x == std::vector<int>(10, 1));
    CHECK(y == std::vector<int>(10, 2));
    b.synchronize();
    CHECK(y == std::vector<int>(10, 5));
}

TEST_CASE("testing/delayed_backend: a host buffer that is reused early gives wrong data") {
    DelayedBackend b;
    int source = 1, result = 0;
    b.copy(&result, &source, sizeof(int));
    source = 2;
    b.synchronize();
    CHECK(result == 2);
}

TEST_CASE("testing/delayed_backend: a forgotten wait gives wrong data for some order") {
    int right = 0, wrong = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        DelayedBackend a{.seed = seed}, b = a.fork();
        int x = 0, with = 0, without = 0;
        a.parallel_for(1, SetFn{&x, 7});
        b.copy(&without, &x, sizeof(int));
        b.wait(a.record());
        b.copy(&with, &x, sizeof(int));
        b.synchronize();
        a.synchronize();
        CHECK(with == 7);
        (without == 7 ? right : wrong) += 1;
    }
    CHECK(right > 0);
    CHECK(wrong > 0);
}

TEST_CASE("testing/delayed_backend: each queue runs in order, queues in an order of the seed") {
    std::vector<std::vector<int>> orders;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        std::vector<int> const order = order_of_run(seed);
        CHECK(order == order_of_run(seed));
        CHECK(order.size() == 12);
        for (int queue = 0; queue < 3; ++queue) {
            std::vector<int> own;
            for (int note : order)
                if (note / 10 == queue) own.push_back(note);
            CHECK(std::is_sorted(own.begin(), own.end()));
        }
        orders.push_back(order);
    }
    std::sort(orders.begin(), orders.end());
    CHECK(std::unique(orders.begin(), orders.end()) - orders.begin() > 5);
}

TEST_CASE("testing/delayed_backend: a seed lets some work run early") {
    std::vector<int> notes;
    DelayedBackend b{.seed = 5};
    for (int i = 0; i < 40; ++i) b.parallel_for(1, NoteFn{&notes, i});
    CHECK(notes.size() > 0);
    CHECK(notes.size() < 40);
}

TEST_CASE("testing/delayed_backend: indices run in many orders, each once") {
    DelayedBackend b;
    std::vector<std::vector<int>> orders;
    for (index_t n : {1, 2, 3, 12, 97}) {
        for (int round = 0; round < 30; ++round) {
            std::vector<int> notes;
            b.parallel_for(n, [&notes](index_t i) { notes.push_back(int(i)); });
            b.synchronize();
            if (n == 97) orders.push_back(notes);
            std::vector<int> expected(static_cast<std::size_t>(n));
            std::iota(expected.begin(), expected.end(), 0);
            std::sort(notes.begin(), notes.end());
            CHECK(notes == expected);
        }
    }
    std::sort(orders.begin(), orders.end());
    CHECK(std::unique(orders.begin(), orders.end()) - orders.begin() > 10);
}

TEST_CASE("testing/delayed_backend: results have the bits of CpuBackend") {
    std::vector<double> const expected = sums(CpuBackend{.threads = 2});
    for (std::uint64_t seed = 0; seed < 3; ++seed)
        CHECK(sums(DelayedBackend{.seed = seed}) == expected);
}

TEST_CASE("testing/delayed_backend: fresh memory holds 0xA5, freed memory 0xFF once it is due") {
    static std::vector<unsigned char> seen;
    seen.clear();
    DelayedBackend b{.allocator = {.deallocate = [](void* p, std::size_t n, void*) noexcept {
                         auto const* bytes = static_cast<unsigned char*>(p);
                         seen.assign(bytes, bytes + n);
                         CpuAllocator{}.deallocate(p, n, nullptr);
                     }}};
    auto* const p = static_cast<unsigned char*>(b.allocate(100));
    CHECK(std::all_of(p, p + 100, [](unsigned char c) { return c == 0xA5; }));
    b.deallocate(p, 100);
    CHECK(p[50] == 0xA5); // still there
    CHECK(b.counters().bytes_in_use == 100);
    b.synchronize();
    CHECK(seen == std::vector<unsigned char>(100, 0xFF));
    CHECK(b.counters().bytes_in_use == 0);
}

TEST_CASE("testing/delayed_backend: errors travel with events and surface once") {
    DelayedBackend a, b = a.fork();
    auto const fail = [](index_t) { throw std::runtime_error("load failed"); };
    b.parallel_for(1, fail);
    a.wait(b.record());
    CHECK_THROWS_WITH_AS(a.synchronize(), "load failed", std::runtime_error);
    CHECK_NOTHROW(a.synchronize());
    CHECK_NOTHROW(b.synchronize());
}

TEST_CASE(
    "testing/delayed_backend: of two errors the first goes where it is awaited, the next stays") {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        DelayedBackend a{.seed = seed}, b = a.fork();
        auto const fails = [](char const* what) {
            return [what](index_t) { throw std::runtime_error(what); };
        };
        b.parallel_for(1, fails("first"));
        auto const event = b.record();
        b.parallel_for(1, fails("second"));
        a.wait(event);
        CHECK_THROWS_WITH_AS(a.synchronize(), "first", std::runtime_error);
        CHECK_THROWS_WITH_AS(b.synchronize(), "second", std::runtime_error);
        CHECK_NOTHROW(b.synchronize());
        b.parallel_for(1, fails("first"));
        b.parallel_for(1, fails("second"));
        CHECK_THROWS_WITH_AS(b.synchronize(), "first", std::runtime_error);
        CHECK_NOTHROW(b.synchronize());
    }
}

TEST_CASE("testing/delayed_backend: a functor whose copy throws leaves no work behind") {
    struct Copies {
        int* left;
        explicit Copies(int& n)
          : left(&n) {}
        Copies(Copies const& other)
          : left(other.left) {
            if (--*left < 0) throw std::runtime_error("a copy");
        }
        void operator()(index_t) const {}
    };
    DelayedBackend b;
    int runs = 0, refused = 0;
    auto const count = [&](index_t) { ++runs; };
    for (int allowed = 0; allowed < 4; ++allowed) {
        b.parallel_for(1, count);
        int left = allowed;
        try {
            b.parallel_for(1, Copies(left));
        } catch (std::runtime_error const&) {
            ++refused;
        }
        b.parallel_for(1, count);
        b.synchronize();
        CHECK(runs == 2 * (allowed + 1));
    }
    CHECK(refused > 0);
}

TEST_CASE("testing/delayed_backend: events lead from one world to another, among host threads") {
    constexpr int ranks = 4;
    std::vector<DelayedBackend> backends;
    for (int r = 0; r < ranks; ++r) backends.push_back(DelayedBackend{.seed = std::uint64_t(r)});
    std::vector<std::vector<int>> data(ranks, std::vector<int>(50, -1));
    for (int round = 0; round < 20; ++round) {
        std::vector<DelayedBackend::event_type> ready(ranks);
        std::vector<std::vector<int>> got(ranks, std::vector<int>(50));
        auto const on_every_rank = [&](auto const& f) {
            std::vector<std::thread> threads;
            for (int r = 0; r < ranks; ++r) threads.emplace_back([&, r] { f(std::size_t(r)); });
            for (std::thread& thread : threads) thread.join();
        };
        on_every_rank([&](std::size_t r) {
            backends[r].parallel_for(50, SetFn{data[r].data(), 100 * round + int(r)});
            ready[r] = backends[r].record();
        });
        on_every_rank([&](std::size_t r) {
            std::size_t const from = (r + 1) % ranks;
            backends[r].wait(ready[from]);
            backends[r].copy(got[r].data(), data[from].data(), 50 * sizeof(int));
            backends[r].synchronize();
        });
        for (int r = 0; r < ranks; ++r)
            CHECK(got[std::size_t(r)] == std::vector<int>(50, 100 * round + (r + 1) % ranks));
    }
}

TEST_CASE("testing/delayed_backend: work that waits for its own queue is refused") {
    DelayedBackend b;
    b.parallel_for(1, [&b](index_t) { b.synchronize(); });
    CHECK_THROWS_WITH_AS(b.synchronize(),
                         "DelayedBackend: work of a queue waits for the queue that runs it",
                         precondition_error);
}

TEST_CASE("testing/delayed_backend: a step that repeats itself allocates nothing") {
    DelayedBackend a, b = a.fork();
    std::vector<int> x(100), y(100);
    auto const step = [&] {
        a.parallel_for(100, SetFn{x.data(), 3});
        b.wait(a.record());
        b.copy(y.data(), x.data(), 400);
        a.wait(b.record());
        a.synchronize();
    };
    step();
    step();
    long const before = test::num_allocations;
    for (int i = 0; i < 100; ++i) step();
    CHECK(test::num_allocations == before);
}
