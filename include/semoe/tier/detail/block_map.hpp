#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/tier/concept.hpp"

#include <cstdint>
#include <string>
#include <unordered_map>

namespace semoe::tier::detail {

struct BlockKeyHash {
    std::size_t operator()(BlockKey key) const {
        std::uint64_t const where =
            std::uint64_t(std::uint32_t(key.layer)) << 32 | std::uint32_t(key.expert);
        std::uint64_t const mixed = (where ^ std::uint64_t(key.kind) << 60) * 0x9e3779b97f4a7c15u;
        return std::size_t(mixed ^ mixed >> 32);
    }
};

/// @throws precondition_error naming the block unless there can be one of that kind and size
inline void expect_possible(char const* who, BlockKey key, BlockInfo info) {
    expects(int(key.kind) < num_block_kinds, [&] {
        return message("{}: {} is of kind {}, must be below {}", who, to_string(key), int(key.kind),
                       num_block_kinds);
    });
    expects(info.bytes >= 0, [&] {
        return message("{}: {} is declared with {}, must not be negative", who, to_string(key),
                       to_string(info));
    });
}

/// What is known of each declared block; entries stay where they are.
template <class Entry>
using BlockMap = std::unordered_map<BlockKey, Entry, BlockKeyHash>;

/// The entry of a declared block.
/// @throws Error naming the block when there is none
template <class Error, class Map>
auto& declared(Map& blocks, BlockKey key, char const* who) {
    auto const found = blocks.find(key);
    if (found == blocks.end())
        throw Error(message("{}: {} was never declared", who, to_string(key)));
    return found->second;
}

/// @throws Error naming the block, both sizes and both layouts unless they agree
template <class Error>
void expect_same(char const* who, BlockKey key, BlockInfo present, BlockInfo asked) {
    if (present.bytes != asked.bytes || present.layout != asked.layout)
        throw Error(message("{}: {} is declared with {}, but it exists with {}", who,
                            to_string(key), to_string(asked), to_string(present)));
    if (present.contents != asked.contents && present.contents != 0 && asked.contents != 0)
        throw Error(message("{}: {} exists with {}, too, but of other matrices or elements than it "
                            "is declared with",
                            who, to_string(key), to_string(present)));
}

} // namespace semoe::tier::detail
