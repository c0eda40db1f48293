#include "semoe/checkpoint/number.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <doctest/doctest.h>
#include <limits>
#include <random>

using namespace semoe::checkpoint;

namespace {
template <class T>
T round_trip(T value) {
    T back = {};
    REQUIRE(number(to_text(value), back));
    return back;
}
} // namespace

TEST_CASE("checkpoint/number: a double's text gives back its bits") {
    std::mt19937_64 random(1);
    for (int i = 0; i < 20'000; ++i) {
        std::uint64_t const bits = random();
        double const value = std::bit_cast<double>(bits);
        if (std::isnan(value))
            CHECK(std::isnan(round_trip(value)));
        else
            CHECK(std::bit_cast<std::uint64_t>(round_trip(value)) == bits);
    }
    for (double value : {0.0, -0.0, 5e-324, 0.1, std::numeric_limits<double>::max(),
                         -std::numeric_limits<double>::infinity()})
        CHECK(std::bit_cast<std::uint64_t>(round_trip(value)) ==
              std::bit_cast<std::uint64_t>(value));
    CHECK(to_text(0.1) == "0.1");
    CHECK(to_text(0.1f) == "0.1");
}

TEST_CASE("checkpoint/number: whole numbers keep their ends, and what is none is refused") {
    CHECK(round_trip(std::numeric_limits<std::int64_t>::min()) ==
          std::numeric_limits<std::int64_t>::min());
    CHECK(round_trip(std::numeric_limits<std::uint64_t>::max()) ==
          std::numeric_limits<std::uint64_t>::max());
    std::int32_t to = 5;
    for (char const* text : {"", " 1", "1 ", "1.0", "x", "2147483648", "--1", "+1", "0x10"}) {
        CAPTURE(text);
        CHECK_FALSE(number(text, to));
    }
    double real = 5;
    for (char const* text : {"", "1e", "1,5", " 1", "1e999"}) {
        CAPTURE(text);
        CHECK_FALSE(number(text, real));
    }
    CHECK(to == 5);
    CHECK(real == 5);
}
