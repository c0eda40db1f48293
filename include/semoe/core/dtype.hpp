#pragma once

#include "semoe/core/config.hpp"

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace semoe {

namespace detail {
/// std::bit_cast, callable from device code without a compiler flag.
template <class To, class From>
SEMOE_HD constexpr To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, from);
}
} // namespace detail

/// bfloat16 storage: the upper half of a float. Arithmetic happens in float.
struct bf16 {
    std::uint16_t bits = 0;

    bf16() = default;
    /// Rounds to nearest, ties to even; NaN stays NaN.
    SEMOE_HD constexpr explicit bf16(float value) {
        auto const u = detail::bits_of<std::uint32_t>(value);
        if ((u & 0x7fffffffu) > 0x7f800000u)
            bits = std::uint16_t((u >> 16) | 0x40u);
        else
            bits = std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
    SEMOE_HD constexpr operator float() const {
        return detail::bits_of<float>(std::uint32_t(bits) << 16);
    }
};

/// IEEE binary16 storage. Arithmetic happens in float.
struct f16 {
    std::uint16_t bits = 0;

    f16() = default;
    /// Rounds to nearest, ties to even; overflow becomes infinity, NaN stays NaN.
    SEMOE_HD constexpr explicit f16(float value) {
        auto const u = detail::bits_of<std::uint32_t>(value);
        std::uint32_t const sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
        if (magnitude > 0x7f800000u) {
            bits = std::uint16_t(sign | 0x7e00u);
        } else if (magnitude >= 0x47800000u) {
            bits = std::uint16_t(sign | 0x7c00u);
        } else if (magnitude >= 0x38800000u) {
            std::uint32_t const rebased = magnitude - 0x38000000u;
            bits = std::uint16_t(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
        } else {
            // Adding 0.5 in units of the smallest subnormal lets the float adder round for us.
            float const shifted = detail::bits_of<float>(magnitude) + 0.5f;
            bits = std::uint16_t(sign | (detail::bits_of<std::uint32_t>(shifted) - 0x3f000000u));
        }
    }
    SEMOE_HD constexpr operator float() const {
        std::uint32_t const sign = std::uint32_t(bits & 0x8000u) << 16;
        std::uint32_t const exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
        if (exponent == 0x1f) return detail::bits_of<float>(sign | 0x7f800000u | (mantissa << 13));
        if (exponent != 0)
            return detail::bits_of<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
        float const subnormal = float(mantissa) * 0x1p-24f;
        return sign ? -subnormal : subnormal;
    }
};

/// The element types a layer may compute in.
template <class T>
concept Element = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, f16> ||
    std::same_as<T, bf16>;

/// The type that sums of T are kept in; also that of logits, gradients, masters and moments.
template <class T>
using accumulate_t = std::conditional_t<std::same_as<std::remove_cv_t<T>, double>, double, float>;

/// Any element type to any other, rounding to nearest; to 16 bits by way of float.
template <Element To, Element From>
SEMOE_HD constexpr To convert(From from) {
    if constexpr (std::same_as<To, From>)
        return from;
    else if constexpr (sizeof(To) == 2)
        return To(static_cast<float>(from));
    else
        return static_cast<To>(from);
}

/// Whether weights of T need a master copy in accumulate_t<T> to be trained.
template <class T>
inline constexpr bool needs_master = !std::same_as<T, accumulate_t<T>>;

/// The type's name in a safetensors file.
template <Element T>
constexpr char const* dtype_name() {
    if constexpr (std::same_as<T, double>) return "F64";
    if constexpr (std::same_as<T, float>) return "F32";
    if constexpr (std::same_as<T, f16>) return "F16";
    if constexpr (std::same_as<T, bf16>) return "BF16";
}

} // namespace semoe
