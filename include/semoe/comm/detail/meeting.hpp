#pragma once

#include "semoe/core/error.hpp"

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
    Meeting(int n, Fate& fate, std::chrono::milliseconds timeout)
      : fate_(fate)
      , timeout_(timeout)
      , seats_(std::size_t(n)) {}

    /// Enters a collective. `describe()` names it with its sizes; it is called only on failure.
    /// @throws comm_error when the world is or becomes broken before everybody has come
    template <class Describe>
    void enter(int rank, std::string_view operation, Describe const& describe) {
        meet(rank, operation, describe, true);
    }
    /// Ends a phase of a collective that everybody has entered. Those who entered touch one
    /// another's memory, so an error elsewhere releases nobody from this meeting.
    template <class Describe>
    void leave(int rank, std::string_view operation, Describe const& describe) {
        meet(rank, operation, describe, false);
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr int polls = 64;

    struct Seat {
        bool here = false;
        std::string_view last; // the operation it last came for
    };

    template <class Describe>
    void meet(int rank, std::string_view operation, Describe const& describe, bool entering) {
        std::unique_lock lock(fate_.mutex_);
        if (entering && fate_.broken()) throw comm_error(fate_.reason_);
        std::uint64_t const round = round_.load(std::memory_order_relaxed);
        Seat& seat = seats_[std::size_t(rank)];
        if (++arrived_ == seats_.size()) {
            seat.last = operation;
            for (Seat& s : seats_) s.here = false;
            arrived_ = 0;
            round_.store(round + 1, std::memory_order_release);
            fate_.changed_.notify_all();
            return;
        }
        seat = {true, operation};
        lock.unlock();

        auto const released = [&] {
            return round_.load(std::memory_order_acquire) != round || (entering && fate_.broken());
        };
        auto const deadline = Clock::now() + timeout_;
        for (int i = 0; i < polls && !released(); ++i) std::this_thread::yield();
        lock.lock();
        fate_.changed_.wait_until(lock, deadline, released);
        if (round_.load(std::memory_order_relaxed) != round) return;
        if (!fate_.broken()) fate_.break_locked(absence(rank, describe(), entering));
        if (entering) {
            seat.here = false;
            --arrived_;
        }
        throw comm_error(fate_.reason_);
    }

    std::string absence(int rank, std::string const& call, bool entering) const {
        std::string text = "comm::Threads: rank " + std::to_string(rank) + " of " +
                           std::to_string(seats_.size()) + " waited " +
                           std::to_string(timeout_.count()) + " ms in " + call +
                           (entering ? "; missing:" : "; still inside:");
        char const* separator = " ";
        for (std::size_t r = 0; r < seats_.size(); ++r) {
            if (seats_[r].here) continue;
            text += std::exchange(separator, ", ") + ("rank " + std::to_string(r));
            if (!entering) continue;
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
