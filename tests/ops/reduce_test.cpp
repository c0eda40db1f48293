#include "semoe/ops/reduce.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class B, class T>
double sum_squares(B& b, std::vector<T> const& values) {
    auto const v = to_backend(b, values);
    Buffer<double, B> scratch(b, ops::sum_squares_scratch(v.size())), out(b, 1);
    ops::sum_squares(b, v.view(), scratch.view(), out.data());
    return to_host(b, out)[0];
}

} // namespace

TEST_CASE_TEMPLATE("ops/reduce: the sum of squares agrees with a plain sum in long double", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto const check = [&](auto zero) {
        using T = decltype(zero);
        for (index_t n : {0, 1, 15, 16, 17, 1000, 8191, 8192, 8193, 30011}) {
            auto const values = random_values<T>(std::uint64_t(n), n);
            long double exact = 0;
            for (T v : values) exact += (long double)(double(v)) * double(v);
            CHECK(std::fabs(sum_squares(b, values) - double(exact)) <= 1e-12 * double(exact));
        }
    };
    check(float{});
    check(double{});
    check(bf16{});
    check(f16{});
}

TEST_CASE_TEMPLATE("ops/reduce: NaN and infinity show in the sum", B, SEMOE_TEST_BACKENDS) {
    B b;
    std::vector<float> values(100, 1.0f);
    values[77] = INFINITY;
    CHECK(std::isinf(sum_squares(b, values)));
    values[78] = std::nanf("");
    CHECK(std::isnan(sum_squares(b, values)));
}

TEST_CASE_TEMPLATE("ops/reduce: too little scratch is refused with both sizes", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto const v = to_backend(b, std::vector<float>(8193));
    Buffer<double, B> scratch(b, 1), out(b, 1);
    CHECK_THROWS_WITH_AS(ops::sum_squares(b, v.view(), scratch.view(), out.data()),
                         "sum_squares: scratch holds 1 doubles, 2 needed", precondition_error);
}

TEST_CASE("ops/reduce: the number of threads changes no bit") {
    auto const values = random_values<float>(3, 100000);
    std::vector<double> sums;
    for (int threads : {1, 2, 3, 5}) {
        CpuBackend b{.threads = threads};
        sums.push_back(sum_squares(b, values));
    }
    for (double const sum : sums) CHECK(same_bits(std::vector{sum}, std::vector{sums[0]}));
}
