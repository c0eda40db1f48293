#include "semoe/ops/gemm.hpp"

#include "semoe/ops/tolerance.hpp"
#include "semoe/ops/worker_scratch.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace gemm_test {
namespace {

enum class Form { nt, nn, tn };
constexpr Form all_forms[] = {Form::nt, Form::nn, Form::tn};

template <class B, class A, class W, class C>
void run(B& b, Form form, MatrixView<A, space_of<B>> a, MatrixView<W, space_of<B>> w,
         MatrixView<C, space_of<B>> c, ops::Accumulate add = ops::Accumulate::no) {
    if (form == Form::nt) ops::gemm_nt(b, a, w, c, add);
    if (form == Form::nn) ops::gemm_nn(b, a, w, c, add);
    if (form == Form::tn) ops::gemm_tn(b, a, w, c, add);
}

/// Operands of one product in one of the three forms.
template <class B, class A, class W, class C>
struct Problem {
    Form form;
    index_t m, n, k;
    PaddedMatrix<A, B> a;
    PaddedMatrix<W, B> w;
    PaddedMatrix<C, B> c;

    Problem(B& b, Form f, index_t rows, index_t cols, index_t depth)
      : form(f)
      , m(rows)
      , n(cols)
      , k(depth)
      , a(b, f == Form::tn ? k : m, f == Form::tn ? m : k, 1)
      , w(b, f == Form::nt ? n : k, f == Form::nt ? k : n, 2)
      , c(b, m, n, 3) {}

    double a_at(index_t i, index_t p) const { return double(form == Form::tn ? a(p, i) : a(i, p)); }
    double w_at(index_t p, index_t j) const { return double(form == Form::nt ? w(j, p) : w(p, j)); }

    void run(B& b, ops::Accumulate add = ops::Accumulate::no) {
        gemm_test::run(b, form, a.const_view(), w.const_view(), c.view(), add);
    }
    /// The largest error, in units of what the sum type and C allow.
    double error(B& b, ops::Accumulate add) {
        using Sum = ops::detail::sum_t<A, W, C>;
        auto const got = c.read(b);
        double worst = 0;
        for (index_t i = 0; i < m; ++i)
            for (index_t j = 0; j < n; ++j) {
                double sum = 0, magnitude = 0;
                if (add == ops::Accumulate::yes) sum = double(c(i, j)), magnitude = std::fabs(sum);
                for (index_t p = 0; p < k; ++p) {
                    double const term = a_at(i, p) * w_at(p, j);
                    sum += term, magnitude += std::fabs(term);
                }
                double const off = std::fabs(double(got[std::size_t(i * n + j)]) - sum);
                double const allowed =
                    (double(k + 2) * ops::unit_roundoff<Sum>() + ops::unit_roundoff<C>()) *
                    magnitude;
                worst = std::max(worst, off > 0 ? off / allowed : off == 0 ? 0 : 1e300);
            }
        return worst;
    }
};

struct Shape {
    index_t m, n, k;
};
constexpr Shape shapes[] = {
    {0, 3, 2},  {3, 0, 2},    {3, 2, 0},    {1, 1, 1},    {1, 37, 19},  {7, 1, 5},
    {5, 16, 8}, {13, 31, 17}, {9, 50, 300}, {37, 67, 23}, {2, 33, 513},
};

template <class B, class A, class W, class C>
void check_against_double() {
    B b;
    for (Form form : all_forms)
        for (Shape const s : shapes)
            for (auto add : {ops::Accumulate::no, ops::Accumulate::yes}) {
                Problem<B, A, W, C> problem(b, form, s.m, s.n, s.k);
                problem.run(b, add);
                INFO("form " << int(form) << " m " << s.m << " n " << s.n << " k " << s.k);
                CHECK(problem.error(b, add) <= 1);
                CHECK(problem.c.padding_intact(b));
            }
}

} // namespace

TEST_CASE_TEMPLATE("ops/gemm: all three forms agree with a double reference", B,
                   SEMOE_TEST_BACKENDS) {
    check_against_double<B, float, float, float>();
    check_against_double<B, double, double, double>();
    check_against_double<B, bf16, bf16, bf16>();
    check_against_double<B, f16, f16, f16>();
}

TEST_CASE_TEMPLATE("ops/gemm: operands may be of different types", B, SEMOE_TEST_BACKENDS) {
    check_against_double<B, bf16, float, float>();
    check_against_double<B, bf16, bf16, float>();
    check_against_double<B, float, bf16, bf16>();
    check_against_double<B, float, double, double>();
}

TEST_CASE_TEMPLATE("ops/gemm: a row alone has the bits it has in a batch", B, SEMOE_TEST_BACKENDS) {
    B b;
    index_t const m = 19, n = 45, k = 300;
    for (Form form : {Form::nt, Form::nn}) {
        Problem<B, float, float, float> whole(b, form, m, n, k), parts(b, form, m, n, k);
        whole.run(b);
        for (index_t first = 0, count = 1; first < m; first += count, ++count) {
            index_t const rows = std::min(count, m - first);
            run(b, form, parts.a.const_view().row_range(first, rows), parts.w.const_view(),
                parts.c.view().row_range(first, rows));
        }
        CHECK(same_bits(whole.c.read(b), parts.c.read(b)));
    }
}

TEST_CASE_TEMPLATE("ops/gemm: columns computed alone have the bits they have together", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const m = 5, n = 45, k = 70;
    Problem<B, float, float, float> whole(b, Form::nt, m, n, k), parts(b, Form::nt, m, n, k);
    whole.run(b);
    for (index_t first = 0, count = 1; first < n; first += count, ++count) {
        index_t const cols = std::min(count, n - first);
        ops::gemm_nt(b, parts.a.const_view(), parts.w.const_view().row_range(first, cols),
                     parts.c.view().col_range(first, cols));
    }
    CHECK(same_bits(whole.c.read(b), parts.c.read(b)));
}

TEST_CASE_TEMPLATE("ops/gemm: accumulation continues the sum, so two halves equal the whole", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const m = 11, n = 21, k = 530, half = 259;
    Problem<B, float, float, float> whole(b, Form::tn, m, n, k), parts(b, Form::tn, m, n, k);
    whole.run(b);
    auto const a = parts.a.const_view(), w = parts.w.const_view();
    ops::gemm_tn(b, a.row_range(0, half), w.row_range(0, half), parts.c.view());
    ops::gemm_tn(b, a.row_range(half, k - half), w.row_range(half, k - half), parts.c.view(),
                 ops::Accumulate::yes);
    CHECK(same_bits(whole.c.read(b), parts.c.read(b)));
}

TEST_CASE_TEMPLATE("ops/gemm: NaN and infinity reach only their own rows", B, SEMOE_TEST_BACKENDS) {
    B b;
    Problem<B, float, float, float> problem(b, Form::nt, 5, 20, 9);
    float const nan = std::nanf("");
    b.copy(problem.a.view().row(2) + 4, &nan, sizeof nan);
    b.synchronize();
    problem.run(b);
    auto const got = problem.c.read(b);
    for (index_t i = 0; i < 5; ++i)
        for (index_t j = 0; j < 20; ++j)
            CHECK(std::isnan(got[std::size_t(i * 20 + j)]) == (i == 2));
}

TEST_CASE_TEMPLATE("ops/gemm: an empty sum is zero, or what was there, and reads nothing", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> c(b, 3, 40, 1);
    MatrixView<float const, space_of<B>> const a{nullptr, 3, 0}, w{nullptr, 40, 0};
    ops::gemm_nt(b, a, w, c.view(), ops::Accumulate::yes);
    auto const kept = c.read(b);
    for (index_t i = 0; i < 120; ++i) CHECK(kept[std::size_t(i)] == c(i / 40, i % 40));
    ops::gemm_nt(b, a, w, c.view());
    CHECK(c.read(b) == std::vector<float>(120, 0.0f));
    CHECK(c.padding_intact(b));
}

TEST_CASE_TEMPLATE("ops/gemm: shapes that do not fit are refused by name", B, SEMOE_TEST_BACKENDS) {
    B b;
    PaddedMatrix<float, B> a(b, 3, 4, 1), w(b, 5, 4, 2), c(b, 3, 6, 3);
    CHECK_THROWS_WITH_AS(ops::gemm_nt(b, a.view(), w.view(), c.view()),
                         "gemm_nt: a is [3,4], w is [5,4], c is [3,6]", precondition_error);
    CHECK_THROWS_AS(ops::gemm_nn(b, a.view(), w.view(), c.view()), precondition_error);
    CHECK_THROWS_AS(ops::gemm_tn(b, a.view(), w.view(), c.view()), precondition_error);
}

TEST_CASE("ops/gemm: the number of threads changes no bit") {
    index_t const m = 150, n = 165, k = 300;
    for (Form form : all_forms) {
        std::vector<float> one;
        for (int threads : {1, 2, 3, 5}) {
            CpuBackend b{.threads = threads};
            if (threads > 2) ops::reserve_worker_scratch(b); // which changes none either
            Problem<CpuBackend, float, float, float> problem(b, form, m, n, k);
            problem.run(b);
            auto const got = problem.c.read(b);
            if (threads == 1) one = got;
            CHECK(same_bits(one, got));
        }
    }
}

} // namespace gemm_test
