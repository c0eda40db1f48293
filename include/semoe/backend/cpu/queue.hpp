#pragma once

#include "semoe/backend/detail/task.hpp"
#include "semoe/core/error.hpp"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace semoe::cpu {

namespace detail {

/// What a queue, its thread and its events share: a ring of tasks, and how far it has come.
class QueueState {
public:
    static constexpr std::uint64_t capacity = 256;

    QueueState() { failures_.reserve(64); }

    /// Waits on the host while the ring is full. Only the queue's own thread makes room, so what
    /// its tasks enqueue, or buffers that they free, goes to memory of its own then.
    template <class F>
    void enqueue(F&& f) {
        {
            std::unique_lock lock(mutex_);
            auto const full = [&] {
                return !overflow_.empty() || enqueued_ - done_ >= ring_.size();
            };
            if (std::this_thread::get_id() != thread_)
                progress_.wait(lock, [&] { return !full(); });
            bool const is_over = full();
            semoe::detail::Task& task =
                is_over ? overflow_.emplace_back() : ring_[std::size_t(enqueued_ % ring_.size())];
            try {
                task.set(std::forward<F>(f));
            } catch (...) { // of a functor's copy
                if (is_over) overflow_.pop_back();
                throw;
            }
            ++enqueued_;
        }
        work_.notify_one();
    }
    std::uint64_t enqueued() const {
        std::lock_guard lock(mutex_);
        return enqueued_;
    }
    bool reached(std::uint64_t ticket) const {
        std::lock_guard lock(mutex_);
        return done_ >= ticket;
    }
    /// Waits until the first `ticket` tasks are done; throws what the first of them threw that
    /// threw anything and was not reported. Those before the ticket are reported by that, too.
    void wait(std::uint64_t ticket) {
        std::unique_lock lock(mutex_);
        come_to(ticket, lock);
        auto const later = std::find_if(failures_.begin(), failures_.end(),
                                        [&](Failure const& f) { return f.task > ticket; });
        if (later == failures_.begin()) return;
        std::exception_ptr const error = failures_.front().error;
        failures_.erase(failures_.begin(), later);
        std::rethrow_exception(error);
    }
    /// As wait, but whoever waits later is told, too.
    void observe(std::uint64_t ticket) {
        std::unique_lock lock(mutex_);
        come_to(ticket, lock);
        if (!failures_.empty() && failures_.front().task <= ticket)
            std::rethrow_exception(failures_.front().error);
    }
    /// As wait, but reports nothing.
    void follow(std::uint64_t ticket) {
        std::unique_lock lock(mutex_);
        come_to(ticket, lock);
    }

    /// The queue's thread: runs tasks until it is told to stop and none is left.
    void run() {
        std::unique_lock lock(mutex_);
        thread_ = std::this_thread::get_id();
        for (;;) {
            work_.wait(lock, [&] { return enqueued_ > done_ || stopping_; });
            if (enqueued_ == done_) return;
            bool const is_over = enqueued_ - done_ == overflow_.size();
            semoe::detail::Task& task =
                is_over ? overflow_.front() : ring_[std::size_t(done_ % ring_.size())];
            lock.unlock();
            std::exception_ptr error;
            try {
                task.run();
            } catch (...) {
                error = std::current_exception();
            }
            lock.lock();
            if (is_over) overflow_.pop_front();
            ++done_;
            if (error) keep(std::move(error));
            progress_.notify_all();
        }
    }
    void stop() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        work_.notify_one();
    }

private:
    void come_to(std::uint64_t ticket, std::unique_lock<std::mutex>& lock) {
        expects(done_ >= ticket || std::this_thread::get_id() != thread_,
                "CpuBackend: work of a queue waits for the queue that runs it");
        progress_.wait(lock, [&] { return done_ >= ticket; });
    }

    void keep(std::exception_ptr error) noexcept {
        try {
            failures_.push_back({done_, std::move(error)});
        } catch (std::bad_alloc const&) { // those before it are told all the same
        }
    }

    struct Failure {
        std::uint64_t task; ///< counted from 1
        std::exception_ptr error;
    };

    mutable std::mutex mutex_;
    std::condition_variable work_, progress_;
    std::uint64_t enqueued_ = 0, done_ = 0;
    bool stopping_ = false;
    std::thread::id thread_;
    std::vector<Failure> failures_; ///< that nobody waited for, rising
    std::array<semoe::detail::Task, std::size_t(capacity)> ring_;
    std::deque<semoe::detail::Task> overflow_; ///< behind the ring's
};

} // namespace detail

/// A point in a queue's order. Small, copyable, made without allocating; it may outlive its queue.
/// A default event is done.
class Event {
public:
    Event() = default;
    Event(std::shared_ptr<detail::QueueState> queue, std::uint64_t ticket)
      : queue_(std::move(queue))
      , ticket_(ticket) {}

    /// The calling thread waits. Throws what the work before the event threw, once.
    void wait() const {
        if (queue_) queue_->wait(ticket_);
    }
    /// As wait, but others are told, too.
    void observe() const {
        if (queue_) queue_->observe(ticket_);
    }
    /// The calling thread waits. What the work before the event threw is left to others.
    void follow() const {
        if (queue_) queue_->follow(ticket_);
    }
    bool reached() const { return !queue_ || queue_->reached(ticket_); }

private:
    std::shared_ptr<detail::QueueState> queue_;
    std::uint64_t ticket_ = 0;
};

/// A thread that runs tasks in the order in which they are enqueued. An exception stays with the
/// queue until somebody waits for the task that threw it; later tasks run all the same, so that
/// memory they free is freed. Any number of threads may enqueue.
class Queue {
public:
    /// @throws backend_error when the system has no more threads
    Queue()
      : state_(std::make_shared<detail::QueueState>()) {
        try {
            thread_ = std::thread([state = state_] { state->run(); });
        } catch (std::system_error const& error) {
            throw backend_error(
                message("CpuBackend: a queue's thread cannot be started: {}", error.what()));
        }
    }
    Queue(Queue const&) = delete;
    Queue& operator=(Queue const&) = delete;
    /// Waits until the queue is empty. An error that nobody waited for is lost.
    ~Queue() {
        state_->stop();
        // The last handle may have been held by a task of this very queue.
        if (thread_.get_id() == std::this_thread::get_id())
            thread_.detach();
        else
            thread_.join();
    }

    /// Copies the task into a fixed slot; the host waits when all are taken.
    template <class F>
    void enqueue(F&& f) {
        state_->enqueue(std::forward<F>(f));
    }
    /// Marks the tasks enqueued so far.
    Event record() const { return {state_, state_->enqueued()}; }
    /// Tasks enqueued later start after the event.
    void wait(Event event) {
        enqueue([event = std::move(event)] { event.wait(); });
    }
    void observe(Event event) {
        enqueue([event = std::move(event)] { event.observe(); });
    }
    void follow(Event event) {
        enqueue([event = std::move(event)] { event.follow(); });
    }
    void synchronize() { state_->wait(state_->enqueued()); }

private:
    std::shared_ptr<detail::QueueState> state_;
    std::thread thread_;
};

} // namespace semoe::cpu
