#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/dtype.hpp"

#include <cmath>
#include <concepts>

namespace semoe {

/// Scalar functions of float and double for host and device code. Those of float that a layer
/// calls once an element are branch-free, so a loop over a block of 16 becomes vector code.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// A NaN on the left gives the right operand.
template <class T>
SEMOE_HD constexpr T max(T a, T b) {
    return a > b ? a : b;
}
template <class T>
SEMOE_HD constexpr T min(T a, T b) {
    return a < b ? a : b;
}
template <Real T>
SEMOE_HD constexpr bool is_finite(T x) {
    return x - x == T(0);
}
template <Real T>
SEMOE_HD constexpr bool is_nan(T x) {
    return x != x;
}

/// Templates all, so that `using namespace semoe` never competes with the C library's functions.

/// e^x within 2e-7 of its value; 0 and infinity where the result leaves float, NaN for NaN.
template <Real T>
SEMOE_HD T exp(T x) {
    return std::exp(x);
}
template <Real T>
SEMOE_HD T log(T x) {
    return std::log(x);
}
template <Real T>
SEMOE_HD T log1p(T x) {
    return std::log1p(x);
}
template <Real T>
SEMOE_HD T sqrt(T x) {
    return std::sqrt(x);
}
template <Real T>
SEMOE_HD T tanh(T x) {
    return std::tanh(x);
}
template <Real T>
SEMOE_HD T erf(T x) {
    return std::erf(x);
}
template <Real T>
SEMOE_HD T abs(T x) {
    return std::fabs(x);
}

template <Real T>
SEMOE_HD T sigmoid(T x) {
    return T(1) / (T(1) + exp(-x));
}
template <Real T>
SEMOE_HD T sigmoid_derivative(T x) {
    T const s = sigmoid(x);
    return s * (T(1) - s);
}
/// log(1 + e^x), for any size of x.
template <Real T>
SEMOE_HD T softplus(T x) {
    return max(x, T(0)) + log1p(exp(-abs(x)));
}
template <Real T>
SEMOE_HD T softplus_derivative(T x) {
    return sigmoid(x);
}
template <Real T>
SEMOE_HD T tanh_derivative(T x) {
    T const t = tanh(x);
    return T(1) - t * t;
}

template <Real T>
SEMOE_HD T relu(T x) {
    return x > T(0) ? x : T(0);
}
/// 0 at the kink.
template <Real T>
SEMOE_HD T relu_derivative(T x) {
    return x > T(0) ? T(1) : T(0);
}
/// x * sigmoid(x)
template <Real T>
SEMOE_HD T silu(T x) {
    return x / (T(1) + exp(-x));
}
template <Real T>
SEMOE_HD T silu_derivative(T x) {
    T const s = sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
}
/// x * Phi(x) with the normal distribution Phi (Hendrycks and Gimpel, arXiv 1606.08415).
template <Real T>
SEMOE_HD T gelu(T x) {
    return T(0.5) * x * (T(1) + erf(x * T(0.70710678118654752440)));
}
template <Real T>
SEMOE_HD T gelu_derivative(T x) {
    T const phi = T(0.39894228040143267794) * exp(T(-0.5) * x * x);
    return T(0.5) * (T(1) + erf(x * T(0.70710678118654752440))) + x * phi;
}
/// The approximation of gelu by tanh, from the same paper.
template <Real T>
SEMOE_HD T gelu_tanh(T x) {
    T const u = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
    return T(0.5) * x * (T(1) + tanh(u));
}
template <Real T>
SEMOE_HD T gelu_tanh_derivative(T x) {
    T const u = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
    T const du = T(0.79788456080286535588) * (T(1) + T(3 * 0.044715) * x * x);
    T const t = tanh(u);
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * du;
}

} // namespace semoe
