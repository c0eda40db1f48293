#pragma once

#include "semoe/schedule/concept.hpp"

namespace semoe::schedule {

/// All tokens at once on one queue: dispatch, experts, combine.
struct Sequential {
    static constexpr index_t chunks = 1;

    /// @sync enqueues on stages.compute() alone
    template <class Stages>
    void run(Stages& stages) const {
        auto& queue = stages.compute();
        stages.dispatch(queue, 0);
        stages.experts(queue, 0);
        stages.combine(queue, 0);
    }
};
static_assert(Schedule<Sequential>);

} // namespace semoe::schedule
