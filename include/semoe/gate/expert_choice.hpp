#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/core/message.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/gate/detail/shapes.hpp"
#include "semoe/gate/detail/softmax_backward.hpp"
#include "semoe/ops/softmax.hpp"
#include "semoe/ops/topk.hpp"
#include "semoe/routing/capacity.hpp"

#include <algorithm>
#include <type_traits>

namespace semoe::gate {

namespace detail {

/// A column of probabilities; masked tokens rank behind every number.
template <class B, class Real>
struct ColumnKey {
    RouteInput<B, Real> const& input;
    MatrixView<Real, space_of<B>> const& probabilities;
    index_t e;
    SEMOE_HD Real operator()(index_t t) const {
        return input.masked(t) ? Real(-1) : probabilities(t, e);
    }
};

template <class Real, class Space>
struct ExpertChoiceScratch {
    MatrixView<index_t, Space> best; // [E,C]
    MatrixView<Real, Space> keys;    // [E,C]
    VectorView<index_t, Space> last; // [E], the token that ranks last of those taken; -1 if none
    VectorView<Real, Space> bound;   // [E], its probability

    ExpertChoiceScratch(Arena<Space>& arena, index_t num_experts, index_t most_tokens)
      : best(arena.template take<index_t>(num_experts, most_tokens))
      , keys(arena.template take<Real>(num_experts, most_tokens))
      , last(arena.template take<index_t>(num_experts))
      , bound(arena.template take<Real>(num_experts)) {}
};

template <class B, class Real>
struct ChooseTokens {
    RouteInput<B, Real> input;
    MatrixView<Real, space_of<B>> probabilities;
    double capacity_factor;
    ExpertChoiceScratch<Real, space_of<B>> scratch;

    SEMOE_HD void operator()(index_t e) const {
        index_t const T = input.logits.rows;
        index_t tokens = 0;
        for (index_t t = 0; t < T; ++t) tokens += input.masked(t) ? 0 : 1;
        index_t const rows = fair_share(capacity_factor, tokens, input.logits.cols);
        scratch.last[e] = -1;
        if (rows == 0) return;
        ops::select_topk(ColumnKey<B, Real>{input, probabilities, e}, T, rows, scratch.best.row(e),
                         scratch.keys.row(e));
        scratch.last[e] = scratch.best(e, rows - 1);
        scratch.bound[e] = scratch.keys(e, rows - 1);
    }
};
template <class B, class Real>
struct TakeChosen {
    RouteInput<B, Real> input;
    Assignment<B, Real> out; // weights hold the probabilities
    ExpertChoiceScratch<Real, space_of<B>> scratch;

    SEMOE_HD void operator()(index_t t) const {
        for (index_t e = 0; e < input.logits.cols; ++e) {
            index_t const last = scratch.last[e];
            bool const taken =
                !input.masked(t) && last >= 0 &&
                !ops::ranks_before(scratch.bound[e], last, out.topk_weights(t, e), t);
            out.topk_ids(t, e) = taken ? expert_id(e) : dropped_expert;
            if (!taken) out.topk_weights(t, e) = 0;
        }
    }
};

template <class B, class Real>
struct ExpertChoiceBackward {
    RouteInput<B, Real> input;
    Assignment<B, Real> chosen;
    MatrixView<Real const, space_of<B>> d_weights;
    MatrixView<Real, space_of<B>> d_logits;

    SEMOE_HD void operator()(index_t t) const {
        if (input.masked(t))
            for (index_t e = 0; e < d_logits.cols; ++e) d_logits(t, e) = 0;
        else
            softmax_backward(input.logits.row(t), d_logits.cols, chosen.topk_ids.row(t),
                             chosen.topk_weights.row(t), d_weights.row(t), chosen.topk_ids.cols,
                             Real(1), d_logits.row(t));
    }
};

} // namespace detail

/// Experts choose tokens: each takes its C = min(M, ceil(capacity_factor * M / E)) best of the M
/// unmasked ones, ranked and weighed by the token's softmax over experts, so load is even by
/// construction and a token may have any number of experts, none included (Zhou et al., arXiv
/// 2202.09368). A token's experts depend on the whole batch: not for causal decoding.
struct ExpertChoice {
    index_t num_experts = 0;
    double capacity_factor = 2; ///< mean number of experts a token

    /// The layer hands over the tokens of all ranks at once.
    static constexpr bool needs_global_batch = true;

    /// Choice e of a token is expert e or -1.
    constexpr index_t slots_per_token() const { return num_experts; }
    constexpr double setting() const { return capacity_factor; }
    constexpr index_t max_rows_per_expert(index_t num_tokens) const {
        return fair_share(capacity_factor, num_tokens, num_experts);
    }

    index_t scratch_bytes(index_t num_tokens) const {
        Arena<HostSpace> arena;
        detail::ExpertChoiceScratch<double, HostSpace>(arena, num_experts, most_tokens(num_tokens));
        return arena.used();
    }

    /// @throws precondition_error naming the value
    void validate() const {
        expects(capacity_factor > 0 && capacity_factor < 1e6,
                "gate::ExpertChoice: capacity_factor is {}, must lie in (0, 1e6)", capacity_factor);
    }

    /// @param input  logits [T,E]; mask if there is one; scratch_bytes(T) of scratch
    /// @param out    topk_ids and topk_weights [T,E], overwritten; ties go to the lower token
    /// @throws precondition_error naming the shapes that do not fit
    /// @sync enqueues
    /// @cost T*E exponentials, O(T log C) an expert on one thread; no allocation
    template <Backend B, class Real>
    void forward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> out) const {
        using S = space_of<B>;
        index_t const T = input.logits.rows;
        detail::expects_shapes("gate::ExpertChoice", input, out, num_experts, num_experts);
        expects(input.scratch.size >= scratch_bytes(T), [&] {
            return message("gate::ExpertChoice: scratch has {} bytes, {} needed",
                           input.scratch.size, scratch_bytes(T));
        });
        Arena<S> arena(input.scratch);
        detail::ExpertChoiceScratch<Real, S> const scratch(arena, num_experts, most_tokens(T));
        ops::softmax_rows(b, input.logits, out.topk_weights);
        b.parallel_for(num_experts, detail::ChooseTokens<B, Real>{input, out.topk_weights,
                                                                  capacity_factor, scratch});
        b.parallel_for(T, detail::TakeChosen<B, Real>{input, out, scratch});
    }

    /// Gradient through the softmax, the choice held constant.
    /// @param chosen    [T,E], what forward wrote
    /// @param d_logits  [T,E], overwritten
    /// @sync enqueues
    template <Backend B, class Real>
    void backward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> chosen,
                  MatrixView<std::type_identity_t<Real> const, space_of<B>> d_weights,
                  MatrixView<std::type_identity_t<Real>, space_of<B>> d_logits) const {
        detail::expects_shapes("gate::ExpertChoice", input, chosen, d_weights, d_logits,
                               num_experts, num_experts);
        b.parallel_for(input.logits.rows,
                       detail::ExpertChoiceBackward<B, Real>{input, chosen, d_weights, d_logits});
    }

private:
    index_t most_tokens(index_t num_tokens) const {
        return fair_share(capacity_factor, num_tokens, num_experts);
    }
};

} // namespace semoe::gate
