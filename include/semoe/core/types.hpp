#pragma once

#include "semoe/core/config.hpp"

#include <compare>
#include <cstddef>
#include <cstdint>

namespace semoe {

/// Sizes, rows and offsets; 64 bits, so that layers past 2^31 elements are ordinary.
using index_t = std::int64_t;
/// An expert's number in [0, num_experts); dropped_expert marks a choice that leads nowhere.
using expert_id = std::int32_t;
using layer_id = std::int32_t;

inline constexpr expert_id dropped_expert = -1;

/// Blocks that belong to no routed expert carry a negative expert number.
inline constexpr expert_id router_block = -1;
inline constexpr expert_id shared_block = -2;

/// What a block holds. Slots of a tier are counted per kind.
enum class BlockKind : std::uint8_t { weight, gradient, master, moments };
inline constexpr int num_block_kinds = 4;

inline char const* to_string(BlockKind kind) {
    switch (kind) {
    case BlockKind::weight:
        return "weight";
    case BlockKind::gradient:
        return "gradient";
    case BlockKind::master:
        return "master";
    case BlockKind::moments:
        return "moments";
    }
    return "unknown";
}

/// Names one block of parameters: layer, expert (negative: router, shared or dense), kind.
struct BlockKey {
    layer_id layer = 0;
    expert_id expert = 0;
    BlockKind kind = BlockKind::weight;

    // Written out: nvcc does not define what a defaulted <=> implies.
    friend constexpr bool operator==(BlockKey const& a, BlockKey const& b) {
        return a.layer == b.layer && a.expert == b.expert && a.kind == b.kind;
    }
    friend constexpr auto operator<=>(BlockKey const& a, BlockKey const& b) {
        if (a.layer != b.layer) return a.layer <=> b.layer;
        if (a.expert != b.expert) return a.expert <=> b.expert;
        return a.kind <=> b.kind;
    }
};

/// How a lease will use its block. `overwrite` promises to write every byte, so nothing is loaded.
enum class Access : std::uint8_t { read, write, overwrite };

} // namespace semoe
