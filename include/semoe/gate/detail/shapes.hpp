#pragma once

#include "semoe/core/error.hpp"
#include "semoe/routing/assignment.hpp"

namespace semoe::gate::detail {

/// @throws precondition_error naming the gate and the shapes that do not fit
template <class B, class Real>
void expects_shapes(char const* gate, RouteInput<B, Real> const& input,
                    Assignment<B, Real> const& out, index_t num_experts, index_t slots) {
    index_t const T = input.logits.rows;
    expects(input.logits.cols == num_experts, "{}: logits are {}, num_experts is {}", gate,
            input.logits, num_experts);
    expects(out.topk_ids.rows == T && out.topk_ids.cols == slots && out.topk_weights.rows == T &&
                out.topk_weights.cols == slots,
            "{}: for {} tokens of {} choices topk_ids are {}, topk_weights {}", gate, T, slots,
            out.topk_ids, out.topk_weights);
    expects(input.mask.empty() || input.mask.size == T, "{}: mask of {} for {} tokens", gate,
            input.mask.size, T);
}
/// As above, for backward.
template <class B, class Real>
void expects_shapes(char const* gate, RouteInput<B, Real> const& input,
                    Assignment<B, Real> const& chosen,
                    MatrixView<Real const, space_of<B>> d_weights,
                    MatrixView<Real, space_of<B>> d_logits, index_t num_experts, index_t slots) {
    expects_shapes(gate, input, chosen, num_experts, slots);
    expects(d_weights.rows == input.logits.rows && d_weights.cols == slots &&
                d_logits.rows == input.logits.rows && d_logits.cols == num_experts,
            "{}: logits are {}, d_weights {}, d_logits {}", gate, input.logits, d_weights,
            d_logits);
}

} // namespace semoe::gate::detail
