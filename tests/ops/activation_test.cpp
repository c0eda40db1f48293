#include "semoe/ops/activation.hpp"

#include "semoe/ops/tolerance.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;
namespace activation = ops::activation;

namespace {

/// A user's own: it knows nothing but float.
struct Cube {
    SEMOE_HD float operator()(float x) const { return x * x * x; }
    SEMOE_HD float derivative(float x) const { return 3 * x * x; }
};

double exact(activation::Identity, double x) { return x; }
double exact(activation::Relu, double x) { return x > 0 ? x : 0; }
double exact(activation::Silu, double x) { return x / (1 + std::exp(-x)); }
double exact(activation::Gelu, double x) { return x * std::erfc(-x / std::sqrt(2.0)) / 2; }
double exact(activation::GeluTanh, double x) {
    return x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))) / 2;
}
double exact(Cube, double x) { return x * x * x; }
template <class Act>
double exact_derivative(Act act, double x) {
    if constexpr (std::is_same_v<Act, activation::Relu>) return x > 0 ? 1 : 0;
    double const h = 1e-5;
    return (exact(act, x + h) - exact(act, x - h)) / (2 * h);
}

/// Rows [0,2), none, [5,9) of 11: some rows belong to nobody.
ops::Group<std::byte const> some_rows() {
    ops::Group<std::byte const> g;
    g.add(0, 2, nullptr);
    g.add(2, 0, nullptr);
    g.add(5, 4, nullptr);
    return g;
}
constexpr index_t num_rows = 11;
bool in_group(index_t r) { return r < 2 || (r >= 5 && r < 9); }

/// Whether got is near expected in the group's rows and as it was in all others.
template <class T, class B, class Expected>
bool agrees(B& b, PaddedMatrix<T, B>& m, Expected expected) {
    double const allowed = 2 * ops::unit_roundoff<T>() + 4e-6 * (sizeof(T) < 8) + 1e-8;
    auto const got = m.read(b);
    bool ok = m.padding_intact(b);
    for (index_t r = 0; r < m.rows(); ++r)
        for (index_t c = 0; c < m.cols(); ++c) {
            double const value = double(got[std::size_t(r * m.cols() + c)]);
            double const exact = in_group(r) ? expected(r, c) : double(m(r, c));
            ok &= std::fabs(value - exact) <=
                  (in_group(r) ? allowed : 0) * std::max(1.0, std::fabs(exact));
        }
    return ok;
}

template <class B, class T, class Act>
void check(Act act) {
    B b;
    auto const g = some_rows();
    for (index_t cols : {0, 1, 15, 16, 37, 300}) {
        CAPTURE(cols);
        PaddedMatrix<T, B> pre(b, num_rows, cols, 1), out(b, num_rows, cols, 2);
        PaddedMatrix<T, B> d_out(b, num_rows, cols, 3), d_pre(b, num_rows, cols, 4);
        ops::grouped_unit(b, g, ops::unit::Plain{act}, pre.const_view(), out.view());
        ops::grouped_unit_backward(b, g, ops::unit::Plain{act}, pre.const_view(),
                                   d_out.const_view(), d_pre.view());
        auto const x = [&](index_t r, index_t c) { return double(pre(r, c)); };
        auto const d = [&](index_t r, index_t c) { return double(d_out(r, c)); };
        CHECK(agrees(b, out, [&](index_t r, index_t c) { return exact(act, x(r, c)); }));
        CHECK(agrees(b, d_pre, [&](index_t r, index_t c) {
            return d(r, c) * exact_derivative(act, x(r, c));
        }));

        PaddedMatrix<T, B> both(b, num_rows, 2 * cols, 5), gated(b, num_rows, cols, 6);
        PaddedMatrix<T, B> d_both(b, num_rows, 2 * cols, 7);
        ops::grouped_unit(b, g, ops::unit::Gated{act}, both.const_view(), gated.view());
        ops::grouped_unit_backward(b, g, ops::unit::Gated{act}, both.const_view(),
                                   d_out.const_view(), d_both.view());
        auto const gate = [&](index_t r, index_t c) { return double(both(r, c)); };
        auto const up = [&](index_t r, index_t c) { return double(both(r, c + cols)); };
        CHECK(agrees(b, gated,
                     [&](index_t r, index_t c) { return exact(act, gate(r, c)) * up(r, c); }));
        CHECK(agrees(b, d_both, [&](index_t r, index_t c) {
            if (c < cols) return d(r, c) * up(r, c) * exact_derivative(act, gate(r, c));
            return d(r, c - cols) * exact(act, gate(r, c - cols));
        }));
    }
}

} // namespace

TEST_CASE_TEMPLATE("ops/activation: every activation and its gradient agree with the formula", B,
                   SEMOE_TEST_BACKENDS) {
    check<B, double>(activation::Gelu{});
    check<B, double>(activation::GeluTanh{});
    check<B, float>(activation::Identity{});
    check<B, float>(activation::Relu{});
    check<B, float>(activation::Gelu{});
    check<B, bf16>(activation::Silu{});
    check<B, f16>(activation::GeluTanh{});
}

TEST_CASE_TEMPLATE("ops/activation: a user's own float function serves every element type", B,
                   SEMOE_TEST_BACKENDS) {
    check<B, bf16>(Cube{});
}

TEST_CASE_TEMPLATE("ops/activation: outputs may take the place of inputs", B, SEMOE_TEST_BACKENDS) {
    B b;
    auto const g = some_rows();
    index_t const cols = 37;
    activation::Silu const act;
    PaddedMatrix<float, B> pre(b, num_rows, cols, 1), apart(b, num_rows, cols, 1);
    PaddedMatrix<float, B> d_out(b, num_rows, cols, 2);
    PaddedMatrix<float, B> d_apart(b, num_rows, cols, 2), d_over(b, num_rows, cols, 2);
    ops::grouped_unit_backward(b, g, ops::unit::Plain{act}, pre.const_view(), d_out.const_view(),
                               d_apart.view());
    ops::grouped_unit_backward(b, g, ops::unit::Plain{act}, pre.const_view(), d_over.const_view(),
                               d_over.view());
    CHECK(same_bits(d_apart.read(b), d_over.read(b)));
    ops::grouped_unit(b, g, ops::unit::Plain{act}, pre.const_view(), apart.view());
    ops::grouped_unit(b, g, ops::unit::Plain{act}, pre.const_view(), pre.view());
    CHECK(same_bits(apart.read(b), pre.read(b)));

    PaddedMatrix<float, B> both(b, num_rows, 2 * cols, 3), d_both(b, num_rows, 2 * cols, 3);
    ops::grouped_unit_backward(b, g, ops::unit::Gated{act}, both.const_view(), d_out.const_view(),
                               d_both.view());
    ops::grouped_unit_backward(b, g, ops::unit::Gated{act}, both.const_view(), d_out.const_view(),
                               both.view());
    CHECK(same_bits(d_both.read(b), both.read(b)));
}

TEST_CASE_TEMPLATE("ops/activation: wrong widths and rows outside the matrix are refused", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto g = some_rows();
    PaddedMatrix<float, B> narrow(b, num_rows, 4, 1), wide(b, num_rows, 8, 2);
    activation::Relu const act;
    CHECK_THROWS_WITH_AS(
        ops::grouped_unit(b, g, ops::unit::Gated{act}, narrow.view(), narrow.view()),
        "grouped_unit: a matrix of rows is [11,4], 8 columns needed", precondition_error);
    CHECK_THROWS_AS(ops::grouped_unit(b, g, ops::unit::Plain{act}, wide.view(), narrow.view()),
                    precondition_error);
    CHECK_THROWS_AS(ops::grouped_unit_backward(b, g, ops::unit::Gated{act}, wide.view(),
                                               wide.view(), wide.view()),
                    precondition_error);
    g.rows[2] = 7;
    CHECK_THROWS_WITH_AS(ops::grouped_unit_backward(b, g, ops::unit::Plain{act}, wide.view(),
                                                    wide.view(), wide.view()),
                         "grouped_unit_backward: expert 2 of the group has rows [5,12) of [11,8]",
                         precondition_error);
}

TEST_CASE("ops/activation: the concept takes a float function, the other one its derivative too") {
    struct Forward {
        float operator()(float x) const { return x; }
    };
    static_assert(Activation<Forward> && !DifferentiableActivation<Forward>);
    static_assert(DifferentiableActivation<Cube> && DifferentiableActivation<activation::Gelu>);
    static_assert(!Activation<int>);
}
