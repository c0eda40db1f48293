#include "semoe/backend/simulated.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/parallel/sliced_store.hpp"
#include "semoe/tier/ring.hpp"
#include "semoe/tier/split.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <vector>

/// Dense slices over ranks, experts over a link to storage: both for the next layer while one
/// computes, timed on a virtual clock.

using namespace semoe;
using namespace std::chrono_literals;
using simulated::Time;

namespace two_dimensions_test {
namespace {

constexpr int num_layers = 7;

/// How long a rank's step takes through layers that compute for so long, gather for so long and
/// read for so long.
Time step(comm::Threads const& rank, Time compute, Time gather, Time read, index_t slots,
          simulated::Engines engines) {
    index_t const bytes = rank.size() * parallel::SlicedStore<comm::Threads>::granule;
    SimulatedBackend b;
    b.machine.engines = engines;
    auto const link = [&](Time time) {
        SimulatedBackend queue = b;
        queue.machine.link_bytes = double(bytes) / simulated::seconds(time);
        return queue;
    };
    tier::Split tier{
        tier::Ring{link(gather), parallel::SlicedStore{rank}, {.slots = slots, .pin_dense = false}},
        tier::Ring{link(read), tier::HostStore{}, {.slots = slots}}};
    for (int l = 0; l < num_layers; ++l)
        for (expert_id id : {router_block, 0}) tier.declare(b, {l, id}, {bytes});
    Time const begin = b.finish();
    for (int l = 0; l < num_layers; ++l) {
        auto const dense = tier.acquire(b, {l, router_block}, Access::read);
        auto const sparse = tier.acquire(b, {l, 0}, Access::read);
        b.spend(compute);
    }
    return b.now() - begin;
}

} // namespace

TEST_CASE("parallel/two_dimensions: a layer takes the longest of computing, gathering and reading, "
          "or their sum where nothing overlaps") {
    std::vector<Time> const times{12ns, 36ns, 96ns};
    for (int ranks : {1, 2, 3})
        for (Time const c : times)
            for (Time const g : times)
                for (Time const r : times) {
                    CAPTURE(ranks);
                    CAPTURE(c.count());
                    CAPTURE(g.count());
                    CAPTURE(r.count());
                    comm::ThreadWorld{ranks}.run([&](comm::Threads const& rank) {
                        // The first blocks, a layer behind another, and what the last computes.
                        CHECK(step(rank, c, g, r, 2, simulated::Engines::own) ==
                              std::max(g, r) + (num_layers - 1) * std::max({c, g, r}) + c);
                        CHECK(step(rank, c, g, r, 1, simulated::Engines::shared) ==
                              num_layers * (c + g + r));
                    });
                }
}

} // namespace two_dimensions_test
