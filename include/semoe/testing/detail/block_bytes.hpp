#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace semoe::testing::detail {

using HostBytes = std::vector<std::byte>;

/// The i-th byte of a pattern.
SEMOE_HD constexpr std::byte pattern_byte(std::uint32_t seed, index_t i) {
    auto const x = (std::uint32_t(i) + seed * 0x9e3779b9u) * 0x85ebca6bu;
    return std::byte((x >> 16) & 0xffu);
}
/// Writes a pattern over memory.
struct StampFn {
    std::byte* data;
    std::uint32_t seed;
    SEMOE_HD void operator()(index_t i) const { data[i] = pattern_byte(seed, i); }
};
/// Changes every byte, depending on what it was.
struct MixFn {
    std::byte* data;
    std::uint32_t seed;
    SEMOE_HD static constexpr std::byte mix(std::byte old, std::uint32_t seed) {
        return std::byte((std::uint32_t(old) * 5u + seed) & 0xffu);
    }
    SEMOE_HD void operator()(index_t i) const { data[i] = mix(data[i], seed); }
};

inline HostBytes pattern(std::uint32_t seed, index_t n) {
    HostBytes bytes(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) bytes[std::size_t(i)] = pattern_byte(seed, i);
    return bytes;
}
/// n bytes of backend memory, once everything enqueued has run.
template <class B>
HostBytes fetched(B& b, std::byte const* data, index_t n) {
    HostBytes bytes(static_cast<std::size_t>(n));
    if (n > 0) b.copy(bytes.data(), data, bytes.size());
    b.synchronize();
    return bytes;
}
inline bool contains_text(char const* text, std::string const& part) {
    return std::string(text).find(part) != std::string::npos;
}

} // namespace semoe::testing::detail
