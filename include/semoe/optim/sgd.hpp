#pragma once

#include "semoe/optim/concept.hpp"
#include "semoe/optim/detail/expects_number.hpp"
#include "semoe/optim/detail/expects_step.hpp"
#include "semoe/optim/elementwise.hpp"

namespace semoe::optim {

/// One element's SGD step; the constants already hold the learning rate.
template <class Real>
struct SgdRule {
    static constexpr int moments_per_element = 1;

    Real lr, momentum;
    Real keep;  ///< 1 - lr * weight_decay where decay is decoupled, else 1
    Real decay; ///< weight_decay where decay is coupled, else 0
    bool nesterov;

    SEMOE_HD SEMOE_INLINE void operator()(Real& p, Real g, Real& buffer) const {
        g += decay * p;
        buffer = momentum * buffer + g;
        p = keep * p - lr * (nesterov ? g + momentum * buffer : buffer);
    }
};

/// Stochastic gradient descent with momentum, as torch.optim.SGD without dampening: the buffer
/// b = momentum * b + g starts at zero, p -= lr * b, with Nesterov p -= lr * (g + momentum * b).
struct Sgd {
    /// The momentum's buffer; held, and left equal to the gradient, at momentum 0 too.
    static constexpr int moments_per_element = 1;

    double lr = 1e-3;
    double momentum = 0;
    bool nesterov = false;
    double weight_decay = 0;
    /// false: the gradient grows by weight_decay * p. true: p shrinks by 1 - lr * weight_decay
    /// first, past the momentum, as AdamW does.
    bool decoupled = false;

    /// @throws precondition_error naming the value that is out of range
    void validate() const {
        using detail::expects_number;
        expects_number(lr >= 0, "Sgd: lr", lr, "be 0 or more");
        expects_number(momentum >= 0 && momentum < 1, "Sgd: momentum", momentum, "lie in [0, 1)");
        expects_number(!nesterov || momentum > 0, "Sgd: momentum", momentum,
                       "be above 0 with nesterov");
        expects_number(weight_decay >= 0, "Sgd: weight_decay", weight_decay, "be 0 or more");
    }
    /// @throws precondition_error naming the value that is out of range
    void validate(UpdateStep step) const {
        validate();
        detail::expects_step("Sgd", step);
    }

    /// What one step does to an element.
    /// @throws precondition_error naming the value that is out of range
    template <class Real>
    SgdRule<Real> rule(UpdateStep step) const {
        validate(step);
        double const rate = lr * step.lr_factor;
        return {Real(rate), Real(momentum), Real(decoupled ? 1 - rate * weight_decay : 1),
                Real(decoupled ? 0 : weight_decay), nesterov};
    }

    /// Updates one block's weight, master and buffer; arithmetic in accumulate_t<T>.
    /// @param block  n elements each, backend memory; 16-bit weights need their master
    /// @throws precondition_error on sizes or constants out of range
    /// @sync  enqueues on b
    /// @cost  for float 12 bytes read and 8 written an element; no allocation
    template <Backend B, class T>
    void update(B& b, ParameterBlock<T, space_of<B>> const& block, UpdateStep step) const {
        update_elements(b, block, step.gradient_scale, rule<accumulate_t<T>>(step));
    }
};

} // namespace semoe::optim
