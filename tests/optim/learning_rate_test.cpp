#include "optim/fixture.hpp"
#include "semoe/core/error.hpp"
#include "semoe/optim/learning_rate.hpp"

#include <cmath>
#include <doctest/doctest.h>

namespace {

using namespace semoe;
namespace learning_rate = semoe::optim::learning_rate;

static_assert(learning_rate::Schedule<learning_rate::Constant>);
static_assert(learning_rate::Schedule<learning_rate::Linear>);
static_assert(learning_rate::Schedule<learning_rate::Cosine>);

/// The largest distance from the reference over steps 0 to 60, or NaN where there is one; past the
/// total the reference rises again, ours stays.
template <class S>
double distance(S const& schedule, std::vector<double> const& reference) {
    double worst = 0;
    for (index_t step = 0; step <= 60; ++step) {
        double const error = std::abs(schedule(step) - reference[std::size_t(step)]);
        if (std::isnan(error)) return error;
        worst = std::max(worst, error);
    }
    return worst;
}

TEST_CASE("optim/learning_rate: steps 0 to 60 follow the reference") {
    CHECK(distance(learning_rate::Cosine{.warmup = 10, .total = 60},
                   test::optimizer_tensor("schedule.cosine")) < 1e-15);
    CHECK(distance(learning_rate::Cosine{.warmup = 0, .total = 60},
                   test::optimizer_tensor("schedule.cosine_no_warmup")) < 1e-15);
    CHECK(distance(learning_rate::Cosine{.warmup = 10, .total = 60, .minimum = 0.1},
                   test::optimizer_tensor("schedule.cosine_min")) < 1e-15);
    CHECK(distance(learning_rate::Linear{.warmup = 10, .total = 60},
                   test::optimizer_tensor("schedule.linear")) < 1e-15);
}

TEST_CASE("optim/learning_rate: past the total the factor stays at the minimum") {
    for (index_t step : {60, 61, 100, 1'000'000'000}) {
        CHECK(learning_rate::Cosine{.warmup = 10, .total = 60, .minimum = 0.1}(step) ==
              doctest::Approx(0.1).epsilon(1e-15));
        CHECK(learning_rate::Cosine{.warmup = 10, .total = 60}(step) == 0);
        CHECK(learning_rate::Linear{.warmup = 10, .total = 60}(step) == 0);
        CHECK(learning_rate::Linear{.warmup = 10, .total = 60, .minimum = 0.25}(step) == 0.25);
    }
}

TEST_CASE("optim/learning_rate: Constant warms up and stays") {
    learning_rate::Constant const schedule{.warmup = 4};
    CHECK(schedule(0) == 0);
    CHECK(schedule(1) == 0.25);
    CHECK(schedule(4) == 1);
    CHECK(schedule(1000) == 1);
    CHECK(learning_rate::Constant{}(0) == 1);
}

TEST_CASE(
    "optim/learning_rate: a total equal to the warm-up divides by nothing, and none is refused") {
    learning_rate::Cosine const all_warmup{.warmup = 5, .total = 5, .minimum = 0.5};
    CHECK(all_warmup(4) == 0.8);
    CHECK(all_warmup(5) == 0.5);
    CHECK_THROWS_WITH_AS(learning_rate::Linear{}(0),
                         "learning_rate::Linear: total is 0, must be 1 or more",
                         precondition_error);
    CHECK_THROWS_WITH_AS((learning_rate::Linear{.warmup = 6, .total = 5}(0)),
                         doctest::Contains("warmup is 6, must lie in [0, total]"),
                         precondition_error);
    CHECK_THROWS_AS((learning_rate::Cosine{.warmup = -1, .total = 5}(0)), precondition_error);
}

} // namespace
