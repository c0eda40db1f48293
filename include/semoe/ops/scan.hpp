#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/math.hpp"

#include <type_traits>

namespace semoe::ops {

namespace detail {
inline constexpr index_t scan_block = 2048;

template <class In, class Space>
struct BlockSum {
    VectorView<In const, Space> in;
    index_t* sums;
    SEMOE_HD void operator()(index_t i) const {
        index_t const end = min((i + 1) * scan_block, in.size);
        index_t sum = 0;
        for (index_t j = i * scan_block; j < end; ++j) sum += in[j];
        sums[i] = sum;
    }
};
struct ScanInPlace {
    index_t* v;
    index_t n;
    SEMOE_HD void operator()(index_t) const {
        index_t sum = 0;
        for (index_t i = 0; i < n; ++i) {
            index_t const value = v[i];
            v[i] = sum;
            sum += value;
        }
    }
};
template <class In, class Space>
struct ScanBlock {
    VectorView<In const, Space> in;
    index_t const* starts; ///< null for a single block
    index_t* out;
    SEMOE_HD void operator()(index_t i) const {
        index_t const end = min((i + 1) * scan_block, in.size);
        index_t sum = starts ? starts[i] : 0;
        for (index_t j = i * scan_block; j < end; ++j) {
            index_t const value = in[j];
            out[j] = sum;
            sum += value;
        }
        if (end == in.size) out[end] = sum;
    }
};
} // namespace detail

/// Elements of scratch that exclusive_scan needs for n elements.
constexpr index_t scan_scratch(index_t n) {
    return (n + detail::scan_block - 1) / detail::scan_block;
}

/// out[i] = in[0] + ... + in[i-1] for i in [0,n]; out[n] is the total.
/// @param in       [n] integers, backend memory
/// @param out      [n+1], backend memory, not overlapping in
/// @param scratch  scan_scratch(n) elements of backend memory
/// @throws precondition_error naming the sizes that do not fit
/// @sync enqueues
/// @cost reads `in` twice when n is above 2048, else once
template <Backend B, class In>
    requires std::is_integral_v<In>
void exclusive_scan(B& b, VectorView<In, space_of<B>> in, VectorView<index_t, space_of<B>> out,
                    VectorView<index_t, space_of<B>> scratch) {
    index_t const blocks = scan_scratch(in.size);
    expects(out.size == in.size + 1 && scratch.size >= blocks,
            "exclusive_scan: in has {} elements, out {}, scratch {} of {}", in.size, out.size,
            scratch.size, blocks);
    using I = std::remove_const_t<In>;
    if (blocks > 1) {
        b.parallel_for(blocks, detail::BlockSum<I, space_of<B>>{in, scratch.data});
        b.parallel_for(1, detail::ScanInPlace{scratch.data, blocks});
    }
    b.parallel_for(max(blocks, index_t(1)), detail::ScanBlock<I, space_of<B>>{
                                                in, blocks > 1 ? scratch.data : nullptr, out.data});
}

} // namespace semoe::ops
