#include "semoe/backend/simulated.hpp"

#include "semoe/testing/check_backend.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <random>
#include <vector>

using namespace semoe;
using namespace std::chrono_literals;
using simulated::Engines;
using simulated::Time;

namespace {

/// A flop, a byte of memory and a byte of the link take 1, 2 and 4 ns.
constexpr simulated::Machine slow{
    .flops = 1e9, .memory_bytes = 0.5e9, .link_bytes = 0.25e9, .engines = Engines::own};
constexpr simulated::Machine slow_shared{
    .flops = 1e9, .memory_bytes = 0.5e9, .link_bytes = 0.25e9, .engines = Engines::shared};

struct Costly {
    double flops, bytes;
    void operator()(index_t) const {}
    Cost cost() const { return {flops, bytes}; }
};
struct Free {
    void operator()(index_t) const {}
};
struct Throwing {
    void operator()(index_t) const { throw std::runtime_error("no"); }
    Cost cost() const { return {100, 100}; }
};

void copy(SimulatedBackend& b, std::size_t bytes) {
    std::vector<char> const from(bytes);
    std::vector<char> to(bytes);
    b.copy(to.data(), from.data(), bytes);
}

static_assert(HasCost<Costly> && !HasCost<Free>);
static_assert(host_reachable<SimulatedBackend> && !HasWorkers<SimulatedBackend>);

} // namespace

TEST_CASE("backend/simulated: keeps the promises of a backend, however slow the machine") {
    testing::check_backend(SimulatedBackend{});
    testing::check_backend(SimulatedBackend{.machine = slow});
    testing::check_backend(SimulatedBackend{.machine = slow_shared});
    testing::check_backend(SimulatedBackend{.host = {.threads = 2}});
}

TEST_CASE("backend/simulated: work takes its flops or its bytes, whichever take longer") {
    SimulatedBackend b{.machine = slow};
    b.parallel_for(5, Costly{100, 10});
    CHECK(b.now() == 100ns);
    b.parallel_for(1, Costly{100, 70});
    CHECK(b.now() == 240ns);
    b.parallel_for(7, Free{});
    b.parallel_for(0, Costly{100, 100}); // nothing to do
    CHECK(b.now() == 240ns);
    copy(b, 25);
    CHECK(b.now() == 340ns);
    copy(b, 0);
    b.spend(60ns);
    CHECK(b.now() == 400ns);
    CHECK(b.busy() == 400ns);
    CHECK(b.makespan() == 400ns);
    CHECK(simulated::seconds(b.now()) == doctest::Approx(4e-7));
}

TEST_CASE("backend/simulated: an infinite rate costs nothing, one that is not above 0 is named") {
    SimulatedBackend b;
    b.parallel_for(5, Costly{1e30, 1e30});
    copy(b, 1000);
    CHECK(b.makespan() == 0ns);
    b.machine.flops = 0;
    CHECK_THROWS_WITH_AS(b.parallel_for(1, Costly{1, 1}),
                         doctest::Contains("machine.flops is 0, must be above 0"),
                         precondition_error);
    b.machine = {.link_bytes = -1};
    CHECK_THROWS_WITH_AS(copy(b, 1), doctest::Contains("machine.link_bytes is -1"),
                         precondition_error);
    b.machine = {.link_bytes = 25}; // meant were thousands of millions
    CHECK_THROWS_WITH_AS(copy(b, std::size_t(352) << 20),
                         doctest::Contains("machine.link_bytes is 25 a second: the clock does not"),
                         precondition_error);
    b.machine = {.flops = 300};
    for (double const flops : {1e10, std::nan("")})
        CHECK_THROWS_WITH_AS(b.parallel_for(1, Costly{flops, 1}),
                             doctest::Contains("machine.flops is 300 a second"),
                             precondition_error);
    CHECK(b.makespan() == 0ns);
}

TEST_CASE("backend/simulated: work that throws throws at once and takes no time") {
    SimulatedBackend b{.machine = slow};
    SimulatedBackend forked = b.fork();
    CHECK_THROWS_WITH(forked.parallel_for(1, Throwing{}), "no");
    forked.synchronize();
    b.wait(forked.record());
    CHECK(b.finish() == 0ns);
}

TEST_CASE("backend/simulated: waiting moves a queue to the event, never back") {
    SimulatedBackend b{.machine = slow};
    SimulatedBackend copies = b.fork();
    b.spend(100ns);
    auto const computed = b.record();
    b.spend(5ns);
    copies.wait(computed);
    copies.wait({});
    copy(copies, 10);
    CHECK(copies.now() == 140ns);
    CHECK(copies.busy() == 40ns);
    b.wait(copies.record());
    CHECK(b.now() == 140ns);
    CHECK(b.busy() == 105ns);
    copies.wait(computed); // long ago
    CHECK(copies.now() == 140ns);
}

TEST_CASE(
    "backend/simulated: a fork starts where its parent is; copies of a handle are one queue") {
    SimulatedBackend b{.machine = slow};
    b.spend(30ns);
    SimulatedBackend forked = b.fork(), same = b;
    CHECK(forked.now() == 30ns);
    CHECK(forked.busy() == 0ns);
    forked.spend(1ns);
    same.spend(2ns);
    CHECK(b.now() == 32ns);
    CHECK(forked.now() == 31ns);
}

TEST_CASE("backend/simulated: two queues work at once, unless the machine's engines are shared") {
    auto const run = [](simulated::Machine machine) {
        SimulatedBackend first{.machine = machine};
        SimulatedBackend second = first.fork();
        for (int i = 0; i < 3; ++i) {
            first.spend(10ns);
            second.spend(7ns);
            copy(first, 1);
            copy(second, 2);
            second.parallel_for(1, Free{}); // takes no turn
        }
        return std::pair{first.now(), second.now()};
    };
    CHECK(run(slow) == std::pair<Time, Time>(3 * 14ns, 3 * 15ns));
    // Computing: 0-10 first, 10-17 second; copying: 10-14 first, 17-25 second; first at 17 again.
    CHECK(run(slow_shared) == std::pair<Time, Time>(48ns, 59ns));
}

TEST_CASE("backend/simulated: no work begins before the host gave it") {
    SimulatedBackend b;
    SimulatedBackend other = b.fork();
    b.spend(100ns);
    other.spend(1ns);
    CHECK(other.now() == 1ns);
    b.synchronize(); // the host has waited for b
    other.spend(1ns);
    CHECK(other.now() == 101ns);
    other.synchronize(); // it is further already
    b.spend(50ns);
    CHECK(b.now() == 151ns);
    CHECK(b.finish() == 151ns);
    other.parallel_for(1, Free{});
    CHECK(other.now() == 151ns);
    CHECK(b.makespan() == 151ns);
}

TEST_CASE("backend/simulated: rates are a handle's own, and its forks'") {
    SimulatedBackend b{.machine = {.link_bytes = 1e9}};
    SimulatedBackend slower = b;
    slower.machine.link_bytes = 0.1e9;
    SimulatedBackend disk = slower.fork();
    copy(disk, 3);
    copy(b, 3);
    copy(slower, 3); // the same queue as b
    CHECK(disk.now() == 30ns);
    CHECK(b.now() == 33ns);
}

TEST_CASE("backend/simulated: a random program takes its longest chain of work and waits") {
    std::mt19937 dice(7);
    auto const roll = [&](int sides) { return std::uniform_int_distribution(0, sides - 1)(dice); };
    for (int round = 0; round < 20; ++round) {
        std::vector<SimulatedBackend> queues{{}};
        while (queues.size() < 4) queues.push_back(queues[0].fork());
        struct Step { // before: steps that must be over, this queue's last among them
            Time time;
            std::vector<std::size_t> before;
        };
        std::vector<Step> steps;
        std::vector<std::vector<std::size_t>> waits(4); // what the next step of a queue awaits
        std::vector<std::pair<simulated::Event, std::vector<std::size_t>>> events;
        for (int i = 0; i < 60; ++i) {
            auto const q = std::size_t(roll(4));
            if (roll(3) == 0) events.emplace_back(queues[q].record(), waits[q]);
            if (roll(3) == 0 && !events.empty()) {
                auto const& [event, before] = events[std::size_t(roll(int(events.size())))];
                queues[q].wait(event);
                waits[q].insert(waits[q].end(), before.begin(), before.end());
            }
            Time const time = std::chrono::nanoseconds(roll(20));
            queues[q].spend(time);
            steps.push_back({time, waits[q]});
            waits[q] = {steps.size() - 1};
        }
        std::vector<Time> end(steps.size());
        Time longest{};
        for (std::size_t i = 0; i < steps.size(); ++i) {
            for (std::size_t before : steps[i].before) end[i] = std::max(end[i], end[before]);
            longest = std::max(longest, end[i] += steps[i].time);
        }
        CHECK(queues[0].makespan() == longest);
    }
}
