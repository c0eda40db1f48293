#include "semoe/ops/fill.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <algorithm>
#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

TEST_CASE_TEMPLATE("ops/fill: every element of the view and none beside it takes the value", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto const check = [&](auto value, auto other) {
        using T = decltype(value);
        for (index_t n : {0, 1, 15, 16, 63, 64, 65, 1000}) {
            auto const memory = to_backend(b, std::vector<T>(std::size_t(n + 2), other));
            ops::fill(b, memory.view().part(1, n), value);
            auto const got = to_host(b, memory);
            CHECK(got.front() == other);
            CHECK(got.back() == other);
            CHECK(std::count(got.begin() + 1, got.end() - 1, value) == n);
        }
    };
    check(3.5f, -1.0f);
    check(0.1, 2.0);
    check(index_t(1) << 40, index_t(-1));
    check(bf16(1.5f), bf16(-2.0f));
}
