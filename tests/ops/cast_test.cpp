#include "semoe/ops/cast.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class From, class To, class B>
void check_cast(B& b) {
    for (index_t n : {0, 1, 15, 16, 17, 64, 333}) {
        auto const values = random_values<From>(std::uint64_t(n + 1), n, 100);
        auto const from = to_backend(b, values);
        Buffer<To, B> to(b, n);
        VectorView<From const, space_of<B>> const in = from.view();
        ops::cast(b, in, to.view());
        std::vector<To> expected;
        for (From v : values) expected.push_back(convert<To>(v));
        CHECK(same_bits(to_host(b, to), expected));
    }
}

} // namespace

TEST_CASE_TEMPLATE("ops/cast: every pair of types converts element by element", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    check_cast<float, bf16>(b);
    check_cast<float, f16>(b);
    check_cast<bf16, float>(b);
    check_cast<f16, float>(b);
    check_cast<double, float>(b);
    check_cast<float, double>(b);
    check_cast<double, bf16>(b);
    check_cast<bf16, f16>(b);
    check_cast<float, float>(b);
}

TEST_CASE_TEMPLATE("ops/cast: views of different length are refused with both lengths", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Buffer<float, B> from(b, 3);
    Buffer<bf16, B> to(b, 4);
    CHECK_THROWS_WITH_AS(ops::cast(b, from.view(), to.view()),
                         "cast: from has 3 elements, to has 4", precondition_error);
}
