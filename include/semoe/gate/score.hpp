#pragma once

#include "semoe/core/math.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/routing/statistics.hpp"

/// Built-in scores for gate::TopK: how a router's logit ranks an expert and weighs its output,
/// never its input. Where weights are divided by a sum and top_k is 1, each is the gate's scale
/// whatever the logit, so that only the losses train the router. A score of one's own is a struct
/// like these; see ScorePolicy.

namespace semoe::gate {

/// Softmax over all experts, then the K largest; their weights add up to less than one.
/// (Shazeer et al., arXiv 1701.06538; OLMoE with norm_topk_prob false, DeepSeek-V2-Lite.)
struct Softmax {
    static constexpr Normalize normalize = Normalize::softmax_all;
    template <Real R>
    SEMOE_HD SEMOE_INLINE R key(R logit, expert_id) const {
        return logit;
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE R weight(R logit, expert_id) const {
        return logit;
    }
};

/// The K largest logits, then softmax over those: weights add up to one. The same as Softmax with
/// its weights divided by their sum. (Mixtral, arXiv 2401.04088; norm_topk_prob true.)
struct TopKSoftmax : Softmax {
    static constexpr Normalize normalize = Normalize::softmax_topk;
};

/// sigmoid(logit), for each expert alone.
struct Sigmoid {
    static constexpr Normalize normalize = Normalize::none;
    static constexpr RouterProbability router_probability = RouterProbability::sigmoid;
    /// The logit ranks as its sigmoid does, and still tells apart what the sigmoid rounds to one.
    template <Real R>
    SEMOE_HD SEMOE_INLINE R key(R logit, expert_id) const {
        return logit;
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE R weight(R logit, expert_id) const {
        return sigmoid(logit);
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE R d_weight(R logit, expert_id) const {
        return sigmoid_derivative(logit);
    }
};

/// sigmoid(logit), divided by the sum over the chosen and 1e-20.
struct NormalizedSigmoid : Sigmoid {
    static constexpr Normalize normalize = Normalize::sum_topk;
};

/// Ranks by sigmoid(logit) + bias, weighs by sigmoid(logit) divided by the sum over the chosen and
/// 1e-20: the bias balances load and has no gradient. After a forward,
/// update_balance_bias(backend, context.statistics(), rate, bias) moves it. It is no block of the
/// layer: a checkpoint has it where the caller visits it beside the layer. (DeepSeek-V3, arXiv
/// 2412.19437, without its groups of experts.)
struct SigmoidBias {
    static constexpr Normalize normalize = Normalize::sum_topk;
    static constexpr RouterProbability router_probability = RouterProbability::sigmoid;

    float const* bias = nullptr; ///< [E], backend memory; null: zero

    template <Real R>
    SEMOE_HD SEMOE_INLINE R key(R logit, expert_id e) const {
        return sigmoid(logit) + (bias ? R(bias[e]) : R(0));
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE R weight(R logit, expert_id) const {
        return sigmoid(logit);
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE R d_weight(R logit, expert_id) const {
        return sigmoid_derivative(logit);
    }
};

} // namespace semoe::gate
