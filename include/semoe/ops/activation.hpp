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
/// A user's own has `float operator()(float) const`, SEMOE_HD where CUDA shall run it. With a
/// `static constexpr char const* name`, as the shipped ones have, checkpoints tell it from others.
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
    static constexpr char const* name = "identity";
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
    static constexpr char const* name = "relu";
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
    static constexpr char const* name = "gelu";
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
    static constexpr char const* name = "gelu_tanh";
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
    static constexpr char const* name = "silu";
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
} // namespace detail

/// What stands between the two products of an expert, of one column.
namespace unit {
/// y = act(x)
template <class Act>
struct Plain {
    static constexpr int inputs = 1;
    Act act;

    template <Real R>
    SEMOE_HD SEMOE_INLINE R forward(R const (&x)[1]) const {
        return detail::activate(act, x[0]);
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE void backward(R const (&x)[1], R dy, R (&dx)[1]) const {
        dx[0] = dy * detail::derivative(act, x[0]);
    }
};
template <class Act>
Plain(Act) -> Plain<Act>;

/// y = act(gate) * up
template <class Act>
struct Gated {
    static constexpr int inputs = 2;
    Act act;

    template <Real R>
    SEMOE_HD SEMOE_INLINE R forward(R const (&x)[2]) const {
        return detail::activate(act, x[0]) * x[1];
    }
    template <Real R>
    SEMOE_HD SEMOE_INLINE void backward(R const (&x)[2], R dy, R (&dx)[2]) const {
        dx[0] = dy * x[1] * detail::derivative(act, x[0]);
        dx[1] = dy * detail::activate(act, x[0]);
    }
};
template <class Act>
Gated(Act) -> Gated<Act>;
} // namespace unit

namespace detail {
/// A unit between matrices whose columns hold one input after the other.
template <class Unit, class T, class Space>
struct UnitForward {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = Unit::inputs, outputs = 1;

    Unit unit;
    MatrixView<T const, Space> x;
    MatrixView<T, Space> y;

    SEMOE_HD T const* in(int i, GroupPlace at) const { return x.row(at.row) + i * y.cols; }
    SEMOE_HD T* out(int, GroupPlace at) const { return y.row(at.row); }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&in)[inputs][16], Real (&out)[1][16]) const {
        for (int j = 0; j < 16; ++j) {
            Real pre[inputs];
            for (int i = 0; i < inputs; ++i) pre[i] = in[i][j];
            out[0][j] = unit.forward(pre);
        }
    }
};
template <class Unit, class T, class Space>
struct UnitBackward {
    using Element = T;
    using Real = accumulate_t<T>;
    static constexpr int inputs = Unit::inputs + 1, outputs = Unit::inputs;

    Unit unit;
    MatrixView<T const, Space> x, dy;
    MatrixView<T, Space> dx;

    SEMOE_HD T const* in(int i, GroupPlace at) const {
        return i == Unit::inputs ? dy.row(at.row) : x.row(at.row) + i * dy.cols;
    }
    SEMOE_HD T* out(int i, GroupPlace at) const { return dx.row(at.row) + i * dy.cols; }
    SEMOE_HD SEMOE_INLINE void compute(Real const (&in)[inputs][16],
                                       Real (&out)[outputs][16]) const {
        for (int j = 0; j < 16; ++j) {
            Real pre[Unit::inputs], d[Unit::inputs];
            for (int i = 0; i < Unit::inputs; ++i) pre[i] = in[i][j];
            unit.backward(pre, in[Unit::inputs][j], d);
            for (int i = 0; i < Unit::inputs; ++i) out[i][j] = d[i];
        }
    }
};
} // namespace detail

/// y = unit(x) for the rows of a group; rows outside it keep what they hold.
/// @param x  [R, Unit::inputs * I], backend memory: gate's columns first, then those of up
/// @param y  [R,I], backend memory; may be x itself where a unit has one input
/// @throws precondition_error naming the shape or the expert that does not fit
/// @sync enqueues
template <Backend B, class Unit, class X, class T>
void grouped_unit(B& b, Group<std::byte const> const& g, Unit unit, MatrixView<X, space_of<B>> x,
                  MatrixView<T, space_of<B>> y) {
    detail::expect_rows("grouped_unit", g, x, Unit::inputs * y.cols);
    detail::expect_rows("grouped_unit", g, y, y.cols);
    detail::grouped_elementwise(b, g, y.cols,
                                detail::UnitForward<Unit, T, space_of<B>>{unit, x, y});
}

/// The gradient of grouped_unit.
/// @param x   [R, Unit::inputs * I], what forward read
/// @param dy  [R,I]
/// @param dx  as x; may be x itself, or dy where a unit has one input
template <Backend B, class Unit, class X, class D, class T>
void grouped_unit_backward(B& b, Group<std::byte const> const& g, Unit unit,
                           MatrixView<X, space_of<B>> x, MatrixView<D, space_of<B>> dy,
                           MatrixView<T, space_of<B>> dx) {
    detail::expect_rows("grouped_unit_backward", g, x, Unit::inputs * dy.cols);
    detail::expect_rows("grouped_unit_backward", g, dy, dy.cols);
    detail::expect_rows("grouped_unit_backward", g, dx, Unit::inputs * dy.cols);
    detail::grouped_elementwise(b, g, dy.cols,
                                detail::UnitBackward<Unit, T, space_of<B>>{unit, x, dy, dx});
}

} // namespace semoe::ops
