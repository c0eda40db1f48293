#include "semoe/routing/log_sum_exp.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>

TEST_CASE("routing/log_sum_exp: agrees with the definition and survives large rows") {
    double const row[] = {0.5, -1, 2};
    auto const r = semoe::log_sum_exp<double>(row, 3);
    double const sum = std::exp(0.5) + std::exp(-1.0) + std::exp(2.0);
    CHECK(r.value() == doctest::Approx(std::log(sum)).epsilon(1e-14));
    CHECK(r.probability(-1.0) == doctest::Approx(std::exp(-1.0) / sum).epsilon(1e-14));

    float const large[] = {1e4f, 1e4f, -1e4f};
    auto const l = semoe::log_sum_exp<float>(large, 3);
    CHECK(l.value() == doctest::Approx(1e4 + std::log(2.0)));
    CHECK(l.probability(1e4f) == 0.5f);
    CHECK(l.probability(-1e4f) == 0.0f);
    CHECK(semoe::log_sum_exp<float>(large, 1).value() == 1e4f);
}

TEST_CASE("routing/log_sum_exp: a NaN anywhere shows") {
    for (int at = 0; at < 3; ++at) {
        float row[] = {1, 2, 3};
        row[at] = std::numeric_limits<float>::quiet_NaN();
        CHECK(std::isnan(semoe::log_sum_exp<float>(row, 3).value()));
    }
}
