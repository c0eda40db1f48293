#pragma once

#include "semoe/backend/simulated/machine.hpp"

#include <algorithm>
#include <mutex>

namespace semoe::simulated {

/// When the work before it is done; a default one always is.
struct Event {
    Time at{};
};

/// How far a queue has come: when the work that it has been given is done, and how much of the time
/// until then it worked.
struct Queue {
    Time done{}, busy{};
};

/// The time that the queues of a backend have in common, and the host's, which moves when it waits:
/// no work begins before the host gave it to its queue. Any thread may call.
class Clock {
public:
    enum class Engine { computes, copies };

    /// The queue works for so long, once it is done with what it has been given.
    void spend(Queue& queue, Engine engine, Time time, Engines engines) {
        std::lock_guard lock(mutex_);
        Time begin = std::max(queue.done, host_);
        Time& free = engine == Engine::computes ? computes_ : copies_;
        bool const takes_turns = engines == Engines::shared && time > Time{};
        if (takes_turns) begin = std::max(begin, free);
        queue.done = begin + time;
        queue.busy += time;
        if (takes_turns) free = queue.done;
        last_ = std::max(last_, queue.done);
    }
    void wait(Queue& queue, Event event) {
        std::lock_guard lock(mutex_);
        queue.done = std::max(queue.done, event.at);
    }
    void host_waits(Queue const& queue) {
        std::lock_guard lock(mutex_);
        host_ = std::max(host_, queue.done);
    }
    /// For all queues.
    Time host_waits() {
        std::lock_guard lock(mutex_);
        return host_ = std::max(host_, last_);
    }
    Queue read(Queue const& queue) const {
        std::lock_guard lock(mutex_);
        return queue;
    }
    Time last() const {
        std::lock_guard lock(mutex_);
        return last_;
    }

private:
    mutable std::mutex mutex_;
    Time host_{}, last_{}, computes_{}, copies_{};
};

} // namespace semoe::simulated
