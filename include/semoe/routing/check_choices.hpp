#pragma once

#include "semoe/routing/detail/first_row.hpp"

namespace semoe {

/// What tokens that a mask leaves out may have chosen.
enum class Masked { anything, nobody };

namespace detail {
/// Twice the first token that is wrong, one more where it is a weight that is.
template <class Real, class Space>
struct FirstBadChoice {
    MatrixView<expert_id const, Space> ids;
    MatrixView<Real const, Space> weights;
    VectorView<std::uint8_t const, Space> mask;
    Masked masked;
    index_t num_experts;
    SEMOE_HD index_t operator()(index_t begin, index_t end) const {
        for (index_t t = begin; t < end; ++t) {
            if (!mask.empty() && mask[t] == 0) {
                if (masked == Masked::nobody && has_chosen(t)) return 2 * t;
                continue;
            }
            if (has_bad_id(t)) return 2 * t;
            if (has_bad_weight(t)) return 2 * t + 1;
        }
        return -1;
    }
    SEMOE_HD bool has_chosen(index_t t) const {
        for (index_t k = 0; k < ids.cols; ++k)
            if (ids(t, k) != dropped_expert) return true;
        return false;
    }
    SEMOE_HD bool has_bad_id(index_t t) const {
        for (index_t k = 0; k < ids.cols; ++k) {
            expert_id const e = ids(t, k);
            if (e == dropped_expert) continue;
            if (e < 0 || e >= num_experts) return true;
            for (index_t j = 0; j < k; ++j)
                if (ids(t, j) == e) return true;
        }
        return false;
    }
    /// x - x is zero for a finite x alone.
    SEMOE_HD bool has_bad_weight(index_t t) const {
        for (index_t k = 0; k < ids.cols; ++k)
            if (ids(t, k) != dropped_expert && !(weights(t, k) - weights(t, k) == Real(0)))
                return true;
        return false;
    }
};
} // namespace detail

/// Scratch that check_choices needs, never more for fewer tokens.
constexpr index_t check_choices_scratch_bytes(index_t num_tokens) {
    return detail::first_row_scratch_bytes(num_tokens);
}

/// Finds the first token whose choices no gate may make: an id that is neither -1 nor in [0,E), one
/// expert twice, or a weight that is not finite. For what comes from outside the library.
/// @param ids      [T,K], backend memory
/// @param weights  [T,K], backend memory; may be anything where the id is -1
/// @param status   [1], backend memory, overwritten: -1 when all are in order, else twice the
///                 token's row, one more where its ids are in order and a weight is not finite
/// @param scratch  check_choices_scratch_bytes(T) bytes of backend memory
/// @param mask     [T] or empty
/// @param masked   what its masked tokens may hold
/// @sync enqueues
/// @cost O(T*K*K); no allocation
template <Backend B, class Real>
void check_choices(B& b, MatrixView<expert_id const, space_of<B>> ids,
                   MatrixView<Real const, space_of<B>> weights, index_t num_experts,
                   VectorView<index_t, space_of<B>> status, Bytes<space_of<B>> scratch,
                   VectorView<std::uint8_t const, space_of<B>> mask = {},
                   Masked masked = Masked::anything) {
    expects(weights.rows == ids.rows && weights.cols == ids.cols,
            "check_choices: ids are {}, weights {}", ids, weights);
    expects(mask.empty() || mask.size == ids.rows, "check_choices: {} tokens, mask of {}", ids.rows,
            mask.size);
    detail::find_first_row(
        "check_choices", b, ids.rows,
        detail::FirstBadChoice<Real, space_of<B>>{ids, weights, mask, masked, num_experts}, status,
        scratch);
}

} // namespace semoe
