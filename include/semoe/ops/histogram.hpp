#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/math.hpp"

#include <type_traits>

namespace semoe::ops {

namespace detail {
/// Blocks are at least as long as there are bins, so all of them together take O(n) work.
constexpr index_t histogram_block(index_t bins) { return max(bins, index_t(1024)); }

template <class Id, class Space>
struct CountBlock {
    VectorView<Id const, Space> ids;
    index_t bins, block;
    index_t* counts; ///< [blocks, bins]
    SEMOE_HD void operator()(index_t i) const {
        index_t* mine = counts + i * bins;
        for (index_t e = 0; e < bins; ++e) mine[e] = 0;
        index_t const end = min((i + 1) * block, ids.size);
        for (index_t j = i * block; j < end; ++j) {
            index_t const id = ids[j];
            if (id >= 0 && id < bins) ++mine[id];
        }
    }
};
template <class Space>
struct SumCounts {
    index_t const* counts;
    index_t blocks;
    VectorView<index_t, Space> out;
    SEMOE_HD void operator()(index_t e) const {
        index_t sum = 0;
        for (index_t i = 0; i < blocks; ++i) sum += counts[i * out.size + e];
        out[e] = sum;
    }
};
} // namespace detail

/// Elements of scratch that histogram needs for n ids over `bins` bins: at most n + bins.
constexpr index_t histogram_scratch(index_t n, index_t bins) {
    index_t const block = detail::histogram_block(bins);
    return (n + block - 1) / block * bins;
}

/// counts[e] = how often e occurs. Ids outside [0,bins), -1 above all, are not counted.
/// @param ids      [n] integers, backend memory
/// @param counts   [bins], backend memory, overwritten
/// @param scratch  histogram_scratch(n, bins) elements of backend memory
/// @throws precondition_error naming both sizes when the scratch is too small
/// @sync enqueues
template <Backend B, class Id>
    requires std::is_integral_v<Id>
void histogram(B& b, VectorView<Id, space_of<B>> ids, VectorView<index_t, space_of<B>> counts,
               VectorView<index_t, space_of<B>> scratch) {
    index_t const bins = counts.size, block = detail::histogram_block(bins);
    index_t const needed = histogram_scratch(ids.size, bins);
    expects(scratch.size >= needed, "histogram: scratch holds {} elements, {} needed", scratch.size,
            needed);
    index_t const blocks = (ids.size + block - 1) / block;
    b.parallel_for(blocks, detail::CountBlock<std::remove_const_t<Id>, space_of<B>>{
                               ids, bins, block, scratch.data});
    b.parallel_for(bins, detail::SumCounts<space_of<B>>{scratch.data, blocks, counts});
}

} // namespace semoe::ops
