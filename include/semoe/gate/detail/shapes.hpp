#pragma once

#include "semoe/core/error.hpp"
#include "semoe/routing/assignment.hpp"

#include <string>

namespace semoe::gate::detail {

template <class View>
std::string shape_text(View const& m) {
    return "[" + std::to_string(m.rows) + "," + std::to_string(m.cols) + "]";
}

/// @throws precondition_error naming the gate and the shapes that do not fit
template <class B, class Real>
void expects_shapes(char const* gate, RouteInput<B, Real> const& input,
                    Assignment<B, Real> const& out, index_t num_experts, index_t slots) {
    index_t const T = input.logits.rows;
    expects(input.logits.cols == num_experts, [&] {
        return std::string(gate) + ": logits are " + shape_text(input.logits) +
               ", num_experts is " + std::to_string(num_experts);
    });
    expects(out.topk_ids.rows == T && out.topk_ids.cols == slots && out.topk_weights.rows == T &&
                out.topk_weights.cols == slots,
            [&] {
                return std::string(gate) + ": for " + std::to_string(T) + " tokens of " +
                       std::to_string(slots) + " choices topk_ids are " + shape_text(out.topk_ids) +
                       ", topk_weights " + shape_text(out.topk_weights);
            });
    expects(input.mask.empty() || input.mask.size == T, [&] {
        return std::string(gate) + ": mask of " + std::to_string(input.mask.size) + " for " +
               std::to_string(T) + " tokens";
    });
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
            [&] {
                return std::string(gate) + ": logits are " + shape_text(input.logits) +
                       ", d_weights " + shape_text(d_weights) + ", d_logits " +
                       shape_text(d_logits);
            });
}

} // namespace semoe::gate::detail
