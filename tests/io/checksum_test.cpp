#include "semoe/io/checksum.hpp"

#include <doctest/doctest.h>

#include <set>
#include <vector>

using namespace semoe;

namespace {
std::vector<std::byte> some_bytes(std::size_t n) {
    std::vector<std::byte> bytes(n);
    for (std::size_t i = 0; i < n; ++i) bytes[i] = std::byte(i * 37 + i / 5);
    return bytes;
}
} // namespace

TEST_CASE("io/checksum: any flipped bit changes it, at every length around a line") {
    for (std::size_t const n : {1u, 7u, 8u, 63u, 64u, 65u, 131u}) {
        auto bytes = some_bytes(n);
        std::uint64_t const whole = io::checksum(bytes);
        CHECK(io::checksum(bytes) == whole);
        for (std::size_t bit = 0; bit < 8 * n; ++bit) {
            bytes[bit / 8] ^= std::byte(1 << bit % 8);
            CHECK(io::checksum(bytes) != whole);
            bytes[bit / 8] ^= std::byte(1 << bit % 8);
        }
    }
}

TEST_CASE("io/checksum: zeros of every length, and words in another order, differ") {
    std::set<std::uint64_t> seen;
    for (std::size_t n = 0; n < 300; ++n) seen.insert(io::checksum(std::vector<std::byte>(n)));
    CHECK(seen.size() == 300);

    auto bytes = some_bytes(256);
    for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8)
        for (std::size_t j = i + 8; j + 8 <= bytes.size(); j += 8) {
            auto swapped = bytes;
            for (std::size_t k = 0; k < 8; ++k) std::swap(swapped[i + k], swapped[j + k]);
            seen.insert(io::checksum(swapped));
        }
    CHECK(seen.size() == 300 + 32 * 31 / 2);
}
