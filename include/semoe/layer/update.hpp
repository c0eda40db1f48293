#pragma once

#include "semoe/layer/blocks.hpp"
#include "semoe/optim/concept.hpp"

#include <optional>

namespace semoe::detail {

/// One optimizer step over one block whose weights are of type W.
template <class W, class B, class X, class M, class O>
void update_block_of(B& b, LayerBlocks<B, X, M>& blocks, O const& optimizer, expert_id id,
                     UpdateStep const& step) {
    using Real = accumulate_t<typename X::value_type>;
    index_t const n = blocks.layout(id).primary_elements();
    auto weight = blocks.acquire(b, id, BlockKind::weight, Access::write);
    ParameterBlock<W, space_of<B>> block;
    block.weight = view_as<W>(weight.bytes()).part(0, n);
    using Lease = decltype(weight);
    std::optional<Lease> gradient, master, moments;
    if (blocks.has_gradient(id)) {
        auto const& lease =
            gradient.emplace(blocks.acquire(b, id, BlockKind::gradient, Access::read));
        block.gradient = view_as<Real>(lease.bytes()).part(0, n);
    }
    if (blocks.has_master(id)) {
        auto const& lease = master.emplace(blocks.acquire(b, id, BlockKind::master, Access::write));
        block.master = view_as<Real>(lease.bytes()).part(0, n);
    }
    if (O::moments_per_element > 0) {
        auto const& lease =
            moments.emplace(blocks.acquire(b, id, BlockKind::moments, Access::write));
        block.moments = view_as<Real>(lease.bytes());
    }
    optimizer.update(b, block, step);
    if (step.zero_grad) blocks.clear_gradient(id); // before a tier could evict it
}
template <class B, class X, class M, class O>
void update_block(B& b, LayerBlocks<B, X, M>& blocks, O const& optimizer, expert_id id,
                  UpdateStep const& step) {
    using T = typename X::value_type;
    if (blocks.is_real(id))
        update_block_of<accumulate_t<T>>(b, blocks, optimizer, id, step);
    else
        update_block_of<T>(b, blocks, optimizer, id, step);
}

} // namespace semoe::detail
