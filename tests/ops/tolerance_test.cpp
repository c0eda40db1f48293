#include "semoe/ops/tolerance.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace {
/// The largest power of two that is lost when it is added to 1.
template <class T>
double measured() {
    double half = 1;
    while (double(convert<T>(1 + half)) != 1) half /= 2;
    return half;
}
} // namespace

TEST_CASE("ops/tolerance: the roundoff is half the distance from 1 to the next number") {
    CHECK(ops::unit_roundoff<bf16>() == measured<bf16>());
    CHECK(ops::unit_roundoff<f16>() == measured<f16>());
    CHECK(ops::unit_roundoff<float>() == measured<float>());
    CHECK(ops::unit_roundoff<double>() == measured<double>());
}

TEST_CASE("ops/tolerance: it grows with the sum's length and never below the type's roundoff") {
    CHECK(ops::tolerance<float>(1000) > ops::tolerance<float>(10));
    CHECK(ops::tolerance<bf16>(0) > ops::unit_roundoff<bf16>());
    CHECK(ops::tolerance<bf16>(100) < 2 * ops::unit_roundoff<bf16>());
    CHECK(ops::tolerance<double>(100) < 1e-13);
}
