#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/math.hpp"

#include <cstdint>

namespace semoe::optim::detail {

/// A magnitude from 0 to `largest` in Bits bits: of the float x + 2^-15 the exponent and the first
/// bits of the mantissa, counted from those of 2^-15. So what is large has a relative precision,
/// what is small has even steps down to 0, whose code is 0, and no table is needed either way.
template <int Bits>
struct MagnitudeCode {
    static constexpr int mantissa = Bits - 4;
    static constexpr int dropped = 23 - mantissa;
    static constexpr float offset = 0x1p-15f;
    static constexpr std::uint32_t first = semoe::detail::bits_of<std::uint32_t>(offset);
    static constexpr std::uint32_t last = (std::uint32_t(1) << Bits) - 1;
    /// Added before bits are dropped, so that the nearest code is taken. A random number of
    /// `dropped` bits in its place rounds up as often as is needed for the mean to be x.
    static constexpr std::uint32_t to_nearest = std::uint32_t(1) << (dropped - 1);

    SEMOE_HD SEMOE_INLINE static constexpr std::uint32_t encode(float x, std::uint32_t rounding) {
        std::uint32_t const above = semoe::detail::bits_of<std::uint32_t>(x + offset) - first;
        return semoe::min((above + rounding) >> dropped, last);
    }
    SEMOE_HD SEMOE_INLINE static constexpr float decode(std::uint32_t code) {
        return semoe::detail::bits_of<float>(first + (code << dropped)) - offset;
    }
    /// What the last code stands for.
    static constexpr float largest = 2.0f - 1.0f / float(1 << mantissa) - offset;
};

} // namespace semoe::optim::detail
