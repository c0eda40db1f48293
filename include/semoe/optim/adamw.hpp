#pragma once

#include "semoe/core/math.hpp"
#include "semoe/optim/concept.hpp"
#include "semoe/optim/detail/expects_number.hpp"
#include "semoe/optim/detail/expects_step.hpp"
#include "semoe/optim/elementwise.hpp"

#include <cmath>
#include <cstdint>

namespace semoe::optim {

namespace detail {
/// The root within 3e-7 of its value (of subnormal numbers: of the same order). std::sqrt may set
/// errno, which keeps a loop from becoming vector code: AdamW would take 1.8 times as long.
SEMOE_HD SEMOE_INLINE float root(float x) {
    using semoe::detail::bits_of;
    auto const bits = bits_of<std::uint32_t>(x);
    // Newton's iteration for 1 / sqrt(x) from a guess by halving the exponent.
    float const half = 0.5f * x;
    float y = bits_of<float>(0x5f375a86u - (bits >> 1));
    y *= 1.5f - half * y * y;
    y *= 1.5f - half * y * y;
    y *= 1.5f - half * y * y;
    // Infinity and NaN are their own roots; chosen by a mask, since a branch stops vector code.
    std::uint32_t const finite = 0u - std::uint32_t(bits < 0x7f800000u);
    return bits_of<float>((bits_of<std::uint32_t>(x * y) & finite) | (bits & ~finite));
}
SEMOE_HD SEMOE_INLINE double root(double x) { return semoe::sqrt(x); }
} // namespace detail

/// One element's AdamW step; the constants already hold learning rate and bias corrections.
template <class Real>
struct AdamWRule {
    static constexpr int moments_per_element = 2;

    Real keep; ///< 1 - lr * weight_decay
    Real beta1, one_minus_beta1, beta2, one_minus_beta2;
    Real step_size;       ///< lr / (1 - beta1^t)
    Real root_correction; ///< 1 / sqrt(1 - beta2^t)
    Real eps;

    SEMOE_HD SEMOE_INLINE void operator()(Real& p, Real g, Real& m, Real& v) const {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - step_size * (m / (detail::root(v) * root_correction + eps));
    }
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), as torch.optim.AdamW:
/// p *= 1 - lr * weight_decay; p -= lr * m^ / (sqrt(v^) + eps), where m^ and v^ are the moments
/// after bias correction. A block without gradient is updated with zeros: its moments fade.
struct AdamW {
    /// First all m, then all v.
    static constexpr int moments_per_element = 2;

    double lr = 1e-3;
    double beta1 = 0.9, beta2 = 0.999;
    double eps = 1e-8; ///< outside the root, after bias correction
    double weight_decay = 0;

    /// @throws precondition_error naming the value that is out of range
    void validate() const {
        using detail::expects_number;
        expects_number(lr >= 0, "AdamW: lr", lr, "be 0 or more");
        expects_number(beta1 >= 0 && beta1 < 1, "AdamW: beta1", beta1, "lie in [0, 1)");
        expects_number(beta2 >= 0 && beta2 < 1, "AdamW: beta2", beta2, "lie in [0, 1)");
        // Zeros divide by it, as a float where the moments are floats.
        expects_number(float(eps) > 0, "AdamW: eps", eps, "be above 0, as a float too");
        expects_number(weight_decay >= 0, "AdamW: weight_decay", weight_decay, "be 0 or more");
    }
    /// @throws precondition_error naming the value that is out of range
    void validate(UpdateStep step) const {
        validate();
        detail::expects_step("AdamW", step);
    }

    /// What one step does to an element.
    /// @throws precondition_error naming the value that is out of range
    template <class Real>
    AdamWRule<Real> rule(UpdateStep step) const {
        validate(step);
        double const rate = lr * step.lr_factor, t = double(step.step) + 1;
        return {Real(1 - rate * weight_decay),
                Real(beta1),
                Real(1 - beta1),
                Real(beta2),
                Real(1 - beta2),
                Real(rate / (1 - std::pow(beta1, t))),
                Real(1 / std::sqrt(1 - std::pow(beta2, t))),
                Real(eps)};
    }

    /// Updates one block's weight, master and moments; arithmetic in accumulate_t<T>, the
    /// constants of the step computed once in double.
    /// @param block  n elements each, backend memory; 16-bit weights need their master
    /// @param step  step.step is 0 for the run's first update, whose moments are zeros
    /// @throws precondition_error on sizes or constants out of range
    /// @sync  enqueues on b
    /// @cost  for float 16 bytes read and 12 written an element; no allocation
    template <Backend B, class T>
    void update(B& b, ParameterBlock<T, space_of<B>> const& block, UpdateStep step) const {
        update_elements(b, block, step.gradient_scale, rule<accumulate_t<T>>(step));
    }
};

} // namespace semoe::optim
