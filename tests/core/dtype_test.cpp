#include "semoe/core/dtype.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <string>

using namespace semoe;

namespace {

/// The value of a pattern of sign, exponent and mantissa bits, by the definition.
double by_definition(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
    std::uint32_t const mantissa = bits & ((1u << mantissa_bits) - 1);
    int const exponent = int(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
    int const bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
    double const sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1 : 1;
    if (exponent == top)
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
    if (exponent == 0) return sign * std::ldexp(double(mantissa), 1 - bias - mantissa_bits);
    return sign *
           std::ldexp(double(mantissa + (1u << mantissa_bits)), exponent - bias - mantissa_bits);
}

template <class T>
T from_bits(std::uint32_t bits) {
    T value;
    value.bits = std::uint16_t(bits);
    return value;
}

template <class T>
struct Format;
template <>
struct Format<bf16> {
    static constexpr int exponent_bits = 8, mantissa_bits = 7;
    static constexpr std::uint32_t infinity = 0x7f80;
};
template <>
struct Format<f16> {
    static constexpr int exponent_bits = 5, mantissa_bits = 10;
    static constexpr std::uint32_t infinity = 0x7c00;
};

} // namespace

TEST_CASE_TEMPLATE("core/dtype: every 16-bit pattern is the number that the format says", T, bf16,
                   f16) {
    int wrong = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        double const expected =
            by_definition(bits, Format<T>::exponent_bits, Format<T>::mantissa_bits);
        double const got = double(float(from_bits<T>(bits)));
        bool const same = std::isnan(expected)
                              ? std::isnan(got)
                              : got == expected && std::signbit(got) == std::signbit(expected);
        wrong += !same;
    }
    CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("core/dtype: every 16-bit pattern survives the way to float and back", T, bf16,
                   f16) {
    int wrong = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        T const value = from_bits<T>(bits), back = T(float(value));
        if ((bits & 0x7fffu) > Format<T>::infinity)
            wrong += !((back.bits & 0x7fffu) > Format<T>::infinity); // some NaN
        else
            wrong += back.bits != bits;
    }
    CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("core/dtype: between two neighbours the nearer wins, the even one in the middle",
                   T, bf16, f16) {
    int wrong = 0;
    // A float has bits enough to hold the middle and its own neighbours.
    for (std::uint32_t bits = 0; bits + 1 < Format<T>::infinity; ++bits) {
        float const low = float(from_bits<T>(bits)), high = float(from_bits<T>(bits + 1));
        float const middle = low + (high - low) / 2;
        std::uint32_t const even = bits % 2 == 0 ? bits : bits + 1;
        wrong += T(middle).bits != even;
        wrong += T(-middle).bits != (even | 0x8000u);
        wrong += T(std::nextafter(middle, 0.0f)).bits != bits;
        float const infinity = std::numeric_limits<float>::infinity();
        wrong += T(std::nextafter(middle, infinity)).bits != bits + 1;
    }
    CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("core/dtype: what is too large becomes infinity, NaN stays NaN", T, bf16, f16) {
    float const infinity = std::numeric_limits<float>::infinity();
    CHECK(T(infinity).bits == Format<T>::infinity);
    CHECK(T(-infinity).bits == (Format<T>::infinity | 0x8000u));
    CHECK(T(std::numeric_limits<float>::max()).bits == Format<T>::infinity);
    CHECK(std::isnan(float(T(std::nanf("")))));
    // A NaN whose payload lies only in the bits that are cut off.
    CHECK(std::isnan(float(T(detail::bits_of<float>(0x7f800001u)))));
    CHECK(std::isnan(float(T(detail::bits_of<float>(0xff800001u)))));
    float const largest = float(from_bits<T>(Format<T>::infinity - 1));
    float const step = largest - float(from_bits<T>(Format<T>::infinity - 2));
    CHECK(T(largest).bits == Format<T>::infinity - 1);
    if constexpr (std::is_same_v<T, f16>) {
        CHECK(T(largest + step / 2).bits == Format<T>::infinity);
        CHECK(T(std::nextafter(largest + step / 2, 0.0f)).bits == Format<T>::infinity - 1);
    }
}

TEST_CASE("core/dtype: float's own denormals become zero in f16 and nearest in bf16") {
    float const tiny = std::numeric_limits<float>::denorm_min();
    CHECK(f16(tiny).bits == 0);
    CHECK(f16(-tiny).bits == 0x8000u);
    CHECK(f16(0x1p-25f).bits == 0);
    CHECK(f16(std::nextafter(0x1p-25f, 1.0f)).bits == 1);
    CHECK(bf16(tiny).bits == 0);
    CHECK(bf16(0x1p-133f).bits == 1);
}

TEST_CASE("core/dtype: convert leads from any type to any other") {
    CHECK(convert<float>(bf16(1.5f)) == 1.5f);
    CHECK(convert<double>(f16(-0.25f)) == -0.25);
    CHECK(convert<bf16>(2.5).bits == bf16(2.5f).bits);
    CHECK(convert<f16>(bf16(3.0f)).bits == f16(3.0f).bits);
    CHECK(convert<double>(0.1) == 0.1);
    CHECK(convert<float>(0.1) == 0.1f);
    static_assert(convert<float>(bf16(0.5f)) == 0.5f);
    static_assert(float(f16(0.5f)) == 0.5f);
}

TEST_CASE("core/dtype: names, sum types and masters follow from the type") {
    CHECK(std::string(dtype_name<double>()) == "F64");
    CHECK(std::string(dtype_name<float>()) == "F32");
    CHECK(std::string(dtype_name<f16>()) == "F16");
    CHECK(std::string(dtype_name<bf16>()) == "BF16");
    static_assert(std::is_same_v<accumulate_t<double const>, double>);
    static_assert(std::is_same_v<accumulate_t<bf16>, float>);
    static_assert(needs_master<bf16> && needs_master<f16>);
    static_assert(!needs_master<float> && !needs_master<double>);
    static_assert(Element<bf16> && !Element<int> && !Element<float const>);
}
