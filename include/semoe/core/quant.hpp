#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <cstdint>
#include <cstring>

/// Weights in 8 and 4 bits. A format keeps a row of numbers as codes, in order, and scales; both
/// are bytes, so a matrix is one array of codes and one of scales, each row after row.
///
/// Numbers that are not finite: what shares a scale with one becomes NaN.
namespace semoe::quant {

namespace detail {

using semoe::detail::bits_of;

/// To the nearest whole number, ties to even. @pre |x| < 2^22
SEMOE_HD constexpr float nearest(float x) {
    float const shift = 12582912.0f; // 1.5 * 2^23: the adder rounds
    return (x + shift) - shift;
}
/// The largest of n magnitudes; NaN where one of them is not finite.
template <class Row>
SEMOE_HD float largest(Row const& w, index_t first, index_t n) {
    std::uint32_t most = 0;
    for (index_t k = first; k < first + n; ++k) {
        std::uint32_t const magnitude = bits_of<std::uint32_t>(float(w(k))) & 0x7fffffffu;
        most = most < magnitude ? magnitude : most;
    }
    return bits_of<float>(most < 0x7f800000u ? most : 0x7fc00000u);
}
/// largest / steps, zero where that is too small for a float of full precision.
SEMOE_HD constexpr float scale_of(float largest, float steps) {
    float const scale = largest / steps;
    return scale < 1.17549435e-38f ? 0.0f : scale;
}
SEMOE_HD inline float load_float(std::uint8_t const* at) {
    float value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
}
SEMOE_HD inline void store_float(std::uint8_t* at, float value) {
    std::memcpy(at, &value, sizeof(value));
}
/// Code k of a row of half bytes, the lower half first.
SEMOE_HD constexpr int nibble(std::uint8_t const* codes, index_t k) {
    return codes[k / 2] >> (k % 2 * 4) & 15;
}
SEMOE_HD constexpr void put_nibble(std::uint8_t* codes, index_t k, int code) {
    int const other = k % 2 == 0 ? 0 : codes[k / 2]; // the upper half comes after the lower
    codes[k / 2] = std::uint8_t(other | code << (k % 2 * 4));
}

} // namespace detail

/// Weights that share a scale, in the formats that have groups; the last group of a row is padded.
inline constexpr index_t group_size = 32;
SEMOE_HD constexpr index_t groups_of(index_t depth) {
    return (depth + group_size - 1) / group_size;
}

/// w = (code - 128) * scale, a float scale a row: |error| <= scale / 2 = largest / 254.
struct Int8 {
    static constexpr LayoutId layout = LayoutId::int8;
    SEMOE_HD static constexpr index_t code_bytes(index_t depth) { return depth; }
    SEMOE_HD static constexpr index_t scale_bytes(index_t) { return 4; }

    SEMOE_HD static float weight(std::uint8_t const* codes, std::uint8_t const* scales, index_t k) {
        return float(int(codes[k]) - 128) * detail::load_float(scales);
    }
    /// Codes and scales of the numbers w(0) to w(depth - 1).
    template <class Row>
    SEMOE_HD static void encode(Row const& w, index_t depth, std::uint8_t* codes,
                                std::uint8_t* scales) {
        float const scale = detail::scale_of(detail::largest(w, 0, depth), 127);
        detail::store_float(scales, scale);
        for (index_t k = 0; k < depth; ++k) {
            float const steps = scale > 0 ? detail::nearest(float(w(k)) / scale) : 0.0f;
            codes[k] = std::uint8_t(128 + int(steps));
        }
    }
};

/// w = (code - 8) * multiplier * scale with codes 1 to 15, a float scale a row and a multiplier of
/// 0 to 18 a group of 32: |error| <= multiplier * scale / 2. The products of codes and multipliers
/// fit into a byte, so that a row can be multiplied as one of Int8.
struct Int4 {
    static constexpr LayoutId layout = LayoutId::int4;
    static constexpr int largest_code = 7, largest_multiplier = 18;
    SEMOE_HD static constexpr index_t code_bytes(index_t depth) { return groups_of(depth) * 16; }
    /// The scale, then the multipliers.
    SEMOE_HD static constexpr index_t scale_bytes(index_t depth) { return 4 + groups_of(depth); }

    /// In units of the row's scale. Neither code 0 nor large multipliers come out of encode().
    SEMOE_HD static constexpr int steps(int code, int multiplier) {
        int const product = (code - 8) * multiplier;
        return product < -128 ? -128 : product > 127 ? 127 : product;
    }
    SEMOE_HD static float weight(std::uint8_t const* codes, std::uint8_t const* scales, index_t k) {
        return float(steps(detail::nibble(codes, k), scales[4 + k / group_size])) *
               detail::load_float(scales);
    }
    template <class Row>
    SEMOE_HD static void encode(Row const& w, index_t depth, std::uint8_t* codes,
                                std::uint8_t* scales) {
        float const unit = detail::scale_of(detail::largest(w, 0, depth),
                                            float(largest_code * largest_multiplier));
        detail::store_float(scales, unit);
        for (index_t g = 0; g < groups_of(depth); ++g) {
            index_t const first = g * group_size, n = min(group_size, depth - first);
            float const reach = float(largest_code) * unit; // of one multiplier
            int multiplier = 0;
            if (unit > 0) {
                float const most = detail::largest(w, first, n);
                multiplier = min(int(most / reach), largest_multiplier);
                if (multiplier < largest_multiplier && float(multiplier) * reach < most)
                    ++multiplier;
            }
            scales[4 + g] = std::uint8_t(multiplier);
            float const scale = float(multiplier) * unit;
            for (index_t k = first; k < first + group_size; ++k) {
                float const steps =
                    k < depth && multiplier > 0 ? detail::nearest(float(w(k)) / scale) : 0.0f;
                detail::put_nibble(codes, k, 8 + max(-largest_code, min(int(steps), largest_code)));
            }
        }
    }
};

/// The 4-bit floats of the OCP microscaling formats: codes e2m1, a scale of a power of two (e8m0)
/// a group of 32, of which encode() takes the better of two.
struct Mxfp4 {
    static constexpr LayoutId layout = LayoutId::mxfp4;
    SEMOE_HD static constexpr index_t code_bytes(index_t depth) { return groups_of(depth) * 16; }
    SEMOE_HD static constexpr index_t scale_bytes(index_t depth) { return groups_of(depth); }

    /// A sign, two bits of exponent, one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
    /// negatives.
    SEMOE_HD static constexpr float e2m1(int code) {
        int const exponent = code >> 1 & 3, mantissa = code & 1;
        float const magnitude = exponent == 0
                                    ? 0.5f * float(mantissa)
                                    : (1 + 0.5f * float(mantissa)) * float(1 << exponent) / 2;
        return (code & 8) != 0 ? -magnitude : magnitude;
    }
    /// 2^(code - 127); 255 is NaN.
    SEMOE_HD static constexpr float e8m0(int code) {
        std::uint32_t const bits = code == 255 ? 0x7fc00000u
                                   : code == 0 ? 0x00400000u
                                               : std::uint32_t(code) << 23;
        return detail::bits_of<float>(bits);
    }
    /// The nearest code, ties to even; larger numbers become the largest.
    SEMOE_HD static constexpr int to_e2m1(float x) {
        float const a = x < 0 ? -x : x;
        int const code = int(a > 0.25f) + int(a >= 0.75f) + int(a > 1.25f) + int(a >= 1.75f) +
                         int(a > 2.5f) + int(a >= 3.5f) + int(a > 5.0f);
        return x < 0 ? code | 8 : code;
    }
    SEMOE_HD static float weight(std::uint8_t const* codes, std::uint8_t const* scales, index_t k) {
        return e2m1(detail::nibble(codes, k)) * e8m0(scales[k / group_size]);
    }
    template <class Row>
    SEMOE_HD static void encode(Row const& w, index_t depth, std::uint8_t* codes,
                                std::uint8_t* scales) {
        for (index_t g = 0; g < groups_of(depth); ++g) {
            index_t const first = g * group_size, n = min(group_size, depth - first);
            int const scale = best_scale(w, first, n);
            scales[g] = std::uint8_t(scale);
            for (index_t k = first; k < first + group_size; ++k)
                detail::put_nibble(codes, k, k < first + n ? to_e2m1(scaled(w(k), scale)) : 0);
        }
    }

private:
    /// x / 2^(scale - 127), exactly; in two steps, since one factor may be no float.
    SEMOE_HD static constexpr float scaled(float x, int scale) {
        int const down = 127 - scale, half = down / 2;
        return x * e8m0(127 + half) * e8m0(127 + down - half);
    }
    /// The largest magnitude shall come to lie between 4 and 8, where 6 is the last, or between 2
    /// and 4: whichever has the smaller sum of squared errors.
    template <class Row>
    SEMOE_HD static int best_scale(Row const& w, index_t first, index_t n) {
        float const most = detail::largest(w, first, n);
        if (most != most) return 255;
        int const exponent = int(detail::bits_of<std::uint32_t>(most) >> 23) - 2;
        int const low = max(exponent, 0);
        float errors[2] = {};
        for (index_t k = first; k < first + n; ++k)
            for (int i = 0; i < 2; ++i) {
                float const x = scaled(w(k), low + i);
                // In units of the finer scale.
                float const error = (e2m1(to_e2m1(x)) - x) * float(1 + i);
                errors[i] += error * error;
            }
        return errors[1] < errors[0] ? low + 1 : low;
    }
};

/// What a format of one's own has to have.
template <class F>
concept Format = requires(std::uint8_t* bytes, std::uint8_t const* read, float const* row) {
    { F::layout } -> std::convertible_to<LayoutId>;
    { F::code_bytes(index_t(1)) } -> std::same_as<index_t>;
    { F::scale_bytes(index_t(1)) } -> std::same_as<index_t>;
    { F::weight(read, read, index_t(0)) } -> std::same_as<float>;
    F::encode([](index_t) { return 0.0f; }, index_t(1), bytes, bytes);
};

} // namespace semoe::quant
