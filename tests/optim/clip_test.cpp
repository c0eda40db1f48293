#include "optim/fixture.hpp"
#include "semoe/optim/clip.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>

namespace {

using namespace semoe;

TEST_CASE("optim/clip: norm and clipped gradients follow the reference") {
    double norm_squared = 0;
    for (char const* name : {"a", "b", "c"})
        for (double const g : test::optimizer_tensor(std::string("grad.0.") + name))
            norm_squared += g * g;
    CHECK(std::sqrt(norm_squared) ==
          doctest::Approx(test::optimizer_tensor("f64.clip.norm")[0]).epsilon(1e-14));

    double const scale = optim::clip_scale(norm_squared, 1.0);
    CHECK(scale < 1);
    for (char const* name : {"a", "b", "c"}) {
        auto const gradient = test::optimizer_tensor(std::string("grad.0.") + name);
        auto const clipped = test::optimizer_tensor(std::string("f64.clip.") + name);
        // Without torch's 1e-6 the distance would be 1e-8.
        for (std::size_t i = 0; i < gradient.size(); ++i)
            CHECK(scale * gradient[i] == doctest::Approx(clipped[i]).epsilon(1e-13));
    }
    CHECK(optim::clip_scale(norm_squared, 1e6) == 1);
}

TEST_CASE("optim/clip: a norm of zero scales by one") { CHECK(optim::clip_scale(0, 1) == 1); }

TEST_CASE("optim/clip: a norm that is not finite is a data_error that says so") {
    double const infinity = std::numeric_limits<double>::infinity();
    CHECK_THROWS_WITH_AS(optim::clip_scale(infinity, 1), doctest::Contains("norm is inf"),
                         data_error);
    CHECK_THROWS_WITH_AS(optim::clip_scale(std::nan(""), 1), doctest::Contains("nan"), data_error);
    CHECK_THROWS_AS(optim::clip_scale(-1, 1), data_error);
}

TEST_CASE("optim/clip: a limit that is not above zero is refused") {
    CHECK_THROWS_WITH_AS(optim::clip_scale(1, 0), doctest::Contains("limit is 0, must be above 0"),
                         precondition_error);
    CHECK_THROWS_AS(optim::clip_scale(1, std::nan("")), precondition_error);
}

} // namespace
