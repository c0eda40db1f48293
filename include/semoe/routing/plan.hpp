#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/view.hpp"

namespace semoe {

/// Which rows go to which expert: slots are kept (token, choice) pairs in order of expert, then
/// token, then choice. All views are backend memory.
template <class B>
struct RoutingPlan {
    using space = space_of<B>;

    VectorView<index_t, space> tokens_per_expert; ///< [E]
    VectorView<index_t, space> expert_offsets;    ///< [E+1], exclusive prefix sums
    VectorView<index_t, space> token_of_slot;     ///< [T*K], the first S = expert_offsets[E] count
    MatrixView<index_t, space> slot_of;           ///< [T,K], -1 where the choice was dropped
};

} // namespace semoe
