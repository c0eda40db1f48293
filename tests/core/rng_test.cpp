#include "semoe/core/rng.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <set>

using namespace semoe;

namespace {
bool equals(detail::Philox a, detail::Philox b) {
    return a.x[0] == b.x[0] && a.x[1] == b.x[1] && a.x[2] == b.x[2] && a.x[3] == b.x[3];
}
} // namespace

// The known answers that come with Random123.
TEST_CASE("core/rng: Philox 4x32-10 gives its published answers") {
    CHECK(equals(detail::philox({{0, 0, 0, 0}}, 0, 0),
                 {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
    std::uint32_t const ones = 0xffffffffu;
    CHECK(equals(detail::philox({{ones, ones, ones, ones}}, ones, ones),
                 {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
    CHECK(equals(detail::philox({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u,
                                0x299f31d0u),
                 {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
}

TEST_CASE("core/rng: a draw depends on seed, step, layer, token and number, and on nothing else") {
    RngKey const key{1, 2, 3};
    std::uint32_t const draw = random_bits(key, 5, 7);
    CHECK(random_bits(key, 5, 7) == draw);
    CHECK(random_bits({9, 2, 3}, 5, 7) != draw);
    CHECK(random_bits({1, 9, 3}, 5, 7) != draw);
    CHECK(random_bits({1, 2, 9}, 5, 7) != draw);
    CHECK(random_bits(key, 6, 7) != draw);
    CHECK(random_bits(key, 5, 8) != draw);
    // Upper halves of 64-bit numbers count too.
    CHECK(random_bits({1 + (1ull << 32), 2, 3}, 5, 7) != draw);
    CHECK(random_bits({1, 2 + (1ull << 32), 3}, 5, 7) != draw);
    CHECK(random_bits(key, 5 + (index_t(1) << 32), 7) != draw);
}

TEST_CASE("core/rng: sixteen draws at once are the draws one by one") {
    RngKey const key{7, 1ull << 63, 2};
    RngStream const stream(key);
    for (index_t const block : {index_t(0), index_t(5), index_t(1) << 28, index_t(1) << 40}) {
        std::uint32_t bits[16];
        stream.bits_of_16(block, 3, bits);
        for (int j = 0; j < 16; ++j) {
            CHECK(bits[j] == stream.bits(16 * block + j, 3));
            CHECK(bits[j] == random_bits(key, 16 * block + j, 3));
        }
    }
}

TEST_CASE("core/rng: draws of neighbouring tokens, steps and layers do not repeat") {
    std::set<std::uint32_t> seen;
    int n = 0;
    for (std::uint64_t step : {0u, 1u})
        for (std::uint32_t layer : {0u, 1u})
            for (index_t token = 0; token < 50; ++token)
                for (index_t draw = 0; draw < 50; ++draw, ++n)
                    seen.insert(random_bits({0, step, layer}, token, draw));
    CHECK(int(seen.size()) >= n - 3); // chance alone repeats about 0.01 of 10,000 in 2^32
}

TEST_CASE("core/rng: uniform numbers lie in [0,1) with the moments of the distribution") {
    int const n = 20000;
    double sum = 0, squares = 0, lagged = 0, previous = 0;
    bool inside = true, exact = true;
    for (int i = 0; i < n; ++i) {
        double const u = random_uniform<double>({42, 1, 0}, i, 0);
        CHECK_UNARY(float(u) == random_uniform({42, 1, 0}, i, 0));
        inside &= u >= 0 && u < 1;
        exact &= u * 0x1p24 == std::floor(u * 0x1p24);
        sum += u, squares += u * u, lagged += u * previous;
        previous = u;
    }
    CHECK(inside);
    CHECK(exact);
    CHECK(std::fabs(sum / n - 0.5) < 0.01);
    CHECK(std::fabs(squares / n - 1.0 / 3) < 0.01);
    CHECK(std::fabs(lagged / n - 0.25) < 0.01);
    static_assert(random_uniform(RngKey{}, 0, 0) < 1);
}
