#pragma once

#include "semoe/expert/detail/feed_forward.hpp"

namespace semoe::expert {

/// The two-matrix expert, y = act(x up^T + up_bias) down^T + down_bias.
///
/// Block: up_proj [I,H], down_proj [H,I], and with bias up_bias [1,I], down_bias [1,H].
/// Saved for backward: pre-activations [R,I].
/// @tparam Act  ops::activation::Relu, Gelu, Silu ... or a struct of one's own
template <Element T, class Act>
struct Ffn {
    static_assert(Activation<Act>,
                  "expert::Ffn: the activation needs a const operator()(float) that returns float, "
                  "and must be trivially copyable; see semoe/ops/activation.hpp");
    using value_type = T;

    index_t hidden = 0, intermediate = 0; ///< H, I
    bool bias = false;
    Act activation = {};
    Packing packing = Packing::none;

    /// @throws precondition_error naming the member that is out of range
    void validate() const { body().validate("expert::Ffn"); }

    template <Backend B>
    BlockLayout layout(B const&) const {
        BlockLayout layout{detail::layout_id<B, T>(packing)};
        layout.add("up_proj", intermediate, hidden).add("down_proj", hidden, intermediate);
        if (bias) layout.add("up_bias", 1, intermediate).add("down_bias", 1, hidden);
        if (layout.id() == LayoutId::panels_16) body().add_derived(layout);
        return layout;
    }
    /// What lies between the products.
    ops::unit::Plain<Act> unit() const { return {activation}; }
    index_t saved_columns() const { return body().pre_columns(); }
    index_t scratch_columns() const { return intermediate; }
    index_t backward_scratch_columns() const { return body().backward_scratch_columns(); }
    template <Backend B>
    std::size_t worker_scratch_bytes(B const& b) const {
        return body().worker_scratch_bytes(b);
    }
    /// Whether an expert is one operation here.
    template <Backend B>
    bool reads_indexed_rows(B const& b) const {
        return body().reads_indexed_rows(b);
    }
    /// Of forward; backward takes twice as many.
    double flops_per_row() const { return body().flops_per_row(); }

    /// @sync enqueues @cost flops_per_row() a row, no allocation
    template <Backend B>
    void forward_grouped(B& b, ops::Group<std::byte const> const& weights,
                         ExpertRows<T, space_of<B>> const& rows) const {
        body().forward(b, layout(b), weights, rows);
    }
    /// @sync enqueues @cost 2 * flops_per_row() a row, no allocation
    template <Backend B>
    void backward_grouped(B& b, ops::Group<std::byte const> const& weights,
                          ops::Group<std::byte> const& gradients, ops::GroupMask accumulate,
                          ExpertGradientRows<T, space_of<B>> const& rows) const requires
        DifferentiableActivation<Act> {
        body().backward(b, layout(b), weights, gradients, accumulate, rows);
    }
    /// Without biases, and where an expert is one operation.
    template <Backend B>
    bool hands_over_gradients(B const& b, index_t rows) const {
        return body().hands_over_gradients(b, rows);
    }
    /// Hands the gradients to a taker. @pre hands_over_gradients(b, rows of each expert)
    /// @sync enqueues @cost as above, but for the writes
    template <Backend B, ops::GradientTaker F>
    void backward_grouped(B& b, ops::Group<std::byte const> const& weights, F const& taker,
                          ExpertGradientRows<T, space_of<B>> const& rows) const requires
        DifferentiableActivation<Act> {
        body().backward(b, weights, taker, rows);
    }
    /// Writes `saved` again; `scratch` is not used. @sync enqueues @cost 2*H*I flops a row
    template <Backend B>
    void recompute_grouped(B& b, ops::Group<std::byte const> const& weights,
                           IndexedRows<T const, space_of<B>> const& in,
                           MatrixView<T, space_of<B>> saved, MatrixView<T, space_of<B>>) const {
        body().pre(b, layout(b), weights, in, saved);
    }
    /// Packs the weights again. @sync enqueues @cost nothing without packing
    template <Backend B>
    void rebuild_derived(B& b, Bytes<space_of<B>> block) const {
        body().rebuild_derived(b, layout(b), block);
    }

private:
    detail::FeedForward<T, ops::unit::Plain<Act>> body() const {
        return {hidden, intermediate, bias, unit()};
    }
};

} // namespace semoe::expert
