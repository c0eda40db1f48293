#pragma once

#include "semoe/backend/cpu/allocator.hpp"
#include "semoe/backend/cpu/pool.hpp"
#include "semoe/backend/detail/loop.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace semoe::cpu {

namespace detail {

/// The exception of the lowest task that threw. Tasks are handed out in rising order, so which
/// one that is depends on the tasks alone and not on the threads.
class FirstError {
public:
    bool before(index_t task) const { return task_.load(std::memory_order_relaxed) < task; }
    void set(index_t task, std::exception_ptr error) {
        std::lock_guard lock(mutex_);
        if (task >= task_.load(std::memory_order_relaxed)) return;
        task_.store(task, std::memory_order_relaxed);
        error_ = std::move(error);
    }
    void rethrow() {
        if (error_) std::rethrow_exception(error_);
    }

private:
    std::atomic<index_t> task_{std::numeric_limits<index_t>::max()};
    std::mutex mutex_;
    std::exception_ptr error_;
};

} // namespace detail

/// The threads of a CpuBackend, whoever owns them, and a scratch area for each.
class Workers {
public:
    /// @param threads   0: one a processor of the process's affinity mask
    /// @param executor  null: threads of our own
    Workers(int threads, Executor* executor, CpuAllocator allocator, int inline_us)
      : executor_(executor)
      , inline_time_(std::chrono::microseconds(inline_us))
      , memory_(allocator) {
        expects(threads >= 0, "CpuBackend: threads is {}, must not be negative", threads);
        expects(!executor_ || executor_->concurrency() >= 1,
                "CpuBackend: the executor's concurrency() is {}, must be at least 1",
                executor_ ? executor_->concurrency() : 0);
        if (!executor_) pool_.emplace(threads > 0 ? threads : available_processors());
        lanes_.resize(std::size_t(executor_ ? executor_->concurrency() : pool_->lanes()));
    }
    Workers(Workers const&) = delete;
    Workers& operator=(Workers const&) = delete;
    ~Workers() {
        for (Lane const& lane : lanes_) {
            memory_.deallocate(lane.larger.data(), lane.larger.size());
            for (std::span<std::byte> area : lane.areas)
                memory_.deallocate(area.data(), area.size());
        }
    }

    Memory& memory() { return memory_; }
    int concurrency() const { return executor_ ? executor_->concurrency() : pool_->concurrency(); }

    /// Calls task(i, scratch) for i in [0, n), taken one by one in rising order, and returns when
    /// all are done. A call from inside a task runs on the same thread, with other scratch.
    /// @throws what the lowest throwing task threw; tasks above it may not have run
    // Not inlined, here and below: compilers would put all of it into every functor's parallel_for.
    SEMOE_NOINLINE void for_each_task(index_t n, semoe::detail::LoopRef task) {
        if (n <= 0) return;
        if (Inside const* const outer = inside()) {
            Inside const here(this, outer->lane, outer->depth + 1);
            task(0, n, nested_scratch(here));
            return;
        }
        detail::FirstError error;
        auto const guarded = [&](index_t i, int lane) noexcept {
            if (error.before(i)) return;
            try {
                Inside const here(this, lane, 0);
                task(i, i + 1, scratch(lanes_[std::size_t(lane)]));
            } catch (...) {
                error.set(i, std::current_exception());
            }
        };
        if (pool_) {
            pool_->run(n, TaskRef(guarded));
        } else {
            std::lock_guard lock(executor_mutex_);
            executor_->run(n, TaskRef(guarded));
        }
        error.rethrow();
    }

    /// Calls f(i) for i in [0, n). The calling thread starts alone, and others join once the loop
    /// has proved long enough to be worth waking them. Results cannot depend on it.
    SEMOE_NOINLINE void for_each_index(index_t n, semoe::detail::LoopRef f) {
        using clock = std::chrono::steady_clock;
        if (n <= 1 || concurrency() == 1 || inside()) return f(0, n, {});
        index_t first = 0;
        if (inline_time_.count() > 0) {
            clock::time_point const start = clock::now();
            for (index_t batch = 1;; batch *= 2) {
                index_t const end = std::min(n, first + batch);
                f(first, end, {});
                first = end;
                if (first >= n) return;
                if (clock::now() - start > inline_time_) break;
            }
        }
        index_t const rest = n - first;
        index_t const chunk = std::max<index_t>(1, rest / (8 * index_t(concurrency())));
        auto const run_chunk = [&](index_t c, std::span<std::byte>) {
            index_t const begin = first + c * chunk;
            f(begin, std::min(n, begin + chunk), {});
        };
        for_each_task((rest + chunk - 1) / chunk, semoe::detail::LoopRef::over_tasks(run_chunk));
    }

    /// Gives every worker at least `bytes` of scratch for tasks that begin later. Waits for none:
    /// one that runs may itself be waiting for another to begin.
    void reserve_scratch(std::size_t bytes) {
        expects(!inside(), "CpuBackend: reserve_scratch is called from inside a task");
        std::lock_guard lock(scratch_mutex_);
        if (bytes <= reserved_.load(std::memory_order_relaxed)) return;
        for (Lane& lane : lanes_)
            if (lane.larger.size() < bytes) resize(lane.larger, bytes);
        reserved_.store(bytes, std::memory_order_release);
    }

private:
    static constexpr std::size_t max_depth = 4;

    /// A worker's scratch; calls from inside a task have areas of their own, made on first use.
    struct alignas(64) Lane {
        std::array<std::span<std::byte>, max_depth> areas;
        std::span<std::byte> larger; ///< takes the place of the first when a task begins
    };

    /// Marks that the current thread runs a task of some Workers.
    struct Inside {
        Workers const* workers;
        int lane;
        std::size_t depth;
        Inside const* outer;

        Inside(Workers const* w, int l, std::size_t d)
          : workers(w)
          , lane(l)
          , depth(d)
          , outer(std::exchange(innermost(), this)) {}
        Inside(Inside const&) = delete;
        Inside& operator=(Inside const&) = delete;
        ~Inside() { innermost() = outer; }

        static Inside const*& innermost() {
            static thread_local Inside const* top = nullptr;
            return top;
        }
    };
    Inside const* inside() const {
        Inside const* place = Inside::innermost();
        while (place && place->workers != this) place = place->outer;
        return place;
    }

    void resize(std::span<std::byte>& area, std::size_t bytes) {
        void* const memory = memory_.allocate(bytes);
        memory_.deallocate(area.data(), area.size());
        area = {static_cast<std::byte*>(memory), bytes};
    }
    /// For a task that begins: it has the lane to itself.
    std::span<std::byte> scratch(Lane& lane) {
        if (lane.areas[0].size() < reserved_.load(std::memory_order_acquire)) {
            std::lock_guard lock(scratch_mutex_);
            memory_.deallocate(lane.areas[0].data(), lane.areas[0].size());
            lane.areas[0] = std::exchange(lane.larger, {});
        }
        return lane.areas[0];
    }
    std::span<std::byte> nested_scratch(Inside const& here) {
        expects(here.depth < max_depth, "CpuBackend: parallel_tasks is nested more than 4 deep");
        std::span<std::byte>& area = lanes_[std::size_t(here.lane)].areas[here.depth];
        std::size_t const reserved = reserved_.load(std::memory_order_acquire);
        if (area.size() < reserved) resize(area, reserved);
        return area;
    }

    Executor* executor_;
    std::chrono::microseconds inline_time_;
    Memory memory_;
    std::vector<Lane> lanes_;
    std::mutex scratch_mutex_;             ///< guards what lanes take over
    std::atomic<std::size_t> reserved_{0}; ///< every lane has as much, or has it to take over
    std::mutex executor_mutex_;
    std::optional<Pool> pool_; ///< last: its threads end before anything else goes
};

} // namespace semoe::cpu
