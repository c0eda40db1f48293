#include "semoe/ops/row_dots.hpp"

#include "semoe/ops/tolerance.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class A, class C, class B>
bool agrees(B& b, index_t m, index_t n, index_t depth) {
    PaddedMatrix<A, B> a(b, m, depth, 1);
    PaddedMatrix<C, B> w(b, n, depth, 2), c(b, m, n, 3);
    ops::row_dots(b, a.const_view(), w.view(), c.view());
    auto const got = c.read(b);
    bool ok = c.padding_intact(b);
    for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < n; ++j) {
            double sum = 0, magnitude = 0;
            for (index_t k = 0; k < depth; ++k) {
                double const term = double(a(i, k)) * double(w(j, k));
                sum += term, magnitude += std::fabs(term);
            }
            ok &= std::fabs(double(got[std::size_t(i * n + j)]) - sum) <=
                  ops::tolerance<C>(depth) * magnitude;
        }
    return ok;
}

} // namespace

TEST_CASE_TEMPLATE("ops/row_dots: every element is the product of two rows", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (index_t m : {0, 1, 5, 70})
        for (index_t n : {0, 1, 16, 20})
            for (index_t depth : {0, 1, 16, 75}) {
                CHECK(agrees<float, float>(b, m, n, depth));
                CHECK(agrees<bf16, float>(b, m, n, depth));
                CHECK(agrees<double, double>(b, m, n, depth));
            }
}

TEST_CASE_TEMPLATE("ops/row_dots: rows and columns alone have the bits they have together", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const m = 90, n = 37, depth = 100;
    PaddedMatrix<bf16, B> a(b, m, depth, 1);
    PaddedMatrix<float, B> w(b, n, depth, 2), whole(b, m, n, 3), parts(b, m, n, 3);
    ops::row_dots(b, a.const_view(), w.view(), whole.view());
    for (index_t first = 0, count = 1; first < m; first += count, ++count) {
        index_t const rows = std::min(count, m - first);
        for (index_t column : {0, 20})
            ops::row_dots(
                b, a.const_view().row_range(first, rows),
                w.view().row_range(column, column == 0 ? 20 : n - 20),
                parts.view().row_range(first, rows).col_range(column, column == 0 ? 20 : n - 20));
    }
    CHECK(same_bits(whole.read(b), parts.read(b)));
}

TEST_CASE_TEMPLATE("ops/row_dots: shapes that do not fit are refused by name", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> a(b, 3, 4, 1), w(b, 5, 4, 2), c(b, 3, 6, 3);
    CHECK_THROWS_WITH_AS(ops::row_dots(b, a.view(), w.view(), c.view()),
                         "row_dots: a is [3,4], w is [5,4], c is [3,6]", precondition_error);
}
