#pragma once

#include "semoe/core/types.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace semoe::io {

/// 64 bits over some bytes and their number. What changes within any one word of 8 bytes changes
/// the checksum for certain: each word goes through a bijection of its lane, and so does each lane
/// of the result. It guards against accidents, not against forgery.
/// @cost one pass, as fast as memory is read
inline std::uint64_t checksum(std::span<std::byte const> bytes) {
    constexpr std::uint64_t odd = 0x9e3779b97f4a7c15u;
    constexpr std::size_t lanes = 8, word = sizeof(std::uint64_t), line = lanes * word;
    std::uint64_t lane[lanes];
    for (std::size_t i = 0; i < lanes; ++i) lane[i] = (2 * i + 1) * odd;
    auto const take = [&](std::byte const* p) {
        for (std::size_t i = 0; i < lanes; ++i) {
            std::uint64_t value;
            std::memcpy(&value, p + i * word, word);
            lane[i] = std::rotl((lane[i] ^ value) * odd, 29);
        }
    };
    std::size_t at = 0;
    for (; at + line <= bytes.size(); at += line) take(bytes.data() + at);
    if (at < bytes.size()) { // zeros complete the last line; the number of bytes tells them apart
        std::byte rest[line] = {};
        std::memcpy(rest, bytes.data() + at, bytes.size() - at);
        take(rest);
    }
    std::uint64_t sum = bytes.size();
    for (std::uint64_t const value : lane) {
        sum = (sum ^ value) * odd;
        sum ^= sum >> 32;
    }
    return sum;
}

} // namespace semoe::io
