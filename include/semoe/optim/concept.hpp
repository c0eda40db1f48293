#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"

#include <concepts>

namespace semoe {

/// One block as an optimizer sees it: n elements of T in one order. Real is accumulate_t<T>.
template <class T, class Space>
struct ParameterBlock {
    using Real = accumulate_t<T>;

    VectorView<T, Space> weight;            ///< [n], written
    VectorView<Real, Space> master;         ///< [n], or empty where T is Real: weight is the master
    VectorView<Real const, Space> gradient; ///< [n], or empty: a gradient of zeros
    /// [moments_per_element * n], first all of one, then the next; or what state_bytes asks for.
    VectorView<Real, Space> moments;
};

/// What changes from step to step.
struct UpdateStep {
    index_t step = 0;          ///< of the run, 0 for the first; bias corrections go by it
    double lr_factor = 1;      ///< a schedule's factor on the learning rate, 0 or more
    double gradient_scale = 1; ///< multiplies every gradient first: clipping, averaging
    /// Forget each gradient once it has been used, as MoeLayer::zero_grad does for all, so that a
    /// tier which needs its memory for another block need not write it first.
    bool zero_grad = false;
};

/// One block's update, elementwise. Moments start as zeros.
template <class O, class B>
concept Optimizer = requires(O const& o, B& b, ParameterBlock<float, space_of<B>> block,
                             UpdateStep step) {
    { O::moments_per_element } -> std::convertible_to<int>;
    o.update(b, block, step);
};

/// Capability: moments in a form of the optimizer's own, in fewer bytes than moments_per_element
/// numbers an element. Nobody else looks into them; bytes of zeros are moments of zero.
template <class O>
concept HasPackedMoments = requires(index_t n) {
    /// Of a block of n elements.
    { O::state_bytes(n) } -> std::same_as<index_t>;
};

namespace optim {
/// How long ParameterBlock::moments is for a block of n elements, in numbers of type Real.
template <class O, class Real>
constexpr index_t moments_size(index_t n) {
    if constexpr (HasPackedMoments<O>)
        return (O::state_bytes(n) + index_t(sizeof(Real)) - 1) / index_t(sizeof(Real));
    else
        return n * O::moments_per_element;
}
} // namespace optim

} // namespace semoe
