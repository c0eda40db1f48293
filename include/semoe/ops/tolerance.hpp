#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/types.hpp"

#include <concepts>

namespace semoe::ops {

/// Half the distance from 1 to the next number of T.
template <Element T>
constexpr double unit_roundoff() {
    if constexpr (std::same_as<T, bf16>) return 0x1p-8;
    if constexpr (std::same_as<T, f16>) return 0x1p-11;
    if constexpr (std::same_as<T, float>) return 0x1p-24;
    return 0x1p-53;
}

/// How far a sum of `depth` products, kept in accumulate_t<T> and rounded to T, may lie from the
/// exact one: in units of the sum of the products' magnitudes, so cancellation is no excuse.
template <Element T>
constexpr double tolerance(index_t depth) {
    return unit_roundoff<T>() + double(depth + 2) * unit_roundoff<accumulate_t<T>>();
}

} // namespace semoe::ops
