#pragma once

#include "semoe/ops/vectorised.hpp"
#include "semoe/routing/detail/first_row.hpp"

#include <type_traits>

namespace semoe {

namespace detail {
template <class Real, class Space>
struct FirstBadLogit {
    MatrixView<Real const, Space> logits;
    VectorView<std::uint8_t const, Space> mask;
    index_t begin, end;

    SEMOE_HD SEMOE_INLINE index_t operator()() const {
        for (index_t t = begin; t < end; ++t)
            if (is_bad(t)) return t;
        return -1;
    }
    /// x - x is zero for a finite x alone, and so is a sum of such.
    SEMOE_HD SEMOE_INLINE bool is_bad(index_t t) const {
        if (!mask.empty() && mask[t] == 0) return false;
        constexpr index_t lanes = 16;
        Real const* const z = logits.row(t);
        Real zeros[lanes] = {}, sum = 0;
        index_t e = 0;
        for (; e + lanes <= logits.cols; e += lanes)
            for (index_t j = 0; j < lanes; ++j) zeros[j] += z[e + j] - z[e + j];
        for (; e < logits.cols; ++e) sum += z[e] - z[e];
        for (index_t j = 0; j < lanes; ++j) sum += zeros[j];
        return !(sum == Real(0));
    }
};
template <class Real, class Space>
struct HasBadLogit {
    MatrixView<Real const, Space> logits;
    VectorView<std::uint8_t const, Space> mask;
    SEMOE_HD index_t operator()(index_t begin, index_t end) const {
        return ops::vectorised(FirstBadLogit<Real, Space>{logits, mask, begin, end});
    }
};
} // namespace detail

/// Scratch that check_logits needs, never more for fewer tokens.
constexpr index_t check_logits_scratch_bytes(index_t num_tokens) {
    return detail::first_row_scratch_bytes(num_tokens);
}

/// Finds the first token with a logit that is not finite. Only the data show it, so it is no
/// exception but a status word, which the layer reads together with the counts.
/// @param logits   [T,E], backend memory
/// @param mask     [T] or empty; masked tokens may hold anything
/// @param status   [1], backend memory, overwritten: the token's row, -1 when all are finite
/// @param scratch  check_logits_scratch_bytes(T) bytes of backend memory
/// @sync enqueues
/// @cost reads the logits once; no allocation
template <Backend B, class Real>
void check_logits(B& b, MatrixView<Real, space_of<B>> logits,
                  VectorView<std::uint8_t const, space_of<B>> mask,
                  VectorView<index_t, space_of<B>> status, Bytes<space_of<B>> scratch) {
    using R = std::remove_const_t<Real>;
    expects(mask.empty() || mask.size == logits.rows, "check_logits: {} tokens, mask of {}",
            logits.rows, mask.size);
    detail::find_first_row("check_logits", b, logits.rows,
                           detail::HasBadLogit<R, space_of<B>>{logits, mask}, status, scratch);
}

} // namespace semoe
