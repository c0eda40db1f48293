#pragma once

#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"

namespace semoe::ops::detail {

/// Elements that one index of an elementwise operation handles.
inline constexpr index_t segment_length = 64;

SEMOE_HD constexpr index_t segments_of(index_t n) {
    return (n + segment_length - 1) / segment_length;
}
SEMOE_HD constexpr index_t segment_end(index_t begin, index_t n) {
    return min(begin + segment_length, n);
}

} // namespace semoe::ops::detail
