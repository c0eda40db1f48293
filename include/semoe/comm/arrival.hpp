#pragma once

#include "semoe/backend/concept.hpp"

#include <utility>

namespace semoe::comm {

/// The ticket of a movement whose completion is an event of the queue that carries it.
template <Backend B>
class [[nodiscard]] Arrival {
public:
    explicit Arrival(typename B::event_type done)
      : done_(std::move(done)) {}

    /// Work given to b afterwards finds the data there, and may reuse the buffer that was sent.
    /// @sync enqueues
    void wait(B& b) { b.wait(done_); }

private:
    typename B::event_type done_;
};

} // namespace semoe::comm
