#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"
#include "semoe/tier/cached_options.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace semoe::tier::detail {

/// What has been declared of one kind of block.
struct Demand {
    index_t blocks = 0;       ///< that share slots
    index_t layer_blocks = 0; ///< the most of them in one layer
    index_t slot_bytes = 0;   ///< the largest of them
    index_t pinned_bytes = 0; ///< of those that have memory of their own
};
using Demands = std::array<Demand, num_block_kinds>;
using SlotShares = std::array<index_t, num_block_kinds>;

/// The least that a budget has to be; more than any where it has no number.
inline index_t least_bytes(Demands const& demands, index_t contexts) {
    constexpr index_t most = std::numeric_limits<index_t>::max();
    index_t bytes = 0;
    for (Demand const& d : demands) {
        index_t const slots = std::min(d.blocks, contexts);
        if (slots > 0 && d.slot_bytes > (most - bytes) / slots) return most;
        bytes += slots * d.slot_bytes;
        if (d.pinned_bytes > most - bytes) return most;
        bytes += d.pinned_bytes;
    }
    return bytes;
}

/// Slots of each kind within a budget. A few of each first, so that transfers overlap with work;
/// then weights, which a training step reads three times and each token once; then gradients of a
/// layer, whose norm is wanted, and states for its update, so that they come while the layer before
/// it computes; then all gradients, then what only an update reads.
/// @throws precondition_error naming the budget and the least that would do
inline SlotShares shares_of_bytes(index_t bytes, index_t contexts, Demands const& demands) {
    index_t const least = least_bytes(demands, contexts);
    expects(bytes >= least,
            "CachedOptions: bytes is {}; the blocks declared so far need at least {}", bytes,
            least);
    index_t left = bytes - least;
    SlotShares slots{};
    auto const add = [&](std::size_t kind, index_t most) {
        Demand const& d = demands[kind];
        index_t n = std::min(most, d.blocks) - slots[kind];
        if (d.slot_bytes > 0) n = std::min(n, left / d.slot_bytes);
        if (n <= 0) return;
        slots[kind] += n;
        left -= n * d.slot_bytes;
    };
    for (std::size_t kind = 0; kind < demands.size(); ++kind)
        slots[kind] = std::min(demands[kind].blocks, contexts);
    constexpr index_t few = 4;
    for (index_t n = 2; n <= few; ++n)
        for (std::size_t kind = 0; kind < demands.size(); ++kind)
            add(kind, n * std::min(demands[kind].blocks, contexts));
    auto const of_layer = [&](std::size_t kind) { return demands[kind].layer_blocks; };
    constexpr auto gradient = std::size_t(BlockKind::gradient);
    constexpr auto master = std::size_t(BlockKind::master);
    constexpr auto moments = std::size_t(BlockKind::moments);
    add(std::size_t(BlockKind::weight), demands[std::size_t(BlockKind::weight)].blocks);
    add(gradient, of_layer(gradient));
    // Alike, since an update waits for whichever of an expert's states comes last.
    for (index_t n = few + 1; n <= std::max(of_layer(master), of_layer(moments)); ++n)
        for (std::size_t const kind : {master, moments}) add(kind, std::min(n, of_layer(kind)));
    for (std::size_t const kind : {gradient, master, moments}) add(kind, demands[kind].blocks);
    return slots;
}

/// Slots of each kind, never more than there are blocks.
/// @throws precondition_error as shares_of_bytes
inline SlotShares shares(CachedOptions const& options, Demands const& demands) {
    if (options.bytes > 0) return shares_of_bytes(options.bytes, options.contexts, demands);
    SlotShares slots{};
    for (std::size_t kind = 0; kind < demands.size(); ++kind) {
        Demand const& d = demands[kind];
        index_t const of_layers = std::min(options.layers, d.blocks) * d.layer_blocks;
        slots[kind] = std::min(d.blocks, options.layers > 0 ? std::max(of_layers, options.contexts)
                                                            : options.slots);
    }
    return slots;
}

} // namespace semoe::tier::detail
