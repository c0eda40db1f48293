#pragma once

#include "semoe/core/error.hpp"
#include "semoe/schedule/concept.hpp"

namespace semoe::schedule {

/// Splits the tokens into chunks, so that the messages of one chunk travel on the wire queue
/// while the experts compute another (the pipelining of Tutel and FasterMoE).
struct Chunked {
    static constexpr index_t max_chunks = 64;

    index_t chunks = 2;

    /// @throws precondition_error unless 1 <= chunks <= max_chunks
    void validate() const {
        expects(chunks >= 1 && chunks <= max_chunks,
                "schedule::Chunked: chunks is {}, must lie in [1, {}]", chunks, max_chunks);
    }

    /// @sync enqueues on both queues; on return compute() waits for all of it
    template <class Stages>
    void run(Stages& stages) const {
        auto& compute = stages.compute();
        auto& wire = stages.wire();
        wire.wait(compute.record());
        stages.dispatch(wire, 0);
        auto arrived = wire.record();
        for (index_t c = 0; c < chunks; ++c) {
            auto const here = arrived;
            if (c + 1 < chunks) {
                stages.dispatch(wire, c + 1);
                arrived = wire.record();
            }
            compute.wait(here);
            stages.experts(compute, c);
            wire.wait(compute.record());
            stages.combine(wire, c);
        }
        compute.wait(wire.record());
    }
};
static_assert(Schedule<Chunked>);

} // namespace semoe::schedule
