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

/// The draws of one key, which is mixed once for all of them.
class RngStream {
public:
    SEMOE_HD constexpr explicit RngStream(RngKey key)
      : mixed_(detail::philox(
            {{std::uint32_t(key.step), std::uint32_t(key.step >> 32), key.layer, 0x5e30eu}},
            std::uint32_t(key.seed), std::uint32_t(key.seed >> 32))) {}

    /// Draw number `draw` (below 2^32) of global token `token`: 32 random bits.
    SEMOE_HD constexpr std::uint32_t bits(index_t token, index_t draw) const {
        auto const t = std::uint64_t(token);
        return detail::philox(
                   {{std::uint32_t(t), std::uint32_t(t >> 32), std::uint32_t(draw), mixed_.x[0]}},
                   mixed_.x[1], mixed_.x[2])
            .x[0];
    }
    /// The same for tokens 16 * block and the 15 that follow, in loops that become vector code.
    SEMOE_HD SEMOE_INLINE void bits_of_16(index_t block, index_t draw,
                                          std::uint32_t (&bits)[16]) const {
        auto const t = std::uint64_t(block) * 16;
        std::uint32_t x1[16], x2[16], x3[16];
        for (int j = 0; j < 16; ++j) {
            bits[j] = std::uint32_t(t) + std::uint32_t(j);
            x1[j] = std::uint32_t(t >> 32);
            x2[j] = std::uint32_t(draw);
            x3[j] = mixed_.x[0];
        }
        std::uint32_t k0 = mixed_.x[1], k1 = mixed_.x[2];
        for (int round = 0; round < 10; ++round) {
            for (int j = 0; j < 16; ++j) {
                std::uint64_t const a = std::uint64_t(0xD2511F53u) * bits[j];
                std::uint64_t const b = std::uint64_t(0xCD9E8D57u) * x2[j];
                bits[j] = std::uint32_t(b >> 32) ^ x1[j] ^ k0;
                x1[j] = std::uint32_t(b);
                x2[j] = std::uint32_t(a >> 32) ^ x3[j] ^ k1;
                x3[j] = std::uint32_t(a);
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
    }

private:
    detail::Philox mixed_;
};

/// Draw number `draw` (below 2^32) of global token `token`: 32 random bits.
SEMOE_HD constexpr std::uint32_t random_bits(RngKey key, index_t token, index_t draw) {
    return RngStream(key).bits(token, draw);
}

/// Random bits as a number, uniform in [0, 1), a multiple of 2^-24.
template <class Real = float>
SEMOE_HD constexpr Real uniform_of(std::uint32_t bits) {
    return Real(bits >> 8) * Real(0x1p-24);
}
/// A draw as such a number.
template <class Real = float>
SEMOE_HD constexpr Real random_uniform(RngKey key, index_t token, index_t draw) {
    return uniform_of<Real>(random_bits(key, token, draw));
}

} // namespace semoe
