#include "semoe/backend/simulated.hpp"

#include "semoe/layer/sequence.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/ring.hpp"
#include "support/expert_stack.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>

using namespace semoe;
using namespace std::chrono_literals;
using simulated::Time;

namespace simulated_tier_test {
namespace {

using Resident = tier::Resident<SimulatedBackend>;
using Stack = test::ExpertStack<SimulatedBackend, Resident>;

/// A machine on which a layer computes for `compute`, and a link that brings its block in `copy`.
struct Machine {
    SimulatedBackend b, link;

    Machine(Time compute, Time copy) {
        b.machine.flops = Stack::flops() / simulated::seconds(compute);
        link = b;
        link.machine.link_bytes = Stack::block_bytes / simulated::seconds(copy);
    }
};

struct MakeRing {
    auto operator()(SimulatedBackend b, index_t slots) const {
        return tier::Ring{b, tier::HostStore{}, {.slots = slots}};
    }
};
struct MakeCached {
    auto operator()(SimulatedBackend b, index_t slots) const {
        return Sequenced{tier::Cached{b, tier::HostStore{}, {.slots = slots}}};
    }
};

/// `passes` through `layers` layers whose blocks take turns in `slots` slots, of which the first
/// are full: once a layer is computed, its slot takes the block of the layer that comes next.
/// Either computing never waits, or copies follow one another from the end of the first layer to
/// the start of the last. One slot cannot be filled while it is used.
Time ring_makespan(int passes, int layers, int slots, Time compute, Time copy) {
    int const n = passes * layers;
    if (slots >= layers) return n * compute;
    if (slots == 1) return n * compute + (n - 1) * copy;
    return std::max(n * compute, 2 * compute + (n - slots) * copy);
}

} // namespace

TEST_CASE("plan/simulated_tier: numbers are the host's, whatever the tier") {
    CpuBackend cpu;
    auto const expected = test::ExpertStack{cpu, tier::Resident<CpuBackend>{cpu}, 3}.pass();
    Machine m{100ns, 30ns};
    auto const resident = Stack{m.b, Resident{m.b}, 3}.pass();
    CHECK(test::relative_error(resident, expected) < 1e-5);
    for (int slots = 1; slots <= 3; ++slots) {
        test::ExpertStack stack{
            m.b, Sequenced{tier::Cached{m.link, tier::HostStore{}, {.slots = slots}}}, 3};
        for (int pass = 0; pass < 3; ++pass) CHECK(stack.pass() == resident);
    }
}

TEST_CASE("plan/simulated_tier: layers in memory take their sum") {
    Machine m{100ns, 30ns};
    Stack stack{m.b, Resident{m.b}, 5};
    Time const begin = m.b.finish();
    stack.pass();
    CHECK(m.b.finish() - begin == 500ns);
}

TEST_CASE("plan/simulated_tier: a cache that is not told the order waits for every block") {
    for (int slots = 1; slots <= 4; ++slots) {
        Machine m{100ns, 30ns};
        test::ExpertStack stack{m.b, tier::Cached{m.link, tier::HostStore{}, {.slots = slots}}, 5};
        for (int pass = 0; pass < 3; ++pass) {
            Time const begin = m.b.finish();
            stack.pass();
            CHECK(m.b.finish() - begin == 5 * 130ns); // the least recently used comes next
        }
    }
}

TEST_CASE_TEMPLATE("plan/simulated_tier: a ring, or a cache that knows the order, takes the time "
                   "that its slots allow",
                   Make, MakeRing, MakeCached) {
    constexpr Time compute = 100ns;
    for (Time const copy : {Time(0ns), Time(40ns), Time(100ns), Time(130ns), Time(250ns)})
        for (int layers : {1, 2, 3, 5, 8})
            for (int slots = 1; slots <= 6; ++slots) {
                CAPTURE(copy.count());
                CAPTURE(layers);
                CAPTURE(slots);
                Machine m{compute, copy};
                auto tier = Make{}(m.link, slots);
                test::ExpertStack stack{m.b, tier, layers};
                for (int pass = 0; pass < 2; ++pass) stack.pass(); // the second knows the first
                for (int passes : {1, 3}) {
                    Time const begin = m.b.finish(), worked = m.b.busy();
                    auto const loads = tier.counters().loads;
                    auto const allocations = m.b.counters().allocations;
                    for (int pass = 0; pass < passes; ++pass) stack.pass();
                    CHECK(m.b.now() - begin == ring_makespan(passes, layers, slots, compute, copy));
                    CHECK(m.b.busy() - worked == passes * layers * compute);
                    CHECK(tier.counters().loads - loads == (slots < layers ? passes * layers : 0));
                    CHECK(m.b.counters().allocations == allocations);
                }
            }
}

TEST_CASE_TEMPLATE(
    "plan/simulated_tier: memory is a layer's a slot, and grows by nothing in a pass", Make,
    MakeRing, MakeCached) {
    auto const bytes_in_use = [](int slots) {
        Machine m{100ns, 40ns};
        test::ExpertStack stack{m.b, Make{}(m.link, slots), 5};
        auto const before = m.b.counters();
        for (int pass = 0; pass < 3; ++pass) stack.pass();
        CHECK(m.b.counters().bytes_in_use == before.bytes_in_use);
        CHECK(m.b.counters().peak_bytes == before.peak_bytes);
        return before.bytes_in_use;
    };
    for (int slots = 2; slots <= 5; ++slots)
        CHECK(bytes_in_use(slots) - bytes_in_use(1) == (slots - 1) * index_t(Stack::block_bytes));
}

TEST_CASE("plan/simulated_tier: dense and sparse blocks on links of their own arrive while a layer "
          "computes") {
    constexpr int layers = 7;
    constexpr index_t bytes = 64;
    auto const step = [](Time compute, Time dense_copy, Time sparse_copy, index_t slots,
                         simulated::Engines engines) {
        SimulatedBackend b{.machine = {.engines = engines}};
        auto const ring_on = [&](Time copy) {
            SimulatedBackend link = b;
            link.machine.link_bytes = double(bytes) / simulated::seconds(copy);
            tier::Ring ring{link, tier::HostStore{}, {.slots = slots}};
            for (int l = 0; l < layers; ++l)
                ring.declare(b, {l, 0, BlockKind::weight}, {bytes, LayoutId::row_major});
            return ring;
        };
        auto dense = ring_on(dense_copy), sparse = ring_on(sparse_copy);
        Time const begin = b.finish();
        for (int l = 0; l < layers; ++l) {
            BlockKey const key{l, 0, BlockKind::weight};
            auto const d = dense.acquire(b, key, Access::read);
            auto const s = sparse.acquire(b, key, Access::read);
            b.spend(compute);
        }
        return b.now() - begin;
    };
    std::vector<Time> const times{10ns, 35ns, 100ns};
    for (Time const c : times)
        for (Time const d : times)
            for (Time const s : times) {
                CAPTURE(c.count());
                CAPTURE(d.count());
                CAPTURE(s.count());
                // The first blocks, a layer behind another, and what the last computes.
                CHECK(step(c, d, s, 2, simulated::Engines::own) ==
                      std::max(d, s) + (layers - 1) * std::max({c, d, s}) + c);
                CHECK(step(c, d, s, 1, simulated::Engines::shared) == layers * (c + d + s));
            }
}

} // namespace simulated_tier_test
