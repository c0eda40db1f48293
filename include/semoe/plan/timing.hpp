#pragma once

#include "semoe/backend/simulated.hpp"

#include <algorithm>
#include <utility>

namespace semoe::plan {

/// How long some work took on a queue of a modelled machine.
struct Timing {
    simulated::Time took{};   ///< until the queue was done with it
    simulated::Time worked{}; ///< of that, what the queue's own work takes

    /// What copies, messages and the host were waited for.
    simulated::Time waited() const { return took - worked; }
    friend bool operator==(Timing const&, Timing const&) = default;
};

/// Runs f(), whose work is in the end waited for by b's queue, on an idle machine.
/// @param b  the queue that computes
/// @sync the host waits for all queues before, and for b's after
template <class F>
Timing time_on(SimulatedBackend& b, F&& f) {
    simulated::Time const begin = b.finish(), busy = b.busy();
    std::forward<F>(f)();
    b.synchronize();
    return {std::max(b.now(), begin) - begin, b.busy() - busy};
}

} // namespace semoe::plan
