#pragma once

#include "semoe/gate/concept.hpp"
#include "semoe/gate/detail/shapes.hpp"
#include "semoe/ops/topk.hpp"
#include "semoe/routing/log_sum_exp.hpp"

#include <type_traits>

namespace semoe::gate {

namespace detail {

/// The factor that a logit is multiplied by: a function of the token's global index and the
/// expert, of nothing else.
template <class Real>
struct Jitter {
    RngKey rng;
    Real width; ///< 0: every factor is 1

    SEMOE_HD Real operator()(index_t token, index_t e) const {
        if (width == 0) return 1;
        return Real(1) + width * (2 * random_uniform<Real>(rng, token, e) - Real(1));
    }
};

template <class B, class Real>
struct SwitchForward {
    RouteInput<B, Real> input;
    Assignment<B, Real> out;
    Jitter<Real> jitter;

    SEMOE_HD void operator()(index_t t) const {
        if (input.masked(t)) {
            out.topk_ids(t, 0) = dropped_expert;
            out.topk_weights(t, 0) = 0;
            return;
        }
        // One pass: `sum` is kept relative to the best logit so far, so the factors of the
        // others need not be drawn twice. At the end the best one's softmax is 1 / sum.
        index_t const token = input.first_token + t;
        expert_id best = 0;
        Real best_logit = 0, sum = 0;
        for (index_t e = 0; e < input.logits.cols; ++e) {
            Real const z = input.logits(t, e) * jitter(token, e);
            if (e == 0 || ops::ranks_before(z, expert_id(e), best_logit, best)) {
                sum = e == 0 ? Real(1) : sum * exp(best_logit - z) + Real(1);
                best = expert_id(e);
                best_logit = z;
            } else {
                sum += exp(z - best_logit);
            }
        }
        out.topk_ids(t, 0) = best;
        out.topk_weights(t, 0) = Real(1) / sum;
    }
};

template <class B, class Real>
struct SwitchBackward {
    RouteInput<B, Real> input;
    Assignment<B, Real> chosen;
    MatrixView<Real const, space_of<B>> d_weights;
    MatrixView<Real, space_of<B>> d_logits;
    Jitter<Real> jitter;

    SEMOE_HD void operator()(index_t t) const {
        Real* const dz = d_logits.row(t);
        index_t const n = d_logits.cols;
        if (input.masked(t)) {
            for (index_t e = 0; e < n; ++e) dz[e] = 0;
            return;
        }
        // The row holds the factors until they are used.
        for (index_t e = 0; e < n; ++e) dz[e] = jitter(input.first_token + t, e);
        expert_id const best = chosen.topk_ids(t, 0);
        Real const* const z = input.logits.row(t);
        Real const largest = z[best] * dz[best];
        Real sum = 0;
        for (index_t e = 0; e < n; ++e) sum += exp(z[e] * dz[e] - largest);
        Real const dot = d_weights(t, 0) / sum;
        for (index_t e = 0; e < n; ++e) {
            Real const p = exp(z[e] * dz[e] - largest) / sum;
            dz[e] *= e == best ? dot * (Real(1) - p) : -dot * p;
        }
    }
};

} // namespace detail

/// The one best expert of every token, weighed by its softmax probability (Switch Transformer,
/// Fedus et al., arXiv 2101.03961). In training every logit is multiplied by a random factor from
/// [1 - jitter, 1 + jitter), drawn by (seed, step, layer, global token, expert): ranks, chunks and
/// threads do not change it. Capacity is the layer's business.
struct Switch {
    index_t num_experts = 0;
    double jitter = 0.01;

    constexpr index_t slots_per_token() const { return 1; }
    constexpr double setting() const { return jitter; }

    /// @throws precondition_error naming the value
    void validate() const {
        expects(jitter >= 0 && jitter < 1, "gate::Switch: jitter is {}, must lie in [0, 1)",
                jitter);
    }

    /// @param input  logits [T,E], rng, first_token, training; mask if there is one
    /// @param out    topk_ids and topk_weights [T,1], overwritten; ties go to the lower id
    /// @throws precondition_error naming the shapes that do not fit
    /// @sync enqueues
    /// @cost T*E exponentials and, in training, random numbers; no allocation
    template <Backend B, class Real>
    void forward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> out) const {
        detail::expects_shapes("gate::Switch", input, out, num_experts, 1);
        b.parallel_for(input.logits.rows,
                       detail::SwitchForward<B, Real>{input, out, factors(input)});
    }

    /// Gradient through the softmax and the random factors, the choice held constant.
    /// @param chosen    [T,1], what forward wrote; input is forward's
    /// @param d_logits  [T,E], overwritten
    /// @sync enqueues
    template <Backend B, class Real>
    void backward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> chosen,
                  MatrixView<std::type_identity_t<Real> const, space_of<B>> d_weights,
                  MatrixView<std::type_identity_t<Real>, space_of<B>> d_logits) const {
        detail::expects_shapes("gate::Switch", input, chosen, d_weights, d_logits, num_experts, 1);
        b.parallel_for(input.logits.rows, detail::SwitchBackward<B, Real>{
                                              input, chosen, d_weights, d_logits, factors(input)});
    }

private:
    template <class B, class Real>
    detail::Jitter<Real> factors(RouteInput<B, Real> const& input) const {
        return {input.rng, input.training ? Real(jitter) : Real(0)};
    }
};

} // namespace semoe::gate
