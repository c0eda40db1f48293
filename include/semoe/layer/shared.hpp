#pragma once

#include "semoe/core/math.hpp"
#include "semoe/dispatch/combine.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/layer/context.hpp"
#include "semoe/ops/row_dots.hpp"

namespace semoe::detail {

/// The expert that every token passes, weighted by 1 or by sigmoid(<x, shared_gate>).

template <class Real>
struct SigmoidInPlace {
    Real* values;
    SEMOE_HD void operator()(index_t t) const { values[t] = sigmoid(values[t]); }
};
/// d logit of the sigmoid gate from d factor, in place.
template <class Real>
struct SigmoidBackward {
    Real const* factor;
    Real* d;
    SEMOE_HD void operator()(index_t t) const { d[t] *= factor[t] * (Real(1) - factor[t]); }
};
/// out = in, one row an index.
template <class T, class Space>
struct WidenRow {
    MatrixView<T const, Space> in;
    MatrixView<accumulate_t<T>, Space> out;
    SEMOE_HD void operator()(index_t t) const {
        for (index_t h = 0; h < in.cols; ++h) out(t, h) = accumulate_t<T>(in(t, h));
    }
};

/// views.shared_factor = sigmoid(<x, gate>). @param gate  [1,H]
template <class B, class T, class C>
void shared_factor(B& b, MatrixView<accumulate_t<T>, space_of<B>> gate, ContextState<B, T, C>& s) {
    using Real = accumulate_t<T>;
    Real* const factor = s.views.shared_factor.data;
    ops::row_dots(b, s.dense_x, gate, MatrixView<Real, space_of<B>>{factor, s.num_tokens, 1});
    b.parallel_for(s.num_tokens, SigmoidInPlace<Real>{factor});
}

/// views.shared_out = shared(x).
template <class B, class X, class T, class C>
void forward_shared(B& b, X const& shared, ConstBytes<space_of<B>> weights,
                    ContextState<B, T, C>& s) {
    auto& v = s.views;
    index_t const tokens = s.num_tokens;
    ops::Group<std::byte const> group;
    group.add(0, tokens, weights.data);
    shared.forward_grouped(b, group,
                           ExpertRows<T, space_of<B>>{s.dense_x, v.shared_out.row_range(0, tokens),
                                                      v.shared_saved.row_range(0, tokens),
                                                      v.shared_scratch.row_range(0, tokens)});
}

/// views.base = the shared expert's part of dx, views.d_shared_factor = the gradient of its gate's
/// logit; the expert's gradient is written or added to.
template <class B, class X, class T, class C>
void backward_shared(B& b, X const& shared, ConstBytes<space_of<B>> weights,
                     VectorView<accumulate_t<T>, space_of<B>> gradient, bool accumulate, bool gated,
                     MatrixView<T const, space_of<B>> dy, ContextState<B, T, C>& s) {
    using Real = accumulate_t<T>;
    using S = space_of<B>;
    auto& v = s.views;
    index_t const tokens = s.num_tokens;
    TokenBase<T, S> base{v.shared_out.row_range(0, tokens), {}};
    VectorView<Real, S> d_factor;
    if (gated) {
        base.factor = v.shared_factor.part(0, tokens);
        d_factor = v.d_shared_factor.part(0, tokens);
    }
    auto const d_out = v.d_shared.row_range(0, tokens);
    auto const d_in = v.d_shared_in.row_range(0, tokens);
    combine_base_backward(b, dy, base, s.options.mask, d_out, d_factor);
    if (gated) b.parallel_for(tokens, SigmoidBackward<Real>{v.shared_factor.data, d_factor.data});
    if (tokens == 0 && !accumulate) ops::fill(b, gradient, Real(0));
    ops::Group<std::byte const> group;
    ops::Group<std::byte> gradients;
    group.add(0, tokens, weights.data);
    gradients.add(0, tokens, as_writable_bytes(gradient).data);
    shared.backward_grouped(
        b, group, gradients, accumulate ? 1u : 0u,
        ExpertGradientRows<T, S>{s.dense_x, v.shared_saved.row_range(0, tokens), d_out, d_in,
                                 v.shared_backward_scratch.row_range(0, tokens)});
    b.parallel_for(tokens, WidenRow<T, S>{d_in, v.base.row_range(0, tokens)});
    s.has_base = true;
}

} // namespace semoe::detail
