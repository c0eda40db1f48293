#include "semoe/ops/linear.hpp"

#include "semoe/ops/tolerance.hpp"
#include "semoe/ops/worker_scratch.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

/// A dense layer of `inputs` by `outputs` and rows for it.
template <class T, class B>
struct DenseProblem {
    using Real = accumulate_t<T>;

    index_t rows, inputs, outputs;
    PaddedMatrix<T, B> x, dy, y, dx;
    std::vector<T> w_values;
    std::vector<Real> dw_values;
    Buffer<T, B> w;
    Buffer<Real, B> dw;

    DenseProblem(B& b, index_t n, index_t in, index_t out)
      : rows(n)
      , inputs(in)
      , outputs(out)
      , x(b, n, in, 1)
      , dy(b, n, out, 2)
      , y(b, n, out, 3)
      , dx(b, n, in, 4)
      , w_values(random_values<T>(5, out * in))
      , dw_values(random_values<Real>(6, out * in))
      , w(to_backend(b, w_values))
      , dw(to_backend(b, dw_values)) {}

    MatrixView<T const, space_of<B>> weights() { return {w.data(), outputs, inputs}; }

    void run(B& b, ops::Accumulate add) {
        ops::linear(b, x.const_view(), weights(), y.view());
        ops::linear_backward_input(b, dy.const_view(), weights(), dx.view());
        ops::linear_backward_weights(b, dy.const_view(), x.const_view(), dw.matrix(outputs, inputs),
                                     add);
    }
    double weight(index_t n, index_t k) const {
        return double(w_values[std::size_t(n * inputs + k)]);
    }
    /// The largest error of a result, in units of what its sums and its type allow.
    template <class C, class Term>
    static double error(std::vector<C> const& got, index_t cols, index_t depth, Term const& term,
                        std::vector<C> const* before = nullptr) {
        double worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i) {
            double sum = before ? double((*before)[i]) : 0, magnitude = std::fabs(sum);
            for (index_t k = 0; k < depth; ++k) {
                double const t = term(index_t(i) / cols, index_t(i) % cols, k);
                sum += t, magnitude += std::fabs(t);
            }
            double const allowed =
                (2 * ops::tolerance<Real>(depth + 1) + ops::unit_roundoff<C>()) * magnitude;
            double const off = std::fabs(double(got[i]) - sum);
            worst = std::max(worst, off > 0 ? off / allowed : off == 0 ? 0 : 1e300);
        }
        return worst;
    }
    void check(B& b, ops::Accumulate add) {
        CHECK(error(y.read(b), outputs, inputs, [&](index_t r, index_t n, index_t k) {
                  return double(x(r, k)) * weight(n, k);
              }) <= 1);
        CHECK(error(dx.read(b), inputs, outputs, [&](index_t r, index_t k, index_t n) {
                  return double(dy(r, n)) * weight(n, k);
              }) <= 1);
        auto const term = [&](index_t n, index_t k, index_t r) {
            return double(dy(r, n)) * double(x(r, k));
        };
        CHECK(error(to_host(b, dw), inputs, rows, term,
                    add == ops::Accumulate::yes ? &dw_values : nullptr) <= 1);
        CHECK(y.padding_intact(b));
        CHECK(dx.padding_intact(b));
    }
};

struct DenseShape {
    index_t rows, inputs, outputs;
};
constexpr DenseShape dense_shapes[] = {{0, 3, 2},    {3, 0, 2},    {3, 2, 0},    {1, 1, 1},
                                       {1, 64, 96},  {17, 32, 64}, {33, 37, 67}, {70, 96, 5},
                                       {2, 333, 31}, {400, 40, 35}};

} // namespace

TEST_CASE_TEMPLATE("ops/linear: a dense layer and its gradients agree with sums in double", B,
                   SEMOE_TEST_BACKENDS) {
    for (auto const& s : dense_shapes)
        for (auto const add : {ops::Accumulate::no, ops::Accumulate::yes}) {
            CAPTURE(s.rows);
            CAPTURE(s.inputs);
            CAPTURE(s.outputs);
            B b{};
            DenseProblem<float, B> f(b, s.rows, s.inputs, s.outputs);
            f.run(b, add);
            f.check(b, add);
            DenseProblem<bf16, B> h(b, s.rows, s.inputs, s.outputs);
            h.run(b, add);
            h.check(b, add);
        }
}

TEST_CASE("ops/linear: bits depend neither on threads, nor on scratch, nor on other rows") {
    auto const results = [](int threads, bool scratch, index_t rows) {
        CpuBackend b{.threads = threads};
        if (scratch)
            ops::reserve_worker_scratch(b, ops::linear_scratch_bytes<CpuBackend, bf16>(96, 200));
        DenseProblem<bf16, CpuBackend> p(b, 300, 96, 200);
        ops::linear(b, p.x.const_view().row_range(0, rows), p.weights(),
                    p.y.view().row_range(0, rows));
        ops::linear_backward_input(b, p.dy.const_view().row_range(0, rows), p.weights(),
                                   p.dx.view().row_range(0, rows));
        auto y = p.y.read(b), dx = p.dx.read(b);
        y.resize(std::size_t(33 * 200)), dx.resize(std::size_t(33 * 96));
        y.insert(y.end(), dx.begin(), dx.end());
        return y;
    };
    auto const expected = results(1, true, 300);
    CHECK(same_bits(results(3, true, 300), expected));
    CHECK(same_bits(results(2, false, 300), expected));
    CHECK(same_bits(results(2, true, 33), expected));
}

TEST_CASE("ops/linear: shapes that do not fit are named") {
    CpuBackend b{};
    std::vector<float> memory(100);
    MatrixView<float, HostSpace> const x{memory.data(), 2, 3}, w{memory.data(), 4, 5},
        gaps{memory.data(), 4, 3, 7}, y{memory.data(), 2, 4};
    CHECK_THROWS_WITH_AS(ops::linear(b, x, w, y), "linear: a is [2,3], w is [4,5], c is [2,4]",
                         precondition_error);
    CHECK_THROWS_WITH_AS(ops::linear(b, x, gaps, y),
                         "linear: rows of the [4,3] matrix are 7 apart, must be 3",
                         precondition_error);
}
