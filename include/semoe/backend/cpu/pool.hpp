#pragma once

#include "semoe/backend/cpu/executor.hpp"
#include "semoe/core/config.hpp"
#include "semoe/core/error.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <sched.h>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace semoe::cpu {

/// Processors that this process may run on, by its affinity mask.
inline int available_processors() {
    for (std::size_t processors = CPU_SETSIZE; processors <= (1u << 20); processors *= 2) {
        cpu_set_t* const set = CPU_ALLOC(processors);
        if (!set) break;
        std::size_t const bytes = CPU_ALLOC_SIZE(processors);
        int const count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    unsigned const count = std::thread::hardware_concurrency();
    return count > 0 ? int(count) : 1;
}

namespace detail {

inline void relax() {
#if SEMOE_X86
    __builtin_ia32_pause();
#elif SEMOE_ARM
    __asm__ volatile("isb"); // takes about as long as x86's pause; yield takes no time at all
#endif
}

/// Returns when `word` is no longer `old`: spins for a moment, since work mostly comes back to
/// back, then offers the core to others, then sleeps. Whoever changes the word notifies it.
inline void wait_while(std::atomic<std::uint32_t> const& word, std::uint32_t old) {
    for (int i = 0; i < 2000; ++i) {
        if (word.load(std::memory_order_acquire) != old) return;
        relax();
    }
    for (int i = 0; i < 64; ++i) {
        if (word.load(std::memory_order_acquire) != old) return;
        std::this_thread::yield();
    }
    word.wait(old, std::memory_order_acquire);
}

} // namespace detail

/// Threads that share the tasks of several concurrent submitters. A submitter works on its own
/// tasks; idle threads join whichever job still has some. Nothing is allocated by a submission.
class Pool {
public:
    /// Jobs that may run at once; further submitters wait for one to end.
    static constexpr int max_submitters = 16;

    /// @param threads  how many threads work on one job, the submitter included
    /// @throws backend_error when the system has no more threads
    explicit Pool(int threads)
      : num_workers_(threads - 1) {
        threads_.reserve(std::size_t(num_workers_));
        try {
            for (int i = 0; i < num_workers_; ++i) threads_.emplace_back([this, i] { work(i); });
        } catch (std::system_error const& error) {
            std::string const text = message("CpuBackend: thread {} of {} cannot be started: {}",
                                             threads_.size() + 1, num_workers_, error.what());
            stop();
            throw backend_error(text);
        }
    }
    Pool(Pool const&) = delete;
    Pool& operator=(Pool const&) = delete;
    ~Pool() { stop(); }

    int concurrency() const { return num_workers_ + 1; }
    /// Worker numbers that tasks see lie in [0, lanes()): the threads, then the submitters.
    int lanes() const { return num_workers_ + max_submitters; }

    /// Runs task(i, lane) for i in [0, n), handed out one by one in rising order, and returns when
    /// all are done. No two calls that overlap in time have the same lane. Any number of threads
    /// may call this at once, but not a task of this pool.
    void run(index_t n, TaskRef task) {
        int const number = acquire_job();
        Job& job = jobs_[std::size_t(number)];
        job.task = task;
        job.size.store(n, std::memory_order_relaxed);
        job.next.store(0, std::memory_order_relaxed);
        if (n > 1 && num_workers_ > 0) {
            job.state.store(open, std::memory_order_release);
            wake(n - 1);
        }
        drain(job, num_workers_ + number);
        // Once closed nobody joins; whoever is inside still has a task in hand.
        std::uint32_t state = job.state.fetch_and(~open, std::memory_order_acq_rel) & ~open;
        while (state != 0) {
            detail::wait_while(job.state, state);
            state = job.state.load(std::memory_order_acquire);
        }
        release_job(job);
    }

private:
    static constexpr std::uint32_t open = 1u << 31;

    struct alignas(64) Job {
        std::atomic<bool> taken{false};
        /// `open` while workers may join, plus the number of workers inside.
        std::atomic<std::uint32_t> state{0};
        std::atomic<index_t> size{0};
        TaskRef task; ///< read only by those inside
        alignas(64) std::atomic<index_t> next{0};
    };

    static void drain(Job& job, int lane) {
        index_t const n = job.size.load(std::memory_order_relaxed);
        for (index_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < n;)
            job.task(i, lane);
    }

    /// Joins the job if it has tasks left. A job is looked at only from inside, because from
    /// outside it may become another job at any time.
    static bool help(Job& job, int lane) {
        std::uint32_t state = job.state.load(std::memory_order_relaxed);
        do {
            if (!(state & open) || job.next.load(std::memory_order_relaxed) >=
                                       job.size.load(std::memory_order_relaxed))
                return false;
        } while (!job.state.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                                  std::memory_order_relaxed));
        drain(job, lane);
        if (job.state.fetch_sub(1, std::memory_order_acq_rel) == 1) job.state.notify_all();
        return true;
    }

    void work(int lane) {
        for (;;) {
            std::uint32_t const seen = submissions_.load(std::memory_order_acquire);
            if (stopping_.load(std::memory_order_relaxed)) return;
            bool helped = false;
            for (int i = 0; i < max_submitters; ++i)
                helped |= help(jobs_[std::size_t((lane + i) % max_submitters)], lane);
            if (!helped) detail::wait_while(submissions_, seen);
        }
    }

    void wake(index_t wanted) {
        submissions_.fetch_add(1, std::memory_order_release);
        if (wanted >= num_workers_)
            submissions_.notify_all();
        else
            for (index_t i = 0; i < wanted; ++i) submissions_.notify_one();
    }

    int acquire_job() {
        for (;;) {
            std::uint32_t const seen = releases_.load(std::memory_order_acquire);
            for (int i = 0; i < max_submitters; ++i) {
                Job& job = jobs_[std::size_t(i)];
                if (!job.taken.load(std::memory_order_relaxed) &&
                    !job.taken.exchange(true, std::memory_order_acquire))
                    return i;
            }
            detail::wait_while(releases_, seen);
        }
    }
    void release_job(Job& job) {
        job.taken.store(false, std::memory_order_release);
        releases_.fetch_add(1, std::memory_order_release);
        releases_.notify_one();
    }

    void stop() {
        stopping_.store(true, std::memory_order_relaxed);
        submissions_.fetch_add(1, std::memory_order_release);
        submissions_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    int num_workers_;
    std::array<Job, std::size_t(max_submitters)> jobs_;
    alignas(64) std::atomic<std::uint32_t> submissions_{0};
    alignas(64) std::atomic<std::uint32_t> releases_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
};

} // namespace semoe::cpu
