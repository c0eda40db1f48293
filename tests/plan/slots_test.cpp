#include "semoe/plan/slots.hpp"

#include "semoe/expert/gated.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/ring.hpp"
#include "support/expert_stack.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <vector>

using namespace semoe;
using namespace std::chrono_literals;
using plan::SlotPlan;
using plan::Timing;
using simulated::Time;

namespace {

/// Runs that take the times given, by number of slots from 1 on.
SlotPlan plan_of(std::vector<Timing> const& runs, double slack = 0) {
    return plan::fewest_slots({.least = 1, .most = index_t(runs.size()), .slack = slack},
                              [&](index_t slots) { return runs[std::size_t(slots - 1)]; });
}

} // namespace

TEST_CASE("plan/slots: the first number that hides the copies ends the search") {
    SlotPlan const found = plan_of({{200ns, 100ns}, {110ns, 100ns}, {100ns, 100ns}, {}});
    CHECK(found.slots == 3);
    CHECK(found.hidden);
    CHECK(found.timing == Timing{100ns, 100ns});
    CHECK(found.timing.waited() == 0ns);
    CHECK(plan_of({{200ns, 100ns}, {110ns, 100ns}, {100ns, 100ns}}, 0.1).slots == 2);
    int runs = 0;
    plan::fewest_slots({.least = 2, .most = 9}, [&](index_t slots) {
        ++runs;
        return Timing{slots < 5 ? 9ns : 8ns, 8ns};
    });
    CHECK(runs == 4);
    constexpr index_t most = std::numeric_limits<index_t>::max();
    CHECK_THROWS_AS(plan::fewest_slots({.least = most, .most = most},
                                       [](index_t) {
                                           return Timing{9ns, 8ns};
                                       }),
                    precondition_error);
}

TEST_CASE("plan/slots: where copies cannot be hidden, fewer slots that take as long will do") {
    std::vector<Timing> const runs{{400ns, 100ns}, {205ns, 100ns}, {200ns, 100ns}, {200ns, 100ns}};
    CHECK(plan_of(runs).slots == 3);
    CHECK_FALSE(plan_of(runs).hidden);
    CHECK(plan_of(runs, 0.05).slots == 2);
}

TEST_CASE("plan/slots: a value out of range is named") {
    auto const run = [](index_t) { return Timing{}; };
    CHECK_THROWS_WITH_AS(plan::fewest_slots({.least = 0, .most = 3}, run),
                         doctest::Contains("least is 0"), precondition_error);
    CHECK_THROWS_WITH_AS(plan::fewest_slots({.least = 4, .most = 3}, run),
                         doctest::Contains("most is 3, must be at least least, 4"),
                         precondition_error);
    CHECK_THROWS_WITH_AS(plan::fewest_slots({.most = 3, .slack = -1}, run),
                         doctest::Contains("slack is -1"), precondition_error);
}

TEST_CASE("plan/slots: for layers of one expert the plan is the closed form's") {
    constexpr Time compute = 100ns;
    constexpr int layers = 6, passes = 2, n = passes * layers;
    for (Time const copy : {Time(0ns), Time(30ns), Time(100ns), Time(110ns), Time(150ns)}) {
        CAPTURE(copy.count());
        auto const run = [&](index_t slots) {
            using Stack = test::ExpertStack<SimulatedBackend, tier::Resident<SimulatedBackend>>;
            SimulatedBackend b;
            b.machine.flops = Stack::flops() / simulated::seconds(compute);
            SimulatedBackend link = b;
            link.machine.link_bytes = Stack::block_bytes / simulated::seconds(copy);
            test::ExpertStack stack{b, tier::Ring{link, tier::HostStore{}, {.slots = slots}},
                                    layers};
            stack.pass();
            return plan::time_on(b, [&] {
                for (int pass = 0; pass < passes; ++pass) stack.pass();
            });
        };
        SlotPlan const found = plan::fewest_slots({.least = 1, .most = layers, .slack = 0}, run);
        CHECK(found.hidden);
        CHECK(found.timing == Timing{n * compute, n * compute});
        // 2 compute + (n - slots) copy must not be more than n compute; all layers need no copies.
        index_t expected = copy == 0ns ? 1 : 2;
        while (expected < layers && 2 * compute + (n - expected) * copy > n * compute) ++expected;
        CHECK(found.slots == expected);
    }
}

TEST_CASE("plan/slots: layers of many experts that tokens choose are planned as well") {
    constexpr index_t T = 32, H = 24, I = 16, E = 8;
    auto const run = [&](double link_bytes) {
        return [=](index_t slots) {
            SimulatedBackend b{.machine = {.flops = 1e12, .memory_bytes = 4e12}};
            SimulatedBackend link = b;
            link.machine.link_bytes = link_bytes;
            tier::Ring tier{link, tier::HostStore{}, {.slots = slots}};
            using Layer = MoeLayer<SimulatedBackend, gate::TopK<gate::Softmax>,
                                   expert::SwiGlu<float>, comm::Self, decltype(tier)>;
            std::deque<Layer> layers;
            std::vector<Layer::Context> contexts;
            for (int l = 0; l < 5; ++l) {
                layers.emplace_back(b, gate::TopK<gate::Softmax>{.num_experts = E, .top_k = 2},
                                    expert::SwiGlu<float>{.hidden = H, .intermediate = I},
                                    comm::Self{}, tier, MoeConfig{.layer = l});
                layers.back().initialize(5);
                contexts.push_back(layers.back().make_context(T));
            }
            tier.flush(b);
            auto x = test::to_backend(b, test::random_values<float>(1, T * H));
            auto const pass = [&] {
                for (std::size_t l = 0; l < layers.size(); ++l)
                    layers[l].forward(x.matrix(T, H), x.matrix(T, H), contexts[l]);
            };
            pass();
            return plan::time_on(b, pass);
        };
    };
    plan::SlotSearch const search{.least = 1, .most = 5};
    SlotPlan const wide = plan::fewest_slots(search, run(1e12));
    SlotPlan const narrow = plan::fewest_slots(search, run(1e9));
    CHECK(wide.hidden);
    CHECK(wide.slots == 1);   // places change hands while a layer still computes
    CHECK(narrow.slots == 5); // nothing but keeping all of them helps
    CHECK(narrow.hidden);
    CHECK(run(1e9)(4).took > 2 * narrow.timing.took);
}
