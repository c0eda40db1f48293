#include "semoe/routing/capacity.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE("routing/capacity: max(minimum, ceil(K*T/E * factor)), never above T, in twenty cases") {
    struct Case {
        index_t T, K, E;
        double factor;
        index_t minimum, rows;
    };
    for (Case const c : {
             Case{64, 1, 8, 1.0, 1, 8},
             {64, 2, 8, 1.0, 1, 16},
             {64, 2, 8, 1.25, 1, 20},
             Case{65, 1, 8, 1.0, 1, 9},
             {7, 1, 8, 1.0, 1, 1},
             {7, 1, 8, 1.0, 4, 4},
             Case{0, 2, 8, 1.0, 0, 0},
             {1, 1, 64, 0.5, 1, 1},
             {30, 1, 3, 1.1, 1, 11},
             Case{300, 1, 3, 1.1, 1, 110},
             {100, 3, 10, 0.7, 1, 21},
             {100, 1, 10, 0.3, 1, 3},
             Case{4096, 8, 64, 1.2, 1, 615},
             {1000, 2, 7, 1.15, 1, 329},
             {10, 4, 4, 9.0, 1, 10},
             Case{10, 1, 1, 0.1, 1, 1},
             {10, 1, 1, 1.0, 1, 10},
             {3, 2, 4, 0.1, 2, 2},
             Case{index_t(1) << 40, 8, 256, 1.25, 1, index_t(42949672960)},
             Case{90, 1, 9, 0.55, 1, 6},
         }) {
        CAPTURE(c.T);
        CAPTURE(c.factor);
        Capacity const capacity{.factor = c.factor, .minimum = c.minimum};
        CHECK(capacity_of(capacity, c.T, c.K, c.E) == c.rows);
    }
}

TEST_CASE("routing/capacity: rounding never adds a row: all hundredths against whole numbers") {
    for (index_t percent = 1; percent <= 300; ++percent)
        for (index_t choices : {1, 7, 48, 100, 1000, 4096, 65536, 999983})
            for (index_t experts : {1, 3, 8, 60, 256}) {
                index_t const divisor = experts * 100;
                index_t const exact = (choices * percent + divisor - 1) / divisor;
                CHECK(fair_share(double(percent) / 100, choices, experts) ==
                      (exact < choices ? exact : choices));
            }
}

TEST_CASE("routing/capacity: a factor that makes no sense is named") {
    CHECK(Capacity{}.dropless());
    CHECK_NOTHROW(Capacity{}.validate());
    CHECK_THROWS_WITH_AS(Capacity{.factor = -1}.validate(),
                         "Capacity: factor is -1, must lie in [0, 1e6)", precondition_error);
    CHECK_THROWS_AS((Capacity{.factor = __builtin_nan("")}.validate()), precondition_error);
    CHECK_THROWS_AS((Capacity{.factor = 1, .minimum = -1}.validate()), precondition_error);
}
