#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/ops/detail/segment.hpp"

#include <type_traits>

namespace semoe::ops {

namespace detail {
template <class From, class To, class Space>
struct Cast {
    VectorView<From const, Space> from;
    VectorView<To, Space> to;
    SEMOE_HD void operator()(index_t i) const {
        index_t const begin = i * segment_length, end = segment_end(begin, to.size);
        convert_run(from.data + begin, end - begin, to.data + begin);
    }
};
} // namespace detail

/// to[i] = from[i], rounded to nearest, ties to even; from doubles to 16 bits by way of float.
/// @param from  [n], backend memory
/// @param to    [n], backend memory, not overlapping `from`
/// @throws precondition_error naming both sizes when they differ
/// @sync enqueues
template <Backend B, class From, Element To>
void cast(B& b, VectorView<From, space_of<B>> from, VectorView<To, space_of<B>> to) {
    expects(from.size == to.size, "cast: from has {} elements, to has {}", from.size, to.size);
    b.parallel_for(detail::segments_of(to.size),
                   detail::Cast<std::remove_const_t<From>, To, space_of<B>>{from, to});
}

} // namespace semoe::ops
