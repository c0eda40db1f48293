#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/detail/segment.hpp"

#include <type_traits>

namespace semoe::ops {

namespace detail {
template <class T, class Space>
struct Fill {
    VectorView<T, Space> v;
    T value;
    SEMOE_HD void operator()(index_t i) const {
        index_t const begin = i * segment_length, end = segment_end(begin, v.size);
        for (index_t j = begin; j < end; ++j) v[j] = value;
    }
};
} // namespace detail

/// v[i] = value.
/// @param v  [n], backend memory
/// @sync enqueues
template <Backend B, class T>
void fill(B& b, VectorView<T, space_of<B>> v, std::type_identity_t<T> value) {
    b.parallel_for(detail::segments_of(v.size), detail::Fill<T, space_of<B>>{v, value});
}

} // namespace semoe::ops
