#include "semoe/ops/permute.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <numeric>
#include <random>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

/// `count` distinct numbers below n, in no order.
std::vector<index_t> distinct(index_t n, index_t count) {
    std::vector<index_t> all(static_cast<std::size_t>(n));
    std::iota(all.begin(), all.end(), index_t(0));
    std::shuffle(all.begin(), all.end(), std::mt19937_64(7));
    all.resize(std::size_t(count));
    return all;
}

struct Extent {
    index_t n, s, h;
};
constexpr Extent extents[] = {{0, 0, 4},  {3, 0, 2},    {1, 1, 1},
                              {7, 5, 16}, {13, 13, 67}, {9, 4, 300}};

} // namespace

TEST_CASE_TEMPLATE("ops/permute: gathering takes the rows that the index names", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (Extent const shape : extents) {
        PaddedMatrix<bf16, B> src(b, shape.n, shape.h, 1), out(b, shape.s, shape.h, 2);
        auto const index = distinct(shape.n, shape.s);
        auto const on_backend = to_backend(b, index);
        VectorView<index_t const, space_of<B>> const view = on_backend.view();
        ops::gather_rows(b, src.const_view(), view, out.view());
        auto const got = out.read(b);
        bool ok = out.padding_intact(b);
        for (index_t s = 0; s < shape.s; ++s)
            for (index_t h = 0; h < shape.h; ++h)
                ok &= got[std::size_t(s * shape.h + h)].bits == src(index[std::size_t(s)], h).bits;
        CHECK(ok);
    }
}

TEST_CASE_TEMPLATE("ops/permute: scattering is gathering the other way, other rows stay", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (Extent const shape : extents) {
        PaddedMatrix<double, B> src(b, shape.s, shape.h, 1), out(b, shape.n, shape.h, 2);
        auto const index = distinct(shape.n, shape.s);
        auto const on_backend = to_backend(b, index);
        VectorView<index_t const, space_of<B>> const view = on_backend.view();
        ops::scatter_rows(b, src.const_view(), view, out.view());
        auto const got = out.read(b);
        bool ok = out.padding_intact(b);
        for (index_t n = 0; n < shape.n; ++n) {
            auto const at = std::find(index.begin(), index.end(), n);
            for (index_t h = 0; h < shape.h; ++h)
                ok &= got[std::size_t(n * shape.h + h)] ==
                      (at == index.end() ? out(n, h) : src(at - index.begin(), h));
        }
        CHECK(ok);
    }
}

TEST_CASE_TEMPLATE("ops/permute: one row may be gathered many times", B, SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> src(b, 3, 5, 1), out(b, 4, 5, 2);
    auto const index = to_backend(b, std::vector<index_t>{2, 2, 0, 2});
    VectorView<index_t const, space_of<B>> const view = index.view();
    ops::gather_rows(b, src.const_view(), view, out.view());
    auto const got = out.read(b);
    for (index_t h = 0; h < 5; ++h) {
        CHECK(got[std::size_t(h)] == src(2, h));
        CHECK(got[std::size_t(10 + h)] == src(0, h));
        CHECK(got[std::size_t(15 + h)] == src(2, h));
    }
}

TEST_CASE_TEMPLATE("ops/permute: sizes that do not fit are refused by name", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> src(b, 3, 5, 1), out(b, 4, 5, 2), narrow(b, 3, 4, 3);
    auto const index = to_backend(b, std::vector<index_t>{0, 1, 2});
    VectorView<index_t const, space_of<B>> const view = index.view();
    CHECK_THROWS_WITH_AS(ops::gather_rows(b, src.view(), view, out.view()),
                         "gather_rows: src is [3,5], out is [4,5], index has 3",
                         precondition_error);
    CHECK_THROWS_WITH_AS(ops::scatter_rows(b, src.view(), view, narrow.view()),
                         "scatter_rows: src is [3,5], out is [3,4], index has 3",
                         precondition_error);
}
