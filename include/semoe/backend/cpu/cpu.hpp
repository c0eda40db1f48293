#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/allocator.hpp"
#include "semoe/backend/cpu/queue.hpp"
#include "semoe/backend/cpu/workers.hpp"

#include <concepts>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace semoe {

/// Processors of the host. The root queue is inline: its work is done when a call returns, and
/// errors are thrown there. fork() gives a queue with a background thread. Copies and forks share
/// one pool of threads, which any number of threads may use at once.
///
///     CpuBackend{}                     CpuBackend{.threads = 4}
///     CpuBackend{.executor = &mine}    CpuBackend{.allocator = {my_allocate, my_free, this}}
struct CpuBackend {
    using space = HostSpace;
    using event_type = cpu::Event;
    static constexpr bool may_block = true;

    /// How many threads work at once, the caller among them; 0: one a processor of the process's
    /// affinity mask. This and the next three are read once, at construction.
    int threads = 0;
    CpuAllocator allocator = {};
    /// Takes the place of our own threads; it outlives the backend.
    cpu::Executor* executor = nullptr;
    /// parallel_for keeps to the calling thread for this long before it wakes others.
    int inline_us = 5;

    std::shared_ptr<cpu::Workers> workers =
        std::make_shared<cpu::Workers>(threads, executor, allocator, inline_us);
    std::shared_ptr<cpu::Queue> queue = {}; ///< null: inline

    /// @return 64-byte aligned, uninitialised, usable on every queue at once; null for n = 0
    /// @throws backend_error naming the size
    void* allocate(std::size_t n) { return workers->memory().allocate(n); }
    /// @sync enqueues
    void deallocate(void* p, std::size_t n) noexcept {
        if (!p) return;
        if (queue)
            queue->enqueue([w = workers, p, n] { w->memory().deallocate(p, n); });
        else
            workers->memory().deallocate(p, n);
    }
    /// @pre the ranges do not overlap @sync enqueues; host memory is read when the copy runs
    void copy(void* to, void const* from, std::size_t n) {
        if (n == 0) return;
        if (queue)
            queue->enqueue([to, from, n] { std::memcpy(to, from, n); });
        else
            std::memcpy(to, from, n);
    }

    /// @sync none: never blocks, never allocates
    event_type record() { return queue ? queue->record() : event_type{}; }
    /// @sync enqueues the wait; on the inline queue the host waits
    /// @throws on the inline queue, what the work before the event threw, once
    void wait(event_type const& event) {
        if (queue)
            queue->wait(event);
        else
            event.wait();
    }
    /// As wait, but what the work before the event threw is told to who waits for it, too.
    void observe(event_type const& event) {
        if (queue)
            queue->observe(event);
        else
            event.observe();
    }
    /// As wait, but takes no error of the work before the event: it is told to who waits for it.
    void follow(event_type const& event) {
        if (queue)
            queue->follow(event);
        else
            event.follow();
    }
    /// Whether the work before the event is done. @sync none
    bool reached(event_type const& event) const { return event.reached(); }
    /// @sync the host waits until the queue is empty @throws what its work threw, once
    void synchronize() {
        if (queue) queue->synchronize();
    }
    /// @cost one thread and a fixed ring of tasks; make forks ahead, not in a step
    CpuBackend fork() {
        CpuBackend other = *this;
        other.queue = std::make_shared<cpu::Queue>();
        return other;
    }

    /// Calls functor(i) for i in [0, n) on one copy of the functor, from several threads.
    /// @sync enqueues @throws on the inline queue, what the lowest throwing index threw
    template <class F>
    void parallel_for(index_t n, F const& functor) {
        static_assert(std::invocable<F const&, index_t>,
                      "CpuBackend: parallel_for calls the functor from several threads; it needs "
                      "`void operator()(semoe::index_t i) const` (backend/concept.hpp)");
        check_size<F>();
        run(n, detail::LoopRef::over_indices(functor), functor, &cpu::Workers::for_each_index);
    }
    /// Calls task(i, scratch) for i in [0, n), handed out one by one in rising order.
    /// @sync enqueues @throws on the inline queue, what the lowest throwing task threw
    template <class F>
    void parallel_tasks(index_t n, F const& task) {
        static_assert(std::invocable<F const&, index_t, std::span<std::byte>>,
                      "CpuBackend: parallel_tasks calls the task from several threads; it needs "
                      "`void operator()(semoe::index_t i, std::span<std::byte> scratch) const` "
                      "(backend/concept.hpp)");
        check_size<F>();
        run(n, detail::LoopRef::over_tasks(task), task, &cpu::Workers::for_each_task);
    }
    /// Tasks that run keep the scratch that they have. @sync none
    void reserve_scratch(std::size_t bytes) { workers->reserve_scratch(bytes); }

    /// How many tasks may run at the same time.
    int concurrency() const { return workers->concurrency(); }
    /// Memory of all copies and forks, scratch included.
    MemoryCounters counters() const { return workers->memory().counters(); }

private:
    using Run = void (cpu::Workers::*)(index_t, detail::LoopRef);
    template <class F>
    void run(index_t n, detail::LoopRef loop, F const& functor, Run how) {
        if (!queue)
            (workers.get()->*how)(n, loop);
        else if constexpr (std::is_trivially_copyable_v<F>)
            enqueue(n, detail::CopiedLoop(loop, sizeof(F)), how);
        else
            queue->enqueue([w = workers, n, loop, functor, how] {
                (w.get()->*how)(n, loop.over_copy(&functor));
            });
    }
    SEMOE_NOINLINE void enqueue(index_t n, detail::CopiedLoop const& loop, Run how) {
        queue->enqueue([loop, w = workers, n, how] { (w.get()->*how)(n, loop.ref()); });
    }
    template <class F>
    static constexpr void check_size() {
        static_assert(sizeof(F) <= max_functor_bytes,
                      "CpuBackend: the functor is larger than max_functor_bytes; keep the data in "
                      "backend memory and let the functor hold a view of it (backend/concept.hpp)");
        static_assert(alignof(F) <= 64,
                      "CpuBackend: the functor needs an alignment above 64, which "
                      "a queue's slots do not have; hold a view of the data");
    }
};

static_assert(Backend<CpuBackend> && HasWorkers<CpuBackend> && HasObserve<CpuBackend> &&
              HasFollow<CpuBackend>);

} // namespace semoe
