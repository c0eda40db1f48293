#pragma once

#include "semoe/core/error.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace semoe::comm::detail {

/// What ties a world of thread ranks to those split from it: the first error breaks them all, so
/// that nobody waits for a rank that has failed elsewhere.
class Fate {
public:
    bool broken() const { return broken_.load(std::memory_order_acquire); }
    void break_with(std::string reason) {
        std::lock_guard const lock(mutex_);
        break_locked(std::move(reason));
    }
    std::string reason() const {
        std::lock_guard const lock(mutex_);
        return reason_;
    }

private:
    friend class Meeting;
    void break_locked(std::string reason) {
        if (broken()) return;
        reason_ = std::move(reason);
        broken_.store(true, std::memory_order_release);
        changed_.notify_all();
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::string reason_;
    std::atomic<bool> broken_{false};
};

/// A barrier of n threads with a deadline. Whether a rank enters a collective is decided for all
/// at once: either everybody comes, or everybody who came is told why not.
class Meeting {
public:
    /// @param timeout  taken for a year where it is longer, so that it can be added to a time
    Meeting(int n, Fate& fate, std::chrono::milliseconds timeout)
      : fate_(fate)
      , timeout_(std::min<std::chrono::milliseconds>(timeout, std::chrono::hours(24 * 365)))
      , seats_(std::size_t(n)) {}

    /// Enters a collective. `describe()` names it with its sizes; it is called only on failure.
    /// @throws comm_error when the world is or becomes broken before everybody has come
    template <class Describe>
    void enter(int rank, std::string_view operation, Describe const& describe) {
        std::unique_lock lock(fate_.mutex_);
        if (fate_.broken()) throw comm_error(fate_.reason_);
        std::uint64_t const round = round_.load(std::memory_order_relaxed);
        if (!arrive(rank, operation)) return;
        auto const deadline = Clock::now() + timeout_;
        auto const released = [&] { return passed(round) || fate_.broken(); };
        poll(lock, released);
        fate_.changed_.wait_until(lock, deadline, released);
        if (passed(round)) return;
        if (!fate_.broken()) fate_.break_locked(absence(rank, describe()));
        seats_[std::size_t(rank)].here = false;
        --arrived_;
        throw comm_error(fate_.reason_);
    }
    /// Ends a phase of a collective that everybody has entered. Those who entered touch one
    /// another's memory, so neither an error elsewhere nor time releases anybody from this meeting.
    void leave(int rank, std::string_view operation) {
        std::unique_lock lock(fate_.mutex_);
        std::uint64_t const round = round_.load(std::memory_order_relaxed);
        if (!arrive(rank, operation)) return;
        auto const released = [&] { return passed(round); };
        poll(lock, released);
        fate_.changed_.wait(lock, released);
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr int polls = 64;

    struct Seat {
        bool here = false;
        std::string_view last; // the operation it last came for
    };

    bool passed(std::uint64_t round) const {
        return round_.load(std::memory_order_acquire) != round;
    }
    /// Takes a seat. @return whether others are missing; the last to come releases them
    bool arrive(int rank, std::string_view operation) {
        Seat& seat = seats_[std::size_t(rank)];
        seat = {true, operation};
        if (++arrived_ < seats_.size()) return true;
        for (Seat& s : seats_) s.here = false;
        arrived_ = 0;
        round_.fetch_add(1, std::memory_order_release);
        fate_.changed_.notify_all();
        return false;
    }
    /// Looks a few times before a thread sleeps.
    template <class Released>
    static void poll(std::unique_lock<std::mutex>& lock, Released const& released) {
        lock.unlock();
        for (int i = 0; i < polls && !released(); ++i) std::this_thread::yield();
        lock.lock();
    }

    std::string absence(int rank, std::string const& call) const {
        std::string text = "comm::Threads: rank " + std::to_string(rank) + " of " +
                           std::to_string(seats_.size()) + " waited " +
                           std::to_string(timeout_.count()) + " ms in " + call + "; missing:";
        char const* separator = " ";
        for (std::size_t r = 0; r < seats_.size(); ++r) {
            if (seats_[r].here) continue;
            text += std::exchange(separator, ", ") + ("rank " + std::to_string(r));
            std::string_view const last = seats_[r].last;
            text += last.empty() ? " (never came)" : " (last came for " + std::string(last) + ")";
        }
        return text;
    }

    Fate& fate_;
    std::chrono::milliseconds timeout_;
    std::vector<Seat> seats_;
    std::size_t arrived_ = 0;
    std::atomic<std::uint64_t> round_{0};
};

} // namespace semoe::comm::detail
