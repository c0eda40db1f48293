#include "semoe/ops/softmax.hpp"

#include "semoe/ops/tolerance.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class T, class B>
std::vector<double> exact_softmax(PaddedMatrix<T, B> const& in) {
    std::vector<double> out;
    for (index_t r = 0; r < in.rows(); ++r) {
        double largest = -INFINITY, sum = 0;
        for (index_t c = 0; c < in.cols(); ++c) largest = std::max(largest, double(in(r, c)));
        for (index_t c = 0; c < in.cols(); ++c) sum += std::exp(double(in(r, c)) - largest);
        for (index_t c = 0; c < in.cols(); ++c)
            out.push_back(std::exp(double(in(r, c)) - largest) / sum);
    }
    return out;
}

/// Largest error relative to the element, and to 1e-6 where that is smaller.
template <class T>
double worst(std::vector<T> const& got, std::vector<double> const& exact) {
    double largest = got.size() == exact.size() ? 0 : 1e300;
    for (std::size_t i = 0; i < exact.size() && i < got.size(); ++i) {
        double const error =
            std::fabs(double(got[i]) - exact[i]) / std::max(std::fabs(exact[i]), 1e-6);
        largest = std::max(largest, error >= 0 ? error : 1e300);
    }
    return largest;
}

template <class T>
constexpr double allowed = ops::unit_roundoff<T>() + (sizeof(T) == 8 ? 1e-13 : 3e-6);

template <class T, class B>
void check_softmax(B& b) {
    struct Shape {
        index_t rows, cols;
    };
    for (Shape const s : {Shape{0, 5}, {3, 0}, {4, 1}, {3, 7}, {2, 16}, {5, 33}, {1, 4096}}) {
        CAPTURE(s.cols);
        PaddedMatrix<T, B> in(b, s.rows, s.cols, 1, 4), out(b, s.rows, s.cols, 2);
        ops::softmax_rows(b, in.const_view(), out.view());
        double const floor = sizeof(T) == 2 ? 1e-2 : 1; // f16 loses its smallest numbers
        CHECK(worst(out.read(b), exact_softmax(in)) * floor <= allowed<T>);
        CHECK(out.padding_intact(b));
        ops::softmax_rows(b, in.const_view(), in.view());
        CHECK(same_bits(in.read(b), out.read(b)));
    }
}

} // namespace

TEST_CASE_TEMPLATE("ops/softmax: rows agree with a double reference, in place too", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    check_softmax<float>(b);
    check_softmax<double>(b);
    check_softmax<bf16>(b);
    check_softmax<f16>(b);
}

TEST_CASE_TEMPLATE("ops/softmax: very large and very small logits neither overflow nor vanish", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    std::vector<float> const logits{1e30f, -1e30f, 1e30f,     -3e38f, -3e38f, -3e38f,
                                    1000,  999,    -INFINITY, -1e4f,  -1e4f,  -1e4f};
    auto const in = to_backend(b, logits);
    Buffer<float, B> out(b, 12);
    ops::softmax_rows(b, in.matrix(4, 3), out.matrix(4, 3));
    auto const y = to_host(b, out);
    float const e = std::exp(-1.0f), third = 1.0f / 3;
    std::vector<float> const expected{0.5f,        0,           0.5f, third, third, third,
                                      1 / (1 + e), e / (1 + e), 0,    third, third, third};
    for (std::size_t i = 0; i < 12; ++i) CHECK(std::fabs(y[i] - expected[i]) < 2e-7f);
}

TEST_CASE_TEMPLATE("ops/softmax: a NaN fills its own row and no other", B, SEMOE_TEST_BACKENDS) {
    B b;
    for (std::size_t where : {0u, 5u, 19u}) {
        std::vector<float> logits(40, 1.0f);
        logits[where] = std::nanf("");
        auto const in = to_backend(b, logits);
        Buffer<float, B> out(b, 40);
        ops::softmax_rows(b, in.matrix(2, 20), out.matrix(2, 20));
        auto const y = to_host(b, out);
        for (std::size_t i = 0; i < 40; ++i) CHECK(std::isnan(y[i]) == (i < 20));
    }
}

TEST_CASE_TEMPLATE("ops/softmax: the gradient agrees with central differences", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const rows = 3, cols = 19;
    PaddedMatrix<double, B> in(b, rows, cols, 1), out(b, rows, cols, 2), d_out(b, rows, cols, 3);
    PaddedMatrix<double, B> d_in(b, rows, cols, 4);
    ops::softmax_rows(b, in.const_view(), out.view());
    ops::softmax_rows_backward(b, out.const_view(), d_out.const_view(), d_in.view());
    auto const got = d_in.read(b);
    CHECK(d_in.padding_intact(b));
    for (index_t r = 0; r < rows; ++r)
        for (index_t c = 0; c < cols; ++c) {
            double slope = 0;
            for (double const h : {1e-5, -1e-5}) {
                double sum = 0, loss = 0;
                auto const e = [&](index_t j) { return std::exp(in(r, j) + (j == c ? h : 0)); };
                for (index_t j = 0; j < cols; ++j) sum += e(j);
                for (index_t j = 0; j < cols; ++j) loss += d_out(r, j) * e(j) / sum;
                slope += loss / (2 * h);
            }
            CHECK(std::fabs(got[std::size_t(r * cols + c)] - slope) < 1e-9);
        }
    ops::softmax_rows_backward(b, out.const_view(), d_out.const_view(), d_out.view());
    CHECK(same_bits(d_out.read(b), got));
}

TEST_CASE_TEMPLATE("ops/softmax: different shapes are refused by name", B, SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> in(b, 3, 4, 1), out(b, 3, 5, 2);
    CHECK_THROWS_WITH_AS(ops::softmax_rows(b, in.view(), out.view()),
                         "softmax_rows: in is [3,4], out is [3,5]", precondition_error);
    CHECK_THROWS_WITH_AS(ops::softmax_rows_backward(b, in.view(), in.view(), out.view()),
                         "softmax_rows_backward: out is [3,4], d_out is [3,4], d_in is [3,5]",
                         precondition_error);
}
