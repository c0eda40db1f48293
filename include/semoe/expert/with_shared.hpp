#pragma once

#include "semoe/expert/concept.hpp"

#include <concepts>

namespace semoe::expert {

/// Routed experts beside one that every token passes through (DeepSeekMoE, arXiv 2401.06066):
/// y = sum over the chosen of weight * routed(x) + factor * shared(x), where factor is 1 or, with
/// sigmoid_gate, sigmoid(x . shared_gate). A description only: the calls are those of the routed
/// expert, the layer holds the shared one's block (BlockKey::expert == shared_block) and, in the
/// router's block, the vector shared_gate [1,H].
///
///     using Swi = expert::SwiGlu<bf16>;
///     expert::WithShared expert{Swi{2048, 1408}, Swi{2048, 5632}, true};
template <class Routed, class Shared>
struct WithShared {
    static_assert(HasExpertShape<Routed>, "expert::WithShared: the routed expert lacks value_type "
                                          "or hidden; see semoe/expert/concept.hpp");
    static_assert(HasExpertShape<Shared>, "expert::WithShared: the shared expert lacks value_type "
                                          "or hidden; see semoe/expert/concept.hpp");
    using value_type = typename Routed::value_type;
    static_assert(std::same_as<value_type, typename Shared::value_type>,
                  "expert::WithShared: the routed and the shared expert must be of one value_type; "
                  "see semoe/expert/concept.hpp");

    Routed routed;
    Shared shared;
    bool sigmoid_gate = false;
    index_t hidden = index_t(routed.hidden); ///< H, the routed expert's

    /// @throws precondition_error naming the member that is out of range, or both widths
    void validate() const {
        if constexpr (requires { routed.validate(); }) routed.validate();
        if constexpr (requires { shared.validate(); }) shared.validate();
        expects(hidden == index_t(routed.hidden) && hidden == index_t(shared.hidden),
                "expert::WithShared: hidden is {}, the routed {}, the shared {}; "
                "they must be equal",
                hidden, routed.hidden, shared.hidden);
    }

    template <Backend B>
    BlockLayout layout(B const& b) const {
        return routed.layout(b);
    }
    index_t saved_columns() const { return routed.saved_columns(); }
    index_t scratch_columns() const { return routed.scratch_columns(); }
    index_t backward_scratch_columns() const requires requires(Routed const& r) {
        r.backward_scratch_columns();
    }
    { return routed.backward_scratch_columns(); }

    template <Backend B>
    void forward_grouped(B& b, ops::Group<std::byte const> const& weights,
                         ExpertRows<value_type, space_of<B>> const& rows) const {
        routed.forward_grouped(b, weights, rows);
    }
    template <Backend B>
    void backward_grouped(B& b, ops::Group<std::byte const> const& weights,
                          ops::Group<std::byte> const& gradients, ops::GroupMask accumulate,
                          ExpertGradientRows<value_type, space_of<B>> const& rows) const requires
        DifferentiableExpert<Routed, B> {
        routed.backward_grouped(b, weights, gradients, accumulate, rows);
    }
    template <Backend B>
    void recompute_grouped(
        B& b, ops::Group<std::byte const> const& weights,
        MatrixView<value_type const, space_of<B>> in, MatrixView<value_type, space_of<B>> saved,
        MatrixView<value_type, space_of<B>> scratch) const requires RecomputableExpert<Routed, B> {
        routed.recompute_grouped(b, weights, in, saved, scratch);
    }
    template <Backend B>
    void rebuild_derived(B& b,
                         Bytes<space_of<B>> block) const requires HasDerivedSlices<Routed, B> {
        routed.rebuild_derived(b, block);
    }
};
template <class Routed, class Shared>
WithShared(Routed, Shared) -> WithShared<Routed, Shared>;
template <class Routed, class Shared>
WithShared(Routed, Shared, bool) -> WithShared<Routed, Shared>;

} // namespace semoe::expert
