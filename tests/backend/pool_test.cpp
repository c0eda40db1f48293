#include "semoe/backend/cpu/pool.hpp"

#include <atomic>
#include <chrono>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <sched.h>
#include <string>
#include <thread>
#include <vector>

using namespace semoe;
using cpu::Pool;
using cpu::TaskRef;

namespace {

/// Runs n tasks and returns whether each ran once, on a lane of its own.
bool runs_each_task_once(Pool& pool, index_t n) {
    std::vector<std::atomic<int>> count(static_cast<std::size_t>(n));
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(pool.lanes()));
    std::atomic<bool> good{true};
    auto const task = [&](index_t i, int lane) {
        if (busy[std::size_t(lane)].fetch_add(1) != 0) good = false;
        ++count[std::size_t(i)];
        std::this_thread::yield();
        busy[std::size_t(lane)].fetch_sub(1);
    };
    pool.run(n, TaskRef(task));
    for (auto const& c : count)
        if (c != 1) good = false;
    return good;
}

/// Threads of this process that run or want to, the caller among them.
int running_threads() {
    int running = 0;
    for (auto const& thread : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream file(thread.path() / "stat");
        std::string line;
        std::getline(file, line);
        std::size_t const name_end = line.rfind(')');
        running += name_end != std::string::npos && line[name_end + 2] == 'R';
    }
    return running;
}
/// Whether all threads but the caller come to sleep.
bool all_sleep() {
    for (int attempt = 0; attempt < 1000; ++attempt) {
        if (running_threads() == 1) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
}
/// Hangs unless as many threads meet as the pool has.
void meet(Pool& pool) {
    std::atomic<int> arrived{0};
    auto const task = [&](index_t, int) {
        ++arrived;
        while (arrived < pool.concurrency()) std::this_thread::yield();
    };
    pool.run(pool.concurrency(), TaskRef(task));
}

} // namespace

TEST_CASE("backend/pool: every task runs once, for any number of threads and tasks") {
    for (int threads : {1, 2, 3, 8}) {
        Pool pool(threads);
        CHECK(pool.concurrency() == threads);
        for (index_t n : {0, 1, 2, 3, 7, 8, 9, 1000}) CHECK(runs_each_task_once(pool, n));
    }
}

TEST_CASE("backend/pool: one thread takes its tasks in rising order") {
    Pool pool(1);
    std::vector<index_t> order;
    auto const task = [&](index_t i, int) { order.push_back(i); };
    pool.run(5, TaskRef(task));
    CHECK(order == std::vector<index_t>{0, 1, 2, 3, 4});
}

TEST_CASE("backend/pool: tasks of one job run at the same time, idle threads sleep and wake") {
    Pool pool(5);
    for (int round = 0; round < 5; ++round) {
        meet(pool);
        CHECK(all_sleep());
    }
    for (int round = 0; round < 100; ++round) meet(pool);
}

TEST_CASE("backend/pool: more submitters than jobs share the threads") {
    Pool pool(3);
    constexpr int submitters = Pool::max_submitters + 5;
    std::vector<int> good(submitters);
    std::vector<std::thread> threads;
    for (int t = 0; t < submitters; ++t)
        threads.emplace_back([&, t] {
            bool all = true;
            for (int round = 0; round < 30; ++round)
                all = runs_each_task_once(pool, 1 + (t + round) % 20) && all;
            good[std::size_t(t)] = all;
        });
    for (std::thread& thread : threads) thread.join();
    for (int g : good) CHECK(g == 1);
}

TEST_CASE("backend/pool: submitters that work at the same time have lanes of their own") {
    Pool pool(1); // no other thread: each submitter runs its own tasks
    std::atomic<int> arrived{0};
    std::vector<int> lanes(3, -1);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            auto const task = [&](index_t, int lane) {
                lanes[std::size_t(t)] = lane;
                ++arrived;
                while (arrived < 3) std::this_thread::yield();
            };
            pool.run(1, TaskRef(task));
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(lanes[0] != lanes[1]);
    CHECK(lanes[0] != lanes[2]);
    CHECK(lanes[1] != lanes[2]);
}

TEST_CASE("backend/pool: available_processors follows the affinity mask") {
    CHECK(cpu::available_processors() >= 1);
    int seen = 0;
    std::thread([&] {
        cpu_set_t all, one;
        sched_getaffinity(0, sizeof all, &all);
        CPU_ZERO(&one);
        for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
            if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
        sched_setaffinity(0, sizeof one, &one);
        seen = cpu::available_processors();
    }).join();
    CHECK(seen == 1);
}
