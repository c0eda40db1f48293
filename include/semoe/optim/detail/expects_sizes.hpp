#pragma once

#include "semoe/core/error.hpp"
#include "semoe/optim/concept.hpp"

namespace semoe::optim::detail {

/// @throws precondition_error when a view of the block does not fit its weight, naming both sizes
template <class T, class Space>
void expects_sizes(ParameterBlock<T, Space> const& block, index_t moments) {
    index_t const n = block.weight.size;
    auto const fits = [&](char const* name, index_t size, index_t wanted, bool may_lack) {
        expects(size == wanted || (may_lack && size == 0),
                "optimizer: {} has {} elements, the weight's {} need {}", name, size, n, wanted);
    };
    fits("master", block.master.size, n, !needs_master<T>);
    fits("gradient", block.gradient.size, n, true);
    fits("moments", block.moments.size, moments, false);
}

} // namespace semoe::optim::detail
