#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/dtype.hpp"

#include <cmath>
#include <concepts>
#include <cstdint>

namespace semoe {

/// Scalar functions of float and double for host and device code. Those of float that a layer
/// calls once an element are branch-free and always inlined, so a loop over a block of 16 becomes
/// vector code, also inside a function for another instruction set than the caller's.
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

namespace detail {
/// c0 + x c1 + x^2 c2 + ...
template <class T, class... Rest>
SEMOE_HD SEMOE_INLINE constexpr T polynomial(T x, T c0, Rest... rest) {
    if constexpr (sizeof...(rest) == 0)
        return c0;
    else
        return c0 + x * polynomial(x, rest...);
}

/// condition ? a : b by bits. A compiler that sees a branch may give each side a copy of all that
/// follows, and vector code then runs every copy.
SEMOE_HD SEMOE_INLINE float select(bool condition, float a, float b) {
    std::uint32_t const mask = 0u - std::uint32_t(condition);
    return bits_of<float>((bits_of<std::uint32_t>(a) & mask) | (bits_of<std::uint32_t>(b) & ~mask));
}
SEMOE_HD SEMOE_INLINE float with_sign_of(float x, float magnitude) {
    return bits_of<float>((bits_of<std::uint32_t>(x) & 0x80000000u) |
                          bits_of<std::uint32_t>(magnitude));
}

/// e^x = 2^n e^r with |r| <= log(2)/2. Adding 1.5 * 2^23 rounds to an integer, which then lies in
/// the sum's lowest bits, also where a compiler was told to reassociate sums; 2^n is made of two
/// factors, since n alone may leave the exponent's range.
SEMOE_HD SEMOE_INLINE float exp_float(float x) {
    x = select(x < -104.0f, -104.0f, x);
    x = select(x > 89.0f, 89.0f, x);
    std::uint32_t const shifted = bits_of<std::uint32_t>(x * 1.44269504f + 12582912.0f);
    float const n = float(std::int32_t(shifted - 0x4b400000u));
    float const r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float const p = polynomial(r, 1.0f, 1.0f, 0.4999999343f, 0.166665204f, 0.04166839072f,
                               0.008368745395f, 0.001381454339f);
    std::uint32_t const biased = shifted - (0x4b400000u - 254u);
    std::uint32_t const half = biased >> 1;
    return p * bits_of<float>(half << 23) * bits_of<float>((biased - half) << 23);
}

/// 1 - erf(t) for t >= 0, as e^(-t q(t)): small in relative error out to where it vanishes.
SEMOE_HD SEMOE_INLINE float erfc_float(float t) {
    t = select(t > 10.0f, 10.0f, t);
    float const q = polynomial(t, 1.128381955f, 0.6365757038f, 0.1030006062f, -0.01967917475f,
                               0.0005002141769f, 0.001203831101f, -0.000456115249f, 8.681520431e-5f,
                               -8.899420184e-6f, 3.892499647e-7f);
    return exp_float(-t * q);
}
} // namespace detail

/// e^x within 2e-7 of its value; 0 and infinity where the result leaves float, NaN for NaN.
template <Real T>
SEMOE_HD SEMOE_INLINE T exp(T x) {
    if constexpr (std::same_as<T, float>)
        return detail::exp_float(x);
    else
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
SEMOE_HD SEMOE_INLINE T abs(T x) {
    return std::fabs(x);
}

template <Real T>
SEMOE_HD SEMOE_INLINE T tanh(T x) {
    if constexpr (std::same_as<T, float>) {
        float const t = detail::exp_float(-2.0f * abs(x)), y = (1.0f - t) / (1.0f + t);
        float const s = x * x;
        float const near =
            x * detail::polynomial(s, 0.9999999975f, -0.3333328326f, 0.1333168899f, -0.05376870672f,
                                   0.02075363456f, -0.005852174335f);
        return detail::select(s < 0.36f, near, detail::with_sign_of(x, y));
    } else {
        return std::tanh(x);
    }
}
template <Real T>
SEMOE_HD SEMOE_INLINE T erf(T x) {
    if constexpr (std::same_as<T, float>) {
        float const s = x * x, y = 1.0f - detail::erfc_float(abs(x));
        float const near =
            x * detail::polynomial(s, 1.128379166f, -0.3761262751f, 0.1128352736f, -0.02684358139f,
                                   0.005135805008f, -0.0006927784205f);
        return detail::select(s < 0.5f, near, detail::with_sign_of(x, y));
    } else {
        return std::erf(x);
    }
}
/// The standard normal distribution's integral up to x.
template <Real T>
SEMOE_HD SEMOE_INLINE T normal_cdf(T x) {
    T const t = abs(x) * T(0.70710678118654752440);
    if constexpr (std::same_as<T, float>) {
        float const tail = 0.5f * detail::erfc_float(t);
        return detail::select(x < 0.0f, tail, 1.0f - tail);
    } else {
        T const tail = T(0.5) * std::erfc(t);
        return x < T(0) ? tail : T(1) - tail;
    }
}
/// Its density at x.
template <Real T>
SEMOE_HD SEMOE_INLINE T normal_density(T x) {
    return T(0.39894228040143267794) * exp(T(-0.5) * x * x);
}

template <Real T>
SEMOE_HD SEMOE_INLINE T sigmoid(T x) {
    return T(1) / (T(1) + exp(-x));
}
template <Real T>
SEMOE_HD SEMOE_INLINE T sigmoid_derivative(T x) {
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
SEMOE_HD SEMOE_INLINE T tanh_derivative(T x) {
    T const t = tanh(x);
    return T(1) - t * t;
}

template <Real T>
SEMOE_HD SEMOE_INLINE T relu(T x) {
    return x < T(0) ? T(0) : x; // NaN stays
}
/// 0 at the kink; 1 for a NaN, so that the gradient shows what comes back.
template <Real T>
SEMOE_HD SEMOE_INLINE T relu_derivative(T x) {
    if constexpr (std::same_as<T, float>)
        return detail::select(x <= 0.0f, 0.0f, 1.0f);
    else
        return x <= T(0) ? T(0) : T(1);
}
/// x * sigmoid(x)
template <Real T>
SEMOE_HD SEMOE_INLINE T silu(T x) {
    return x / (T(1) + exp(-x));
}
template <Real T>
SEMOE_HD SEMOE_INLINE T silu_derivative(T x) {
    T const s = sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
}
/// x * normal_cdf(x) (Hendrycks and Gimpel, arXiv 1606.08415).
template <Real T>
SEMOE_HD SEMOE_INLINE T gelu(T x) {
    return x * normal_cdf(x);
}
template <Real T>
SEMOE_HD SEMOE_INLINE T gelu_derivative(T x) {
    return normal_cdf(x) + x * normal_density(x);
}
/// The approximation of gelu by tanh, from the same paper; (1 + tanh(u)) / 2 is sigmoid(2u).
template <Real T>
SEMOE_HD SEMOE_INLINE T gelu_tanh(T x) {
    T const u = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
    return x * sigmoid(T(2) * u);
}
template <Real T>
SEMOE_HD SEMOE_INLINE T gelu_tanh_derivative(T x) {
    // The same there as further out, where squares overflow; a NaN stays one.
    x = max(T(-64), min(T(64), x));
    T const u = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
    T const du = T(0.79788456080286535588) * (T(1) + T(3 * 0.044715) * x * x);
    T const s = sigmoid(T(2) * u);
    return s + x * s * (T(1) - s) * T(2) * du;
}

} // namespace semoe
