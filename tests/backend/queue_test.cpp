#include "semoe/backend/buffer.hpp"
#include "semoe/backend/cpu/cpu.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <stdexcept>
#include <vector>

using namespace semoe;

namespace queue_test {
namespace {

struct Throw {
    char const* what;
    void operator()(index_t) const { throw std::runtime_error(what); }
};
/// Holds a buffer until it has run, or longer.
struct Hold {
    std::shared_ptr<Buffer<float, CpuBackend>> buffer;
    void operator()(index_t) const {}
};
/// Can be copied so many times.
struct Copies {
    explicit Copies(int& left)
      : left_(&left) {}
    Copies(Copies const& other)
      : left_(other.left_) {
        if (--*left_ < 0) throw std::runtime_error("a copy");
    }
    void operator()(index_t) const {}

private:
    int* left_;
};

} // namespace

TEST_CASE("backend/queue: who waits for a task learns what it threw, whoever learnt of others") {
    CpuBackend b{.threads = 1};
    auto queue = b.fork();
    queue.parallel_for(1, Throw{"first"});
    auto const first = queue.record();
    queue.parallel_for(1, Throw{"second"});
    auto const second = queue.record();
    queue.parallel_for(1, Throw{"third"});
    CHECK_THROWS_WITH(first.wait(), "first");
    first.wait();
    CHECK_THROWS_WITH(queue.synchronize(), "second");
    second.wait();
    queue.synchronize();
}

TEST_CASE("backend/queue: of any number of failures each is told to who waits for its task") {
    CpuBackend b{.threads = 1};
    auto queue = b.fork();
    std::vector<CpuBackend::event_type> done;
    for (int n = 0; n < 200; ++n) {
        queue.parallel_for(1, Throw{n % 2 ? "odd" : "even"});
        done.push_back(queue.record());
    }
    done.back().follow();
    for (int n = 0; n < 200; ++n)
        CHECK_THROWS_WITH(done[std::size_t(n)].wait(), n % 2 ? "odd" : "even");
    queue.synchronize();
}

TEST_CASE("backend/queue: a task may free memory of its own queue while that is full") {
    CpuBackend b{.threads = 1};
    auto queue = b.fork();
    auto gate = b.fork();
    std::promise<void> opened;
    gate.parallel_for(1, [open = opened.get_future().share()](index_t) { open.wait(); });
    queue.wait(gate.record());
    queue.parallel_for(1, Hold{std::make_shared<Buffer<float, CpuBackend>>(queue, 8)});
    for (std::uint64_t n = 2; n < cpu::detail::QueueState::capacity; ++n)
        queue.parallel_for(1, [](index_t) {});
    opened.set_value(); // the first tasks run now, with the queue as full as a host thread makes it
    for (int n = 0; n < 1000; ++n) queue.parallel_for(1, [](index_t) {});
    queue.synchronize();
    gate.synchronize();
}

TEST_CASE("backend/queue: a task may enqueue on its own queue, however full, in order") {
    CpuBackend b{.threads = 1};
    auto queue = b.fork();
    std::vector<int> order;
    queue.parallel_for(1, [&](index_t) {
        for (int n = 0; n < 1000; ++n)
            queue.parallel_for(1, [&, n](index_t) { order.push_back(n); });
    });
    for (int n = 1000; n < 2000; ++n) {
        queue.synchronize(); // until the first task has enqueued its own
        queue.parallel_for(1, [&, n](index_t) { order.push_back(n); });
    }
    queue.synchronize();
    REQUIRE(order.size() == 2000);
    CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("backend/queue: a functor whose copy throws leaves no task behind, however full it is") {
    CpuBackend b{.threads = 1};
    auto queue = b.fork();
    int refused = 0, run = 0;
    auto const enqueue = [&] {
        for (int copies : {0, 1}) {
            try {
                queue.parallel_for(1, Copies(copies));
            } catch (std::runtime_error const&) {
                ++refused;
            }
        }
        queue.parallel_for(1, [&](index_t) { ++run; });
    };
    enqueue();
    queue.parallel_for(1, [&](index_t) {
        for (int n = 0; n < 300; ++n) enqueue();
    });
    queue.synchronize();
    queue.synchronize();
    CHECK(refused == 602);
    CHECK(run == 301);
}

} // namespace queue_test
