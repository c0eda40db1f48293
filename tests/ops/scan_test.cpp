#include "semoe/ops/scan.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class I, class B>
std::vector<index_t> scan(B& b, std::vector<I> const& values) {
    auto const in = to_backend(b, values);
    Buffer<index_t, B> out(b, in.size() + 1), scratch(b, ops::scan_scratch(in.size()));
    VectorView<I const, space_of<B>> const view = in.view();
    ops::exclusive_scan(b, view, out.view(), scratch.view());
    return to_host(b, out);
}

template <class I>
std::vector<I> some_integers(index_t n) {
    std::vector<I> values;
    for (index_t i = 0; i < n; ++i) values.push_back(I(i * 7919 % 31 - (i % 3 == 0 ? 5 : 0)));
    return values;
}

} // namespace

TEST_CASE_TEMPLATE("ops/scan: every prefix sum and the total are exact, across blocks too", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (index_t n : {0, 1, 2, 2047, 2048, 2049, 4096, 10007}) {
        auto const values = some_integers<index_t>(n);
        std::vector<index_t> expected{0};
        for (index_t v : values) expected.push_back(expected.back() + v);
        CHECK(scan(b, values) == expected);
        CHECK(scan(b, std::vector<std::int32_t>(values.begin(), values.end())) == expected);
    }
}

TEST_CASE_TEMPLATE("ops/scan: sums of 32-bit numbers may pass 2^31", B, SEMOE_TEST_BACKENDS) {
    B b;
    std::vector<std::int32_t> const large(5, 2000000000);
    CHECK(scan(b, large).back() == 10000000000);
}

TEST_CASE_TEMPLATE("ops/scan: sizes that do not fit are refused with all of them", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Buffer<index_t, B> in(b, 3000), out(b, 3000), scratch(b, 1);
    CHECK_THROWS_WITH_AS(ops::exclusive_scan(b, in.view(), out.view(), scratch.view()),
                         "exclusive_scan: in has 3000 elements, out 3000, scratch 1 of 2",
                         precondition_error);
}
