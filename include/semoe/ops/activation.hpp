#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/detail/elementwise.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/group.hpp"

#include <concepts>
#include <type_traits>

namespace semoe {

/// A scalar function between the matrices of an expert, copied into every backend's kernels.
/// A user's own has `float operator()(float) const`, SEMOE_HD where CUDA shall run it.
template <class F>
concept Activation = std::is_trivially_copyable_v<F> && requires(F const& f, float x) {
    { f(x) } -> std::convertible_to<float>;
};
/// An activation that trains: `float derivative(float) const`, of its argument, not its result.
template <class F>
concept DifferentiableActivation = Activation<F> && requires(F const& f, float x) {
    { f.derivative(x) } -> std::convertible_to<float>;
};

} // namespace semoe

namespace semoe::ops {

namespace activation {
struct Identity {
    template <Real T>
    SEMOE_HD SEMOE_INLINE T operator()(T x) const {
        return x;
    }
    template <Real T>
    SEMOE_HD SEMOE_INLINE T derivative(T) const {
        return T(1);
    }
};
struct Relu {
    template <Real T>
    SEMOE_HD SEMOE_INLINE T operator()(T x) const {
        return relu(x);
    }
    template <Real T>
    SEMOE_HD SEMOE_INLINE T derivative(T x) const {
        return relu_derivative(x);
    }
};
/// The exact one, by erf.
struct Gelu {
    template <Real T>
    SEMOE_HD SEMOE_INLINE T operator()(T x) const {
        return gelu(x);
    }
    template <Real T>
    SEMOE_HD SEMOE_INLINE T derivative(T x) const {
        return gelu_derivative(x);
    }
};
struct GeluTanh {
    template <Real T>
    SEMOE_HD SEMOE_INLINE T operator()(T x) const {
        return gelu_tanh(x);
    }
    template <Real T>
    SEMOE_HD SEMOE_INLINE T derivative(T x) const {
        return gelu_tanh_derivative(x);
    }
};
struct Silu {
    template <Real T>
    SEMOE_HD SEMOE_INLINE T operator()(T x) const {
        return silu(x);
    }
    template <Real T>
    SEMOE_HD SEMOE_INLINE T derivative(T x) const {
        return silu_derivative(x);
    }
};
} // namespace activation

namespace detail {
/// A user's activation may know float only.
template <Real T, class Act>
SEMOE_HD SEMOE_INLINE T activate(Act const& act, T x) {
    if constexpr (requires { requires std::same_as<decltype(act(x)), T>; })
        return act(x);
    else
        return static_cast<T>(act(static_cast<float>(x)));
}
template <Real T, class Act>
SEMOE_HD SEMOE_INLINE T derivative(Act const& act, T x) {
    if constexpr (requires { requires std::same_as<decltype(act.derivative(x)), T>; })
        return act.derivative(x);
    else
        return static_cast<T>(act.derivative(static_cast<float>(x)));
}

template <class Act, class T, class Space>
struct Activate {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = 1, outputs = 1;

    Act act;
    MatrixView<T const, Space> pre;
    MatrixView<T, Space> activated;

    SEMOE_HD T const* in(int, GroupPlace at) const { return pre.row(at.row); }
    SEMOE_HD T* out(int, GroupPlace at) const { return activated.row(at.row); }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&x)[1][16], Real (&y)[1][16]) const {
        for (int j = 0; j < 16; ++j) y[0][j] = activate(act, x[0][j]);
    }
};
template <class Act, class T, class Space>
struct ActivateBackward {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = 2, outputs = 1;

    Act act;
    MatrixView<T const, Space> pre, d_out;
    MatrixView<T, Space> d_pre;

    SEMOE_HD T const* in(int i, GroupPlace at) const { return (i == 0 ? pre : d_out).row(at.row); }
    SEMOE_HD T* out(int, GroupPlace at) const { return d_pre.row(at.row); }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&x)[2][16], Real (&y)[1][16]) const {
        for (int j = 0; j < 16; ++j) y[0][j] = x[1][j] * derivative(act, x[0][j]);
    }
};
template <class Act, class T, class Space>
struct Gate {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = 2, outputs = 1;

    Act act;
    MatrixView<T const, Space> pre;
    MatrixView<T, Space> gated;

    SEMOE_HD T const* in(int i, GroupPlace at) const { return pre.row(at.row) + i * gated.cols; }
    SEMOE_HD T* out(int, GroupPlace at) const { return gated.row(at.row); }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&x)[2][16], Real (&y)[1][16]) const {
        for (int j = 0; j < 16; ++j) y[0][j] = activate(act, x[0][j]) * x[1][j];
    }
};
template <class Act, class T, class Space>
struct GateBackward {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = 3, outputs = 2;

    Act act;
    MatrixView<T const, Space> pre, d_out;
    MatrixView<T, Space> d_pre;

    SEMOE_HD T const* in(int i, GroupPlace at) const {
        return i == 2 ? d_out.row(at.row) : pre.row(at.row) + i * d_out.cols;
    }
    SEMOE_HD T* out(int i, GroupPlace at) const { return d_pre.row(at.row) + i * d_out.cols; }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&x)[3][16], Real (&y)[2][16]) const {
        for (int j = 0; j < 16; ++j) {
            y[0][j] = x[2][j] * x[1][j] * derivative(act, x[0][j]);
            y[1][j] = x[2][j] * activate(act, x[0][j]);
        }
    }
};
} // namespace detail

/// out = act(pre) for the rows of a group; rows outside it keep what they hold.
/// @param pre  [R,I], backend memory
/// @param out  [R,I], backend memory; may be pre itself
/// @throws precondition_error naming the shape or the expert that does not fit
/// @sync enqueues
template <Backend B, Activation Act, class Pre, class T>
void grouped_activate(B& b, Group<std::byte const> const& g, Act act,
                      MatrixView<Pre, space_of<B>> pre, MatrixView<T, space_of<B>> out) {
    detail::expect_rows("grouped_activate", g, pre, out.cols);
    detail::expect_rows("grouped_activate", g, out, out.cols);
    detail::grouped_elementwise(b, g, out.cols,
                                detail::Activate<Act, T, space_of<B>>{act, pre, out});
}

/// d_pre = d_out * act'(pre).
/// @param pre    [R,I], what forward activated
/// @param d_out  [R,I]
/// @param d_pre  [R,I]; may be d_out itself
template <Backend B, DifferentiableActivation Act, class Pre, class D, class T>
void grouped_activate_backward(B& b, Group<std::byte const> const& g, Act act,
                               MatrixView<Pre, space_of<B>> pre, MatrixView<D, space_of<B>> d_out,
                               MatrixView<T, space_of<B>> d_pre) {
    detail::expect_rows("grouped_activate_backward", g, pre, d_pre.cols);
    detail::expect_rows("grouped_activate_backward", g, d_out, d_pre.cols);
    detail::expect_rows("grouped_activate_backward", g, d_pre, d_pre.cols);
    detail::grouped_elementwise(
        b, g, d_pre.cols, detail::ActivateBackward<Act, T, space_of<B>>{act, pre, d_out, d_pre});
}

/// out = act(gate) * up, the gated linear unit (Shazeer, arXiv 2002.05202).
/// @param pre  [R,2I]: the gate's columns first, then those of up
/// @param out  [R,I]
template <Backend B, Activation Act, class Pre, class T>
void grouped_gate(B& b, Group<std::byte const> const& g, Act act, MatrixView<Pre, space_of<B>> pre,
                  MatrixView<T, space_of<B>> out) {
    detail::expect_rows("grouped_gate", g, pre, 2 * out.cols);
    detail::expect_rows("grouped_gate", g, out, out.cols);
    detail::grouped_elementwise(b, g, out.cols, detail::Gate<Act, T, space_of<B>>{act, pre, out});
}

/// The gradient of grouped_gate.
/// @param pre    [R,2I], what forward read
/// @param d_out  [R,I]
/// @param d_pre  [R,2I]; may be pre itself
template <Backend B, DifferentiableActivation Act, class Pre, class D, class T>
void grouped_gate_backward(B& b, Group<std::byte const> const& g, Act act,
                           MatrixView<Pre, space_of<B>> pre, MatrixView<D, space_of<B>> d_out,
                           MatrixView<T, space_of<B>> d_pre) {
    detail::expect_rows("grouped_gate_backward", g, pre, 2 * d_out.cols);
    detail::expect_rows("grouped_gate_backward", g, d_out, d_out.cols);
    detail::expect_rows("grouped_gate_backward", g, d_pre, 2 * d_out.cols);
    detail::grouped_elementwise(b, g, d_out.cols,
                                detail::GateBackward<Act, T, space_of<B>>{act, pre, d_out, d_pre});
}

} // namespace semoe::ops
