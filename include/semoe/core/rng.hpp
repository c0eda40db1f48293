#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

namespace semoe {

/// Names a stream of random numbers. Together with a global token index it fixes every draw,
/// so that no result depends on how tokens are spread over ranks, chunks or threads.
struct RngKey {
    std::uint64_t seed = 0;
    std::uint64_t step = 0;
    std::uint32_t layer = 0;
};

namespace detail {
struct Philox {
    std::uint32_t x[4];
};
/// Philox 4x32 with ten rounds (Salmon et al., SC 2011): a hash, not a sequence.
SEMOE_HD constexpr Philox philox(Philox counter, std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        std::uint64_t const a = std::uint64_t(0xD2511F53u) * counter.x[0];
        std::uint64_t const b = std::uint64_t(0xCD9E8D57u) * counter.x[2];
        counter = {{std::uint32_t(b >> 32) ^ counter.x[1] ^ k0, std::uint32_t(b),
                    std::uint32_t(a >> 32) ^ counter.x[3] ^ k1, std::uint32_t(a)}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return counter;
}
} // namespace detail

/// Draw number `draw` (below 2^32) of global token `token`: 32 random bits.
SEMOE_HD constexpr std::uint32_t random_bits(RngKey key, index_t token, index_t draw) {
    auto const mixed = detail::philox(
        {{std::uint32_t(key.step), std::uint32_t(key.step >> 32), key.layer, 0x5e30eu}},
        std::uint32_t(key.seed), std::uint32_t(key.seed >> 32));
    auto const t = std::uint64_t(token);
    return detail::philox(
               {{std::uint32_t(t), std::uint32_t(t >> 32), std::uint32_t(draw), mixed.x[0]}},
               mixed.x[1], mixed.x[2])
        .x[0];
}

/// Uniform in [0, 1), a multiple of 2^-24.
template <class Real = float>
SEMOE_HD constexpr Real random_uniform(RngKey key, index_t token, index_t draw) {
    return Real(random_bits(key, token, draw) >> 8) * Real(0x1p-24);
}

} // namespace semoe
