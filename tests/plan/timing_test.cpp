#include "semoe/plan/timing.hpp"

#include <doctest/doctest.h>

#include <chrono>

using namespace semoe;
using namespace std::chrono_literals;

TEST_CASE("plan/timing: counts from an idle machine, and tells work from waiting") {
    SimulatedBackend b;
    SimulatedBackend copies = b.fork();
    b.spend(5ns);
    copies.spend(70ns); // over before the count begins
    auto const timing = plan::time_on(b, [&] {
        copies.spend(20ns);
        auto const copied = copies.record();
        copies.spend(1000ns); // b does not wait for it
        b.spend(3ns);
        b.wait(copied);
        b.spend(4ns);
    });
    CHECK(timing == plan::Timing{24ns, 7ns});
    CHECK(timing.waited() == 17ns);
    CHECK(plan::time_on(b, [] {}) == plan::Timing{});
}
