#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/allocator.hpp"
#include "semoe/backend/detail/loop.hpp"
#include "semoe/backend/detail/task.hpp"
#include "semoe/core/error.hpp"

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace semoe::testing {

namespace detail {

class DelayedWorld;
struct DelayedLine;

/// A point in a delayed queue's order; a default one is done.
struct DelayedEvent {
    std::shared_ptr<DelayedLine> line;
    std::uint64_t ticket = 0;
};

/// One task of a queue, or one wait: `after` is what it waits for.
struct DelayedStep {
    semoe::detail::Task task;
    DelayedEvent after;
    DelayedStep* next = nullptr;
};

/// A queue's steps that have not run yet, and how far it has come.
struct DelayedLine {
    DelayedWorld* world = nullptr;
    DelayedStep *head = nullptr, *tail = nullptr;
    std::uint64_t enqueued = 0, done = 0;
    bool running = false;
    struct Failure {
        std::exception_ptr error;
        std::uint64_t step; ///< that threw it, counted from 1
    };
    std::vector<Failure> failures; ///< that have not been reported yet, in order

    bool ready() const {
        return head && !running &&
               (!head->after.line || head->after.ticket <= head->after.line->done);
    }
    /// Who is told of an error of the work before an event: who waits, that one and others, or
    /// others alone.
    enum class Tell { here, here_too, elsewhere };

    void report(std::uint64_t ticket, Tell tell = Tell::here) {
        if (failures.empty() || failures[0].step > ticket || tell == Tell::elsewhere) return;
        std::exception_ptr const error = failures[0].error;
        // Those before the ticket are reported by that, too.
        if (tell == Tell::here)
            std::erase_if(failures, [&](Failure const& f) { return f.step <= ticket; });
        std::rethrow_exception(error);
    }
};

/// All queues that were forked from one another, and the dice that order their work.
/// One lock serves all worlds of a process, because events may lead from one to another.
class DelayedWorld {
public:
    DelayedWorld(std::uint64_t seed, CpuAllocator allocator)
      : memory(allocator)
      , seed_(seed)
      , random_(seed) {}
    DelayedWorld(DelayedWorld const&) = delete;
    DelayedWorld& operator=(DelayedWorld const&) = delete;
    ~DelayedWorld() {
        for (std::span<std::byte> area : scratch_) memory.deallocate(area.data(), area.size());
    }

    static std::recursive_mutex& lock() {
        static std::recursive_mutex mutex;
        return mutex;
    }

    void enter(DelayedLine& line) { lines_.push_back(&line); }
    void leave(DelayedLine& line) { std::erase(lines_, &line); }

    template <class F>
    void enqueue(DelayedLine& line, F&& f) {
        DelayedStep& step = take_step();
        try {
            step.task.set(std::forward<F>(f)); // copies it, which may throw
        } catch (...) {
            step.next = std::exchange(free_, &step);
            throw;
        }
        append(line, step);
    }
    /// @param tell  who is told of an error of what the line waits for
    void enqueue_wait(DelayedLine& line, DelayedEvent event, DelayedLine::Tell tell) {
        DelayedStep& wait = take_step();
        wait.task.set([from = event, tell] { from.line->report(from.ticket, tell); });
        wait.after = std::move(event);
        append(line, wait);
    }

    /// Runs steps of any queue, in an order that the dice choose, until `line` has come to
    /// `ticket`.
    static void advance(DelayedLine& line, std::uint64_t ticket) {
        while (line.done < ticket)
            if (!line.world->run_any()) run(blocker(line));
    }

    std::uint64_t roll(std::uint64_t sides) { return random_() % sides; }

    /// Calls f(i) for every i in [0, n): forwards, backwards, or by a stride without common
    /// divisor.
    void for_each_index(index_t n, semoe::detail::LoopRef f) {
        index_t stride = 1, first = 0;
        if (std::uint64_t const order = roll(3); order > 0 && n > 1) {
            stride = n - 1;
            if (order == 2)
                for (stride = 1 + index_t(roll(std::uint64_t(n))); std::gcd(stride, n) != 1;)
                    ++stride;
            first = index_t(roll(std::uint64_t(n)));
        }
        stride %= std::max<index_t>(n, 1);
        for (index_t count = 0, i = first; count < n; ++count) {
            f(i, i + 1, {});
            i = i >= n - stride ? i - (n - stride) : i + stride;
        }
    }

    void for_each_task(index_t n, semoe::detail::LoopRef task) {
        for (index_t i = 0; i < n; ++i) task(i, i + 1, any_scratch());
    }

    std::span<std::byte> any_scratch() { return scratch_[roll(scratch_.size())]; }
    void reserve_scratch(std::size_t bytes) {
        for (std::span<std::byte>& area : scratch_) {
            if (area.size() >= bytes) continue;
            std::byte* const larger = static_cast<std::byte*>(memory.allocate(bytes));
            std::memset(larger, fresh_pattern, bytes);
            memory.deallocate(area.data(), area.size());
            area = {larger, bytes};
        }
    }

    static constexpr int fresh_pattern = 0xA5, freed_pattern = 0xFF;
    cpu::Memory memory;

private:
    /// Steps are kept for reuse, so that a program that repeats itself allocates nothing.
    DelayedStep& take_step() {
        if (!free_) {
            steps_.push_back(std::make_unique<DelayedStep>());
            free_ = steps_.back().get();
        }
        DelayedStep& step = *std::exchange(free_, free_->next);
        step.next = nullptr;
        return step;
    }
    void append(DelayedLine& line, DelayedStep& step) {
        (line.tail ? line.tail->next : line.head) = &step;
        line.tail = &step;
        ++line.enqueued;
        if (seed_ != 0 && roll(4) == 0) run_any();
    }

    bool run_any() {
        auto const ready = std::uint64_t(
            std::count_if(lines_.begin(), lines_.end(), [](auto* line) { return line->ready(); }));
        if (ready == 0) return false;
        std::uint64_t chosen = roll(ready);
        for (DelayedLine* line : lines_)
            if (line->ready() && chosen-- == 0) {
                run(*line);
                return true;
            }
        return false;
    }
    static DelayedLine& blocker(DelayedLine& line) {
        DelayedLine* last = &line;
        while (!last->ready()) {
            expects(!last->running && last->head,
                    "DelayedBackend: work of a queue waits for the queue that runs it");
            last = last->head->after.line.get();
        }
        return *last;
    }
    static void run(DelayedLine& line) {
        DelayedStep* const step = line.head;
        line.running = true;
        std::exception_ptr error;
        try {
            step->task.run();
        } catch (...) {
            error = std::current_exception();
        }
        line.running = false;
        line.head = step->next;
        if (!line.head) line.tail = nullptr;
        ++line.done;
        if (error) line.failures.push_back({error, line.done});
        step->after = {};
        step->next = std::exchange(line.world->free_, step);
    }

    std::uint64_t seed_;
    std::mt19937_64 random_;
    std::vector<DelayedLine*> lines_;
    std::vector<std::unique_ptr<DelayedStep>> steps_;
    DelayedStep* free_ = nullptr;
    std::array<std::span<std::byte>, 3> scratch_;
};

/// A queue of a world; destroying it runs what it still holds.
class DelayedQueue {
public:
    explicit DelayedQueue(std::shared_ptr<DelayedWorld> in)
      : world(std::move(in))
      , line(std::make_shared<DelayedLine>()) {
        std::lock_guard lock(DelayedWorld::lock());
        line->world = world.get();
        world->enter(*line);
    }
    DelayedQueue(DelayedQueue const&) = delete;
    DelayedQueue& operator=(DelayedQueue const&) = delete;
    ~DelayedQueue() {
        std::lock_guard lock(DelayedWorld::lock());
        DelayedWorld::advance(*line, line->enqueued);
        world->leave(*line);
    }

    std::shared_ptr<DelayedWorld> world;
    std::shared_ptr<DelayedLine> line;
};

} // namespace detail

/// Host memory whose queues, the root too, put their work off until the host synchronises, and
/// then run it in a random order that queues and events allow. Who forgets a wait, frees early,
/// reuses a host buffer too early or depends on the order of indices gets wrong numbers, the same
/// ones for the same seed and one host thread. Fresh memory holds 0xA5, freed memory 0xFF.
///
/// Any number of host threads may use it: whoever waits runs everybody's ready work, under one
/// lock for the process. Functors must not block, nor wait for the queue that runs them.
struct DelayedBackend {
    using space = HostSpace;
    using event_type = detail::DelayedEvent;

    /// 0: everything is put off for as long as it can be; else some of it runs earlier.
    std::uint64_t seed = 0;
    CpuAllocator allocator = {};

    std::shared_ptr<detail::DelayedQueue> queue = std::make_shared<detail::DelayedQueue>(
        std::make_shared<detail::DelayedWorld>(seed, allocator));

    /// @throws backend_error naming the size
    void* allocate(std::size_t n) {
        void* const memory = world().memory.allocate(n);
        if (memory) std::memset(memory, detail::DelayedWorld::fresh_pattern, n);
        return memory;
    }
    void deallocate(void* p, std::size_t n) noexcept {
        if (p)
            enqueue([w = &world(), p, n] {
                std::memset(p, detail::DelayedWorld::freed_pattern, n);
                w->memory.deallocate(p, n);
            });
    }
    void copy(void* to, void const* from, std::size_t n) {
        if (n > 0) enqueue([to, from, n] { std::memcpy(to, from, n); });
    }

    event_type record() {
        std::lock_guard lock(detail::DelayedWorld::lock());
        return {queue->line, queue->line->enqueued};
    }
    void wait(event_type const& event) { wait(event, detail::DelayedLine::Tell::here); }
    /// As wait, but what the work before the event threw is told to others, too.
    void observe(event_type const& event) { wait(event, detail::DelayedLine::Tell::here_too); }
    /// As wait, but leaves what the work before the event threw to others.
    void follow(event_type const& event) { wait(event, detail::DelayedLine::Tell::elsewhere); }
    /// @throws what the queue's work threw, once
    void synchronize() {
        std::lock_guard lock(detail::DelayedWorld::lock());
        detail::DelayedWorld::advance(*queue->line, queue->line->enqueued);
        queue->line->report(queue->line->enqueued);
    }
    DelayedBackend fork() {
        DelayedBackend other = *this;
        other.queue = std::make_shared<detail::DelayedQueue>(queue->world);
        return other;
    }

    template <class F>
    void parallel_for(index_t n, F const& functor) {
        static_assert(std::invocable<F const&, index_t>,
                      "DelayedBackend: the functor of parallel_for needs "
                      "`void operator()(semoe::index_t i) const` (backend/concept.hpp)");
        check_size<F>();
        run(n, semoe::detail::LoopRef::over_indices(functor), functor,
            &detail::DelayedWorld::for_each_index);
    }
    template <class F>
    void parallel_tasks(index_t n, F const& task) {
        static_assert(std::invocable<F const&, index_t, std::span<std::byte>>,
                      "DelayedBackend: the task of parallel_tasks needs `void "
                      "operator()(semoe::index_t i, std::span<std::byte> scratch) const` "
                      "(backend/concept.hpp)");
        check_size<F>();
        run(n, semoe::detail::LoopRef::over_tasks(task), task,
            &detail::DelayedWorld::for_each_task);
    }
    void reserve_scratch(std::size_t bytes) {
        std::lock_guard lock(detail::DelayedWorld::lock());
        world().reserve_scratch(bytes);
    }

    int concurrency() const { return 1; }
    MemoryCounters counters() const { return queue->world->memory.counters(); }

private:
    using Run = void (detail::DelayedWorld::*)(index_t, semoe::detail::LoopRef);
    template <class F>
    void run(index_t n, semoe::detail::LoopRef loop, F const& functor, Run how) {
        if constexpr (std::is_trivially_copyable_v<F>)
            enqueue(n, semoe::detail::CopiedLoop(loop, sizeof(F)), how);
        else
            enqueue(
                [w = &world(), n, loop, functor, how] { (w->*how)(n, loop.over_copy(&functor)); });
    }
    void enqueue(index_t n, semoe::detail::CopiedLoop const& loop, Run how) {
        enqueue([loop, w = &world(), n, how] { (w->*how)(n, loop.ref()); });
    }
    void wait(event_type const& event, detail::DelayedLine::Tell tell) {
        if (!event.line) return;
        std::lock_guard lock(detail::DelayedWorld::lock());
        world().enqueue_wait(*queue->line, event, tell);
    }
    detail::DelayedWorld& world() const { return *queue->world; }
    template <class F>
    static constexpr void check_size() {
        static_assert(sizeof(F) <= max_functor_bytes,
                      "DelayedBackend: the functor is larger than max_functor_bytes; keep the data "
                      "in backend memory and let the functor hold a view of it "
                      "(backend/concept.hpp)");
    }
    template <class F>
    void enqueue(F&& f) {
        std::lock_guard lock(detail::DelayedWorld::lock());
        world().enqueue(*queue->line, std::forward<F>(f));
    }
};

static_assert(Backend<DelayedBackend> && HasWorkers<DelayedBackend> && HasObserve<DelayedBackend> &&
              HasFollow<DelayedBackend>);

} // namespace semoe::testing
