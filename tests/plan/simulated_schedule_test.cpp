#include "semoe/backend/simulated.hpp"

#include "semoe/schedule/chunked.hpp"
#include "support/expert_stack.hpp"

#include <doctest/doctest.h>

#include <algorithm>

using namespace semoe;
using simulated::Time;

namespace simulated_schedule_test {
namespace {

using Resident = tier::Resident<SimulatedBackend>;
template <class Sch>
using Stack = test::ExpertStack<SimulatedBackend, Resident, Sch>;

/// One layer on a machine that takes 1 ps for a byte of its rows.
template <class Sch>
Time makespan(double flops, simulated::Engines engines, Sch schedule) {
    SimulatedBackend b{.machine = {.flops = flops, .memory_bytes = 1e12, .engines = engines}};
    Stack<Sch> stack{b, Resident{b}, 1, schedule};
    Time const begin = b.finish();
    stack.pass();
    return b.finish() - begin;
}

} // namespace

/// What a schedule orders, of known duration.
struct TimedStages {
    Time dispatching, computing, combining;
    SimulatedBackend queue = {}, other = queue.fork();

    SimulatedBackend& compute() { return queue; }
    SimulatedBackend& wire() { return other; }
    void dispatch(SimulatedBackend& q, index_t) { q.spend(dispatching); }
    void experts(SimulatedBackend& q, index_t) { q.spend(computing); }
    void combine(SimulatedBackend& q, index_t) { q.spend(combining); }
};

TEST_CASE("plan/simulated_schedule: chunks hide the movement of rows behind the experts") {
    using Chunked = schedule::Chunked;
    using simulated::Engines;
    constexpr index_t tokens = Stack<Chunked>::num_tokens, hidden = Stack<Chunked>::hidden;
    static_assert(tokens == 4);
    // Spreading reads and writes each row, so does combining.
    Time const move{2 * 4 * tokens * hidden};
    for (double const speed : {0.3, 0.1}) { // experts bound by their products at any size
        double const flops = speed * 1e12;
        CAPTURE(speed);
        Time const sequential = makespan(flops, Engines::own, schedule::Sequential{});
        Time const experts = sequential - 2 * move;
        for (index_t chunks : {1, 2, 4}) {
            CAPTURE(chunks);
            Time const chunked = makespan(flops, Engines::own, Chunked{.chunks = chunks});
            CHECK(chunked <= sequential);
            Time const m = move / chunks, e = experts / chunks;
            CHECK(chunked == 2 * m + chunks * e);
            CHECK(makespan(flops, Engines::shared, Chunked{.chunks = chunks}) == sequential);
        }
    }
}

TEST_CASE("plan/simulated_schedule: of what chunks move and compute, the longer part shows") {
    for (int d = 1; d <= 12; ++d)
        for (int e = 0; e <= 12; ++e)
            for (int c = 1; c <= 12; ++c)
                for (int chunks = 1; chunks <= 6; ++chunks) {
                    TimedStages stages{Time(d), Time(e), Time(c)};
                    schedule::Chunked{.chunks = chunks}.run(stages);
                    Time const took = stages.queue.now();
                    CAPTURE(d);
                    CAPTURE(e);
                    CAPTURE(c);
                    CAPTURE(chunks);
                    if (chunks == 1 || e >= d + c) // the wire waits for the experts
                        REQUIRE(took == Time(d + chunks * e + c));
                    else if (e <= std::min(d, c)) // the experts wait for the wire
                        REQUIRE(took == Time(chunks * (d + c)));
                    REQUIRE(took >= Time(std::max(d + chunks * e + c, chunks * (d + c))));
                    REQUIRE(took <= Time(chunks * (d + e + c)));
                }
}

} // namespace simulated_schedule_test
