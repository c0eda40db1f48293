#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cost.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/backend/simulated/clock.hpp"
#include "semoe/backend/simulated/machine.hpp"

#include <concepts>
#include <cstddef>
#include <memory>

namespace semoe {

/// A machine on paper: host memory whose work is done at once, in the order in which the host gives
/// it, while every queue carries a virtual clock that says when the modelled machine would be done.
/// Numbers are right and time is exact, so the layers, tiers and schedules of a program can be
/// timed for a machine that is not there.
///
///     SimulatedBackend b{.machine = {.flops = 300e12, .memory_bytes = 2e12, .link_bytes = 25e9}};
///     ...                                // layers and tiers over b
///     auto const begin = b.finish();
///     layer.forward(x, y, context);
///     auto const took = b.finish() - begin;
///
/// Work begins when the queue's work before it is done, when the events are that the queue waits
/// for, and when the host has given it; the host's own time moves when it waits. A copy takes its
/// bytes over link_bytes. A functor that HasCost takes its flops over the peak or its bytes over
/// the bandwidth, whichever is longer; any other takes no time. Products, movements of rows and
/// updates say what they cost. There are no workers: operations take their bodies for any backend.
///
/// Two queues, thus a queue and its fork, are two engines that run at once, unless the machine's
/// `engines` are shared. `machine` is the handle's own and passed on to its forks: a copy of a
/// handle with another link_bytes, given to a tier, is that tier's link.
///
/// A wait that a program forgets goes unnoticed here; testing::DelayedBackend finds it. Functors
/// must not wait for other queues.
struct SimulatedBackend {
    using space = HostSpace;
    using event_type = simulated::Event;

    simulated::Machine machine = {};
    /// Does the work. More threads make a simulation faster and change nothing else.
    CpuBackend host = {.threads = 1};

    std::shared_ptr<simulated::Clock> clock = std::make_shared<simulated::Clock>();
    std::shared_ptr<simulated::Queue> queue = std::make_shared<simulated::Queue>();

    /// @throws backend_error naming the size
    void* allocate(std::size_t n) { return host.allocate(n); }
    void deallocate(void* p, std::size_t n) noexcept { host.deallocate(p, n); }
    void copy(void* to, void const* from, std::size_t n) {
        simulated::Time const time = machine.transfer(n);
        host.copy(to, from, n);
        clock->spend(*queue, simulated::Clock::Engine::copies, time, machine.engines);
    }

    event_type record() const { return {now()}; }
    void wait(event_type const& event) { clock->wait(*queue, event); }
    /// The host's time moves to the queue's.
    void synchronize() { clock->host_waits(*queue); }
    /// A queue of its own that starts at this one's time.
    SimulatedBackend fork() {
        SimulatedBackend other = *this;
        other.queue = std::make_shared<simulated::Queue>();
        other.queue->done = now();
        return other;
    }
    /// @throws at once what the functor throws; it then took no time
    template <class F>
    void parallel_for(index_t n, F const& functor) {
        static_assert(std::invocable<F const&, index_t>,
                      "SimulatedBackend: the functor of parallel_for needs "
                      "`void operator()(semoe::index_t i) const` (backend/concept.hpp)");
        Cost cost;
        if constexpr (HasCost<F>)
            if (n > 0) cost = functor.cost();
        simulated::Time const time = machine.compute(cost);
        host.parallel_for(n, functor);
        spend(time);
    }

    /// The queue computes for so long.
    void spend(simulated::Time time) {
        clock->spend(*queue, simulated::Clock::Engine::computes, time, machine.engines);
    }
    /// When the queue is done with the work that it has been given.
    simulated::Time now() const { return clock->read(*queue).done; }
    /// How much of that time it worked: the rest it waited, or had nothing to do.
    simulated::Time busy() const { return clock->read(*queue).busy; }
    /// When all queues are.
    simulated::Time makespan() const { return clock->last(); }
    /// The host waits for all queues, so that whatever follows begins there. @return makespan()
    simulated::Time finish() { return clock->host_waits(); }

    /// Memory of all copies and forks.
    MemoryCounters counters() const { return host.counters(); }
};

static_assert(Backend<SimulatedBackend>);

} // namespace semoe
