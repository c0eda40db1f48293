#include "semoe/gate/score.hpp"

#include <cmath>
#include <doctest/doctest.h>

using namespace semoe;

static_assert(ScorePolicy<gate::Softmax> && ScorePolicy<gate::TopKSoftmax> &&
              ScorePolicy<gate::Sigmoid> && ScorePolicy<gate::NormalizedSigmoid> &&
              ScorePolicy<gate::SigmoidBias>);
static_assert(DifferentiableScore<gate::Softmax> && DifferentiableScore<gate::SigmoidBias>);

TEST_CASE("gate/score: the derivative is that of the weight") {
    double const h = 1e-5;
    for (double z : {-3.0, -0.1, 0.0, 2.0}) {
        gate::Sigmoid const s;
        CHECK(s.d_weight(z, 0) ==
              doctest::Approx((s.weight(z + h, 0) - s.weight(z - h, 0)) / (2 * h)).epsilon(1e-8));
    }
}

TEST_CASE("gate/score: a layer of doubles is scored in double") {
    gate::SigmoidBias const s{};
    CHECK(s.weight(0.1, 0) == 1 / (1 + std::exp(-0.1)));
    CHECK(s.weight(0.1, 0) != double(s.weight(0.1f, 0)));
    CHECK(gate::Softmax{}.key(0.1, 3) == 0.1);
}

TEST_CASE("gate/score: the bias is in the key alone") {
    float const bias[] = {0, 0.25f};
    gate::SigmoidBias const s{.bias = bias};
    CHECK(s.key(0.0, 0) == 0.5);
    CHECK(s.key(0.0, 1) == 0.75);
    CHECK(s.weight(0.0, 1) == 0.5);
}
