#pragma once

#include "semoe/backend/cost.hpp"
#include "semoe/optim/concept.hpp"

namespace semoe::optim::detail {

/// Of an optimizer that goes through a block once: moving it, beside which computing is nothing.
template <class T, class Space>
Cost update_cost(ParameterBlock<T, Space> const& block) {
    index_t const reals = block.gradient.size + 2 * (block.master.size + block.moments.size);
    index_t const weights = (block.master.empty() ? 2 : 1) * block.weight.size;
    return {0, double(reals) * sizeof(accumulate_t<T>) + double(weights) * sizeof(T)};
}

} // namespace semoe::optim::detail
