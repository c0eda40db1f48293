#pragma once

#include "semoe/core/error.hpp"
#include "semoe/routing/assignment.hpp"

#include <concepts>
#include <limits>
#include <type_traits>

namespace semoe {

/// How a score's weights become a token's weights; the gate does it, a score never sees the row.
enum class Normalize {
    none,         ///< weight(logit)
    sum_topk,     ///< weight(logit) divided by its sum over the chosen K
    softmax_topk, ///< softmax of weight(logit) over the chosen K
    softmax_all,  ///< softmax of weight(logit) over all E, taken at the chosen K
};

/// What experts are ranked by: the larger first, equal keys by the lower id, NaN last.
template <class S>
concept HasScoreKey = requires(S const& s, float logit, expert_id e) {
    { s.key(logit, e) } -> std::convertible_to<float>;
};
/// What combine multiplies by, before `normalize`.
template <class S>
concept HasScoreWeight = requires(S const& s, float logit, expert_id e) {
    { s.weight(logit, e) } -> std::convertible_to<float>;
};
/// d weight / d logit, for training. The two softmax rules do without: their weight is the logit
/// unless d_weight says otherwise.
template <class S>
concept HasScoreDerivative = requires(S const& s, float logit, expert_id e) {
    { s.d_weight(logit, e) } -> std::convertible_to<float>;
};
/// `static constexpr Normalize normalize`
template <class S>
concept HasScoreNormalize = requires {
    typename std::integral_constant<Normalize, S::normalize>;
};
/// Scalar rule of a row-wise gate, called on host or device. Member templates over the type of
/// the logit make a layer of doubles compute in double; plain float members are rounded to float.
template <class S>
concept ScorePolicy =
    std::is_trivially_copyable_v<S> && HasScoreKey<S> && HasScoreWeight<S> && HasScoreNormalize<S>;
/// A score whose gate can be trained.
template <class S>
concept DifferentiableScore = ScorePolicy<S> &&
    (HasScoreDerivative<S> || S::normalize == Normalize::softmax_topk ||
     S::normalize == Normalize::softmax_all);

template <class G>
concept HasNumExperts = requires(G const& g) {
    { g.num_experts } -> std::convertible_to<index_t>;
};
template <class G>
concept HasSlotsPerToken = requires(G const& g) {
    { g.top_k } -> std::convertible_to<index_t>;
}
|| requires(G const& g) {
    { g.slots_per_token() } -> std::convertible_to<index_t>;
};
template <class G, class B, class Real = float>
concept HasGateForward = requires(G const& g, B& b, RouteInput<B, Real> const& input,
                                  Assignment<B, Real> out) {
    /// Writes every id and weight of `out`: a token's ids are distinct numbers in [0,E) with finite
    /// weights, or -1; masked tokens get -1 everywhere. A layer refuses others, naming the token.
    { g.forward(b, input, out) } -> std::same_as<void>;
};
/// A routing policy: tokens to experts.
template <class G, class B, class Real = float>
concept Gate = HasNumExperts<G> && HasSlotsPerToken<G> && HasGateForward<G, B, Real>;

/// A gate that trains. `chosen` is what forward wrote; where a choice was dropped afterwards,
/// d_weights [T,K] is 0. d_logits [T,E] is overwritten.
template <class G, class B, class Real = float>
concept DifferentiableGate = Gate<G, B, Real> &&
    requires(G const& g, B& b, RouteInput<B, Real> const& input, Assignment<B, Real> chosen,
             MatrixView<Real const, space_of<B>> d_weights,
             MatrixView<Real, space_of<B>> d_logits) {
    g.backward(b, input, chosen, d_weights, d_logits);
};

/// Whether backward may be called: a gate template may have it for some of its arguments only, and
/// says so by `trainable`.
template <class G>
constexpr bool gate_trains() {
    if constexpr (requires { G::trainable; })
        return G::trainable;
    else
        return true;
}

/// Choices a gate may make for one token: K, or up to E where experts choose.
template <HasSlotsPerToken G>
index_t slots_per_token(G const& gate) {
    if constexpr (requires { gate.slots_per_token(); })
        return gate.slots_per_token();
    else
        return gate.top_k;
}

/// Rows that an expert may get of T tokens, all ranks' together: T, unless the gate promises less
/// by max_rows_per_expert(T). Contexts have memory for no more, and a layer refuses them.
template <class G>
index_t max_rows_per_expert(G const& gate, index_t num_tokens) {
    if constexpr (requires { gate.max_rows_per_expert(num_tokens); })
        return index_t(gate.max_rows_per_expert(num_tokens));
    else
        return num_tokens;
}

/// Scratch memory that the gate asks for over T tokens; none unless it has scratch_bytes().
template <class G>
index_t gate_scratch_bytes(G const& gate, index_t num_tokens) {
    if constexpr (requires { gate.scratch_bytes(num_tokens); })
        return gate.scratch_bytes(num_tokens);
    else
        return 0;
}

/// A number of the gate's own that all ranks must have alike, which setting() tells: several ones
/// as a hash.
template <class G>
constexpr double gate_setting(G const& gate) {
    if constexpr (requires {
                      { gate.setting() } -> std::convertible_to<double>;
                  })
        return gate.setting();
    else
        return 0;
}

/// Whether the gate must see the tokens of all ranks at once (`needs_global_batch = true`);
/// the layer then gathers logits and masks and takes this rank's rows of the answer.
template <class G>
constexpr bool needs_global_batch() {
    if constexpr (requires { G::needs_global_batch; })
        return G::needs_global_batch;
    else
        return false;
}

/// Host-side checks, once, at construction of a layer.
/// @throws precondition_error naming the value that is out of range
template <class G>
void validate_gate(G const& gate) {
    expects(gate.num_experts >= 1, "gate: num_experts is {}, must be at least 1", gate.num_experts);
    expects(index_t(gate.num_experts) <= std::numeric_limits<expert_id>::max(),
            "gate: num_experts is {}, must be below 2^31", gate.num_experts);
    index_t const slots = slots_per_token(gate);
    constexpr bool says_slots = requires { gate.slots_per_token(); };
    expects(slots >= 1 && slots <= gate.num_experts,
            "gate: {} is {}, must lie in [1, num_experts = {}]",
            says_slots ? "slots_per_token()" : "top_k", slots, gate.num_experts);
    if constexpr (requires { gate.validate(); }) gate.validate();
}

} // namespace semoe
