#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/core/view.hpp"

namespace semoe {

/// What a gate may read. Only `logits` is always there; a gate names what else it needs.
/// @tparam Real  type of logits and weights: float, or double in a layer of doubles
template <class B, class Real = float>
struct RouteInput {
    using space = space_of<B>;

    MatrixView<Real const, space> logits; ///< [T,E], finite
    /// [T], 0 marks padding: such a token chooses nobody. Empty: every row is a token.
    VectorView<std::uint8_t const, space> mask;
    VectorView<std::int32_t const, space> token_ids; ///< [T] or empty
    RngKey rng;
    /// Global index of row 0, for random numbers. Where a gate sees the rows of several ranks at
    /// once, these are padded with masked ones to equal numbers: forward counts them from 0,
    /// without token_ids, and backward has one rank's rows and their index.
    index_t first_token = 0;
    bool training = false;
    Bytes<space> scratch; ///< gate.scratch_bytes(T) bytes, free to use within the call

    SEMOE_HD bool masked(index_t t) const { return !mask.empty() && mask[t] == 0; }
};

/// A gate's answer, in backend memory; K is slots_per_token(gate).
template <class B, class Real = float>
struct Assignment {
    using space = space_of<B>;

    MatrixView<expert_id, space> topk_ids; ///< [T,K], distinct in a row; -1 chooses nobody
    MatrixView<Real, space> topk_weights; ///< [T,K], final: normalised and scaled; 0 where id is -1
};

} // namespace semoe
