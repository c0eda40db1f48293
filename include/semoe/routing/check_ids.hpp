#pragma once

#include "semoe/routing/detail/first_row.hpp"

namespace semoe {

namespace detail {
template <class Space>
struct HasBadId {
    MatrixView<expert_id const, Space> ids;
    VectorView<std::uint8_t const, Space> mask;
    index_t num_experts;
    SEMOE_HD index_t operator()(index_t begin, index_t end) const {
        for (index_t t = begin; t < end; ++t)
            if ((mask.empty() || mask[t] != 0) && is_bad(t)) return t;
        return -1;
    }
    SEMOE_HD bool is_bad(index_t t) const {
        for (index_t k = 0; k < ids.cols; ++k) {
            expert_id const e = ids(t, k);
            if (e == dropped_expert) continue;
            if (e < 0 || e >= num_experts) return true;
            for (index_t j = 0; j < k; ++j)
                if (ids(t, j) == e) return true;
        }
        return false;
    }
};
} // namespace detail

/// Scratch that check_ids needs, never more for fewer tokens.
constexpr index_t check_ids_scratch_bytes(index_t num_tokens) {
    return detail::first_row_scratch_bytes(num_tokens);
}

/// Finds the first token whose choices no gate may make: an id that is neither -1 nor in [0,E), or
/// one expert twice. For ids that come from outside the library.
/// @param ids      [T,K], backend memory
/// @param status   [1], backend memory, overwritten: the token's row, -1 when all are in order
/// @param scratch  check_ids_scratch_bytes(T) bytes of backend memory
/// @param mask     [T] or empty; masked tokens may hold anything
/// @sync enqueues
/// @cost O(T*K*K); no allocation
template <Backend B>
void check_ids(B& b, MatrixView<expert_id const, space_of<B>> ids, index_t num_experts,
               VectorView<index_t, space_of<B>> status, Bytes<space_of<B>> scratch,
               VectorView<std::uint8_t const, space_of<B>> mask = {}) {
    expects(mask.empty() || mask.size == ids.rows, "check_ids: {} tokens, mask of {}", ids.rows,
            mask.size);
    detail::find_first_row("check_ids", b, ids.rows,
                           detail::HasBadId<space_of<B>>{ids, mask, num_experts}, status, scratch);
}

} // namespace semoe
