#pragma once

#include "semoe/gate/concept.hpp"
#include "semoe/gate/detail/shapes.hpp"
#include "semoe/gate/detail/softmax_backward.hpp"
#include "semoe/gate/score.hpp"
#include "semoe/ops/topk.hpp"

#include <cmath>
#include <concepts>
#include <type_traits>

namespace semoe::gate {

namespace detail {

/// One token's logits seen through a score, in Real; a score that only speaks float is asked in
/// float.
template <class Real, class Score>
struct ScoredRow {
    Real const* logits;
    Score score;

    SEMOE_HD SEMOE_INLINE Real key(index_t e) const {
        auto const id = expert_id(e);
        if constexpr (requires {
                          { score.key(logits[e], id) } -> std::same_as<Real>;
                      })
            return score.key(logits[e], id);
        else
            return Real(score.key(float(logits[e]), id));
    }
    SEMOE_HD SEMOE_INLINE Real weight(index_t e) const {
        auto const id = expert_id(e);
        if constexpr (requires {
                          { score.weight(logits[e], id) } -> std::same_as<Real>;
                      })
            return score.weight(logits[e], id);
        else
            return Real(score.weight(float(logits[e]), id));
    }
    SEMOE_HD SEMOE_INLINE Real d_weight(index_t e) const {
        auto const id = expert_id(e);
        if constexpr (!HasScoreDerivative<Score>)
            return 1;
        else if constexpr (requires {
                               { score.d_weight(logits[e], id) } -> std::same_as<Real>;
                           })
            return score.d_weight(logits[e], id);
        else
            return Real(score.d_weight(float(logits[e]), id));
    }
};
template <class Real, class Score>
struct KeyOf {
    ScoredRow<Real, Score> row;
    SEMOE_HD SEMOE_INLINE Real operator()(index_t e) const { return row.key(e); }
};
template <class Real, class Score>
struct WeightOf {
    ScoredRow<Real, Score> row;
    SEMOE_HD SEMOE_INLINE Real operator[](index_t e) const { return row.weight(e); }
};

/// All weights of a row; of Softmax they are the logits themselves.
template <class Real, class Score>
SEMOE_HD auto weights_of(ScoredRow<Real, Score> const& row) {
    if constexpr (std::same_as<Score, Softmax>)
        return row.logits;
    else
        return WeightOf<Real, Score>{row};
}

/// Added to the sum that weights are divided by, as DeepSeek-V3 does.
inline constexpr double sum_epsilon = 1e-20;

template <class B, class Real, class Score>
struct TopKForward {
    RouteInput<B, Real> input;
    Assignment<B, Real> out;
    Score score;
    Real scale;

    SEMOE_HD void operator()(index_t t) const {
        expert_id* const ids = out.topk_ids.row(t);
        Real* const weights = out.topk_weights.row(t);
        index_t const k = out.topk_ids.cols;
        if (input.masked(t)) {
            for (index_t i = 0; i < k; ++i) {
                ids[i] = dropped_expert;
                weights[i] = 0;
            }
            return;
        }
        ScoredRow<Real, Score> const row{input.logits.row(t), score};
        // The keys lie where the weights will.
        ops::select_topk(KeyOf<Real, Score>{row}, input.logits.cols, k, ids, weights);
        for (index_t i = 0; i < k; ++i) weights[i] = row.weight(ids[i]);
        normalize(row, weights, k);
    }
    SEMOE_HD void normalize(ScoredRow<Real, Score> const& row, Real* weights, index_t k) const {
        if constexpr (Score::normalize == Normalize::none) {
            for (index_t i = 0; i < k; ++i) weights[i] *= scale;
        } else if constexpr (Score::normalize == Normalize::sum_topk) {
            Real sum = Real(sum_epsilon);
            for (index_t i = 0; i < k; ++i) sum += weights[i];
            for (index_t i = 0; i < k; ++i) weights[i] = weights[i] / sum * scale;
        } else {
            LogSumExp<Real> const all = Score::normalize == Normalize::softmax_topk
                                            ? log_sum_exp<Real>(weights, k)
                                            : log_sum_exp<Real>(weights_of(row), input.logits.cols);
            all.probabilities(weights, k, scale, weights);
        }
    }
};

template <class B, class Real, class Score>
struct TopKBackward {
    RouteInput<B, Real> input;
    Assignment<B, Real> chosen;
    MatrixView<Real const, space_of<B>> d_weights;
    MatrixView<Real, space_of<B>> d_logits;
    Score score;
    Real scale;

    SEMOE_HD void operator()(index_t t) const {
        expert_id const* const ids = chosen.topk_ids.row(t);
        Real const* const weights = chosen.topk_weights.row(t);
        Real const* const dw = d_weights.row(t);
        Real* const dz = d_logits.row(t);
        index_t const k = chosen.topk_ids.cols, n = input.logits.cols;
        bool const chooses = !input.masked(t);
        ScoredRow<Real, Score> const row{input.logits.row(t), score};
        if constexpr (Score::normalize == Normalize::softmax_all) {
            if (chooses) {
                softmax_backward(weights_of(row), n, ids, weights, dw, k, scale, dz);
                if constexpr (HasScoreDerivative<Score>)
                    for (index_t e = 0; e < n; ++e) dz[e] *= row.d_weight(e);
                return;
            }
        }
        for (index_t e = 0; e < n; ++e) dz[e] = 0;
        if (!chooses) return;
        // d loss / d weight(logit) = (dw_i - dot) * factor_i: what the normalisation lets through.
        Real dot = 0, sum = Real(sum_epsilon);
        if constexpr (Score::normalize != Normalize::none)
            for (index_t i = 0; i < k && scale != 0; ++i) dot += dw[i] * weights[i] / scale;
        if constexpr (Score::normalize == Normalize::sum_topk)
            for (index_t i = 0; i < k; ++i) sum += row.weight(ids[i]);
        for (index_t i = 0; i < k; ++i) {
            Real factor = scale;
            if constexpr (Score::normalize == Normalize::sum_topk) factor /= sum;
            if constexpr (Score::normalize == Normalize::softmax_topk) factor = weights[i];
            dz[ids[i]] = (dw[i] - dot) * factor * row.d_weight(ids[i]);
        }
    }
};

} // namespace detail

/// The K best experts of every token, by a scalar score of each logit.
///
///   semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 64, .top_k = 8}
///
/// @tparam Score  see ScorePolicy in gate/concept.hpp, and gate/score.hpp for those that exist
template <class Score>
struct TopK {
    static_assert(HasScoreKey<Score>,
                  "gate::TopK: Score lacks `float key(float logit, expert_id) const`, by which "
                  "experts are ranked (see gate/concept.hpp)");
    static_assert(HasScoreWeight<Score>,
                  "gate::TopK: Score lacks `float weight(float logit, expert_id) const`, by which "
                  "an expert's output is multiplied (see gate/concept.hpp)");
    static_assert(HasScoreNormalize<Score>,
                  "gate::TopK: Score lacks `static constexpr Normalize normalize` "
                  "(see gate/concept.hpp)");
    static_assert(std::is_trivially_copyable_v<Score>,
                  "gate::TopK: Score must be trivially copyable, it travels into queues and "
                  "kernels; hold pointers to backend memory (see gate/concept.hpp)");

    index_t num_experts = 0;
    index_t top_k = 1;
    Score score = {};
    /// Routed scaling: multiplies the weights once they are normalised. It is applied here and
    /// nowhere else, and never to a shared expert.
    double scale = 1;

    static constexpr RouterProbability router_probability = semoe::router_probability<Score>();
    static constexpr bool trainable = DifferentiableScore<Score>;

    constexpr double setting() const { return scale; }

    /// @throws precondition_error naming the value
    void validate() const {
        expects(std::isfinite(scale), "gate::TopK: scale is {}, must be finite", scale);
    }

    /// Chooses top_k experts for every token.
    /// @param input  logits [T,E]; mask if there is one
    /// @param out    topk_ids and topk_weights [T,K], overwritten
    /// @post ids in a row are distinct, by falling key, ties to the lower id, NaN keys last; -1
    ///       and weight 0 in masked rows alone
    /// @throws precondition_error naming the shapes that do not fit
    /// @sync enqueues
    /// @cost T*E keys, and E weights a token for softmax_all; no allocation
    template <Backend B, class Real>
    void forward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> out) const {
        detail::expects_shapes("gate::TopK", input, out, num_experts, top_k);
        expects(top_k <= num_experts, "gate::TopK: top_k is {} of {} experts", top_k, num_experts);
        b.parallel_for(input.logits.rows,
                       detail::TopKForward<B, Real, Score>{input, out, score, Real(scale)});
    }

    /// Gradient of the weights by the logits, the choice of experts held constant.
    /// @param chosen     [T,K], what forward wrote
    /// @param d_weights  [T,K], 0 where a choice was dropped afterwards
    /// @param d_logits   [T,E], overwritten: softmax_all reaches every expert, the other rules the
    ///                   chosen ones
    /// @sync enqueues
    template <Backend B, class Real>
    void backward(B& b, RouteInput<B, Real> const& input, Assignment<B, Real> chosen,
                  MatrixView<std::type_identity_t<Real> const, space_of<B>> d_weights,
                  MatrixView<std::type_identity_t<Real>, space_of<B>> d_logits) const {
        static_assert(DifferentiableScore<Score>,
                      "gate::TopK: training by Normalize::none or sum_topk needs "
                      "`float d_weight(float logit, expert_id) const` in Score, the derivative "
                      "of weight (see gate/concept.hpp)");
        detail::expects_shapes("gate::TopK", input, chosen, d_weights, d_logits, num_experts,
                               top_k);
        b.parallel_for(input.logits.rows,
                       detail::TopKBackward<B, Real, Score>{input, chosen, d_weights, d_logits,
                                                            score, Real(scale)});
    }
};
template <class Score>
TopK(index_t, index_t, Score) -> TopK<Score>;
template <class Score>
TopK(index_t, index_t, Score, double) -> TopK<Score>;

} // namespace semoe::gate
