#pragma once

#include "semoe/core/types.hpp"

#include <concepts>

namespace semoe {

namespace detail {
/// The least object a schedule must be able to order.
struct StagesArchetype {
    struct queue_type {
        struct event_type {};
        event_type record() { return {}; }
        void wait(event_type) {}
    };
    queue_type& compute();
    queue_type& wire();
    void dispatch(queue_type&, index_t);
    void experts(queue_type&, index_t);
    void combine(queue_type&, index_t);
};
} // namespace detail

/// The order of a layer's stages. `run(stages)` calls dispatch(queue, c), experts(queue, c) and
/// combine(queue, c) for every chunk c in [0, chunks) on the queues compute() and wire(), and
/// inserts the waits between them. Chunks may come in any order, but never two at a time in one
/// kind of stage: experts share their scratch memory, and dispatch and combine what rows are staged
/// in, so those of all chunks go to one queue each, or wait for one another. Backward runs the same
/// schedule: its dispatch is the backward of combine and the other way round. On return everything
/// has been enqueued and compute() waits for all of it.
template <class S>
concept Schedule = std::copyable<S> && requires(S const& s, detail::StagesArchetype& stages) {
    { s.chunks } -> std::convertible_to<index_t>;
    s.run(stages);
};

} // namespace semoe
