#pragma once

#include "semoe/core/dtype.hpp"
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

/// to[i] = convert(from[i]), sixteen at a time through registers, which is what compilers
/// vectorise.
template <class From, class To>
SEMOE_HD void convert_run(From const* from, index_t n, To* to) {
    index_t i = 0;
    for (; i + 16 <= n; i += 16) {
        To block[16];
        for (index_t j = 0; j < 16; ++j) block[j] = convert<To>(from[i + j]);
        for (index_t j = 0; j < 16; ++j) to[i + j] = block[j];
    }
    for (; i < n; ++i) to[i] = convert<To>(from[i]);
}

} // namespace semoe::ops::detail
