#include "semoe/ops/grouped_gemm.hpp"

#include "semoe/ops/fill.hpp"
#include "semoe/ops/pack.hpp"
#include "semoe/ops/tolerance.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <cstring>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace grouped_gemm_test {
namespace {

/// Experts with rows [first, first + count) of one matrix and a block of memory each.
template <class T, class B>
struct Experts {
    using Sum = accumulate_t<T>;
    struct Rows {
        index_t first, count;
    };

    std::vector<Rows> rows;
    index_t n, k, total;
    ops::BlockSlice weight, bias; ///< of the weight blocks, and of the gradients alike
    index_t block_elements;
    PaddedMatrix<T, B> x, y;
    std::vector<T> weights;
    std::vector<Sum> gradients;
    Buffer<T, B> weight_memory;
    Buffer<Sum, B> gradient_memory;

    Experts(B& b, std::vector<Rows> which, index_t out, index_t in, index_t matrix_rows)
      : rows(std::move(which))
      , n(out)
      , k(in)
      , total(matrix_rows)
      , weight{5, n, k}
      , bias{5 + n * k + 2, 1, n}
      , block_elements(bias.offset + n)
      , x(b, total, k, 1)
      , y(b, total, n, 2)
      , weights(random_values<T>(3, index_t(rows.size()) * block_elements))
      , gradients(random_values<Sum>(4, index_t(rows.size()) * block_elements))
      , weight_memory(to_backend(b, weights))
      , gradient_memory(to_backend(b, gradients)) {}

    ops::Group<std::byte const> group() const {
        ops::Group<std::byte const> g;
        for (std::size_t e = 0; e < rows.size(); ++e)
            g.add(rows[e].first, rows[e].count,
                  reinterpret_cast<std::byte const*>(weight_memory.data() +
                                                     index_t(e) * block_elements));
        return g;
    }
    ops::Group<std::byte> gradient_group() const {
        ops::Group<std::byte> g;
        for (std::size_t e = 0; e < rows.size(); ++e)
            g.add(
                rows[e].first, rows[e].count,
                reinterpret_cast<std::byte*>(gradient_memory.data() + index_t(e) * block_elements));
        return g;
    }
    double w(std::size_t e, index_t i, index_t j) const {
        return double(
            weights[e * std::size_t(block_elements) + std::size_t(weight.offset + i * k + j)]);
    }
};

template <class T, class B>
using Rows = std::vector<typename Experts<T, B>::Rows>;

/// Experts with no rows, one row, many, and gaps that belong to nobody.
template <class T, class B>
Experts<T, B> uneven(B& b, index_t n = 21, index_t k = 37) {
    return {b, {{0, 3}, {3, 0}, {3, 1}, {6, 17}, {25, 2}}, n, k, 29};
}

bool near(double got, double exact, double magnitude, double allowed) {
    return std::fabs(got - exact) <= allowed * magnitude || got == exact;
}

template <class B, class T>
void check_nt(Experts<T, B> e, B& b) {
    ops::grouped_gemm_nt(b, e.group(), e.x.const_view(), e.weight, e.y.view());
    auto const got = e.y.read(b);
    std::vector<bool> owned(std::size_t(e.total), false);
    bool ok = true;
    for (std::size_t i = 0; i < e.rows.size(); ++i)
        for (index_t r = e.rows[i].first; r < e.rows[i].first + e.rows[i].count; ++r) {
            owned[std::size_t(r)] = true;
            for (index_t j = 0; j < e.n; ++j) {
                double sum = 0, magnitude = 0;
                for (index_t p = 0; p < e.k; ++p) {
                    double const term = double(e.x(r, p)) * e.w(i, j, p);
                    sum += term, magnitude += std::fabs(term);
                }
                ok &= near(double(got[std::size_t(r * e.n + j)]), sum, magnitude,
                           ops::tolerance<T>(e.k));
            }
        }
    for (index_t r = 0; r < e.total; ++r)
        for (index_t j = 0; j < e.n; ++j)
            ok &= owned[std::size_t(r)] || got[std::size_t(r * e.n + j)] == e.y(r, j);
    CHECK(ok);
    CHECK(e.y.padding_intact(b));
}

template <class B, class T>
void check_nn(Experts<T, B> e, B& b, ops::Accumulate add) {
    ops::grouped_gemm_nn(b, e.group(), e.y.const_view(), e.weight, e.x.view(), add);
    auto const got = e.x.read(b);
    bool ok = true;
    for (std::size_t i = 0; i < e.rows.size(); ++i)
        for (index_t r = e.rows[i].first; r < e.rows[i].first + e.rows[i].count; ++r)
            for (index_t j = 0; j < e.k; ++j) {
                double sum = add == ops::Accumulate::yes ? double(e.x(r, j)) : 0;
                double magnitude = std::fabs(sum);
                for (index_t p = 0; p < e.n; ++p) {
                    double const term = double(e.y(r, p)) * e.w(i, p, j);
                    sum += term, magnitude += std::fabs(term);
                }
                ok &= near(double(got[std::size_t(r * e.k + j)]), sum, magnitude,
                           ops::tolerance<T>(e.n));
            }
    CHECK(ok);
    CHECK(e.x.padding_intact(b));
}

/// Weights and bias, two experts of the group accumulating and the others not.
template <class B, class T>
void check_gradients(Experts<T, B> e, B& b) {
    ops::GroupMask const mask = 0b01010;
    ops::grouped_gemm_tn(b, e.gradient_group(), mask, e.y.const_view(), e.x.const_view(), e.weight);
    ops::grouped_bias_gradient(b, e.gradient_group(), mask, e.y.const_view(), e.bias);
    auto const got = to_host(b, e.gradient_memory);
    auto const at = [&](auto const& values, std::size_t expert, index_t i) {
        return double(values[expert * std::size_t(e.block_elements) + std::size_t(i)]);
    };
    bool ok = true;
    for (std::size_t i = 0; i < e.rows.size(); ++i) {
        bool const add = mask >> i & 1u, alone = e.rows[i].count == 0;
        double const allowed = double(e.rows[i].count + 2) * ops::unit_roundoff<accumulate_t<T>>();
        for (index_t j = 0; j < e.n; ++j)
            for (index_t p = 0; p <= e.k; ++p) { // p == k: the bias
                index_t const where = p < e.k ? e.weight.offset + j * e.k + p : e.bias.offset + j;
                double sum = add || alone ? at(e.gradients, i, where) : 0;
                double magnitude = std::fabs(sum);
                for (index_t r = e.rows[i].first; r < e.rows[i].first + e.rows[i].count; ++r) {
                    double const term = double(e.y(r, j)) * (p < e.k ? double(e.x(r, p)) : 1.0);
                    sum += term, magnitude += std::fabs(term);
                }
                ok &= near(at(got, i, where), sum, magnitude, allowed);
            }
        for (index_t gap : {index_t(0), e.weight.offset - 1, e.bias.offset - 1, e.bias.offset - 2})
            ok &= at(got, i, gap) == at(e.gradients, i, gap);
    }
    CHECK(ok);
}

template <class B, class T>
void check_all() {
    B b;
    check_nt<B, T>(uneven<T>(b), b);
    check_nt<B, T>({b, {{0, 9}}, 17, 301, 9}, b);
    check_nt<B, T>({b, {{0, 0}, {0, 0}}, 4, 5, 0}, b);
    check_nt<B, T>({b, {}, 4, 5, 3}, b);
    check_nt<B, T>({b, {{1, 2}}, 3, 0, 3}, b);
    for (auto add : {ops::Accumulate::no, ops::Accumulate::yes}) {
        check_nn<B, T>(uneven<T>(b), b, add);
        check_nn<B, T>({b, {{0, 9}}, 301, 17, 9}, b, add);
    }
    check_gradients<B, T>(uneven<T>(b), b);
    check_gradients<B, T>({b, {{0, 270}}, 18, 35, 270}, b);
    check_gradients<B, T>({b, {{2, 1}, {1, 1}}, 1, 1, 3}, b);
}

} // namespace

TEST_CASE_TEMPLATE("ops/grouped_gemm: rows and gradients agree with a double reference", B,
                   SEMOE_TEST_BACKENDS) {
    check_all<B, float>();
    check_all<B, double>();
    check_all<B, bf16>();
    check_all<B, f16>();
}

TEST_CASE_TEMPLATE("ops/grouped_gemm: a row alone has the bits it has in a batch", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto whole = uneven<bf16>(b, 50, 270), single = uneven<bf16>(b, 50, 270);
    ops::grouped_gemm_nt(b, whole.group(), whole.x.const_view(), whole.weight, whole.y.view());
    auto const g = single.group();
    for (int i = 0; i < g.size; ++i)
        for (index_t r = 0; r < g.rows[i]; ++r) {
            ops::Group<std::byte const> one;
            one.add(g.first_row[i] + r, 1, g.block[i]);
            ops::grouped_gemm_nt(b, one, single.x.const_view(), single.weight, single.y.view());
        }
    CHECK(same_bits(whole.y.read(b), single.y.read(b)));
}

TEST_CASE_TEMPLATE("ops/grouped_gemm: derived panels give the bits of the rows they were made of",
                   B, SEMOE_TEST_BACKENDS) {
    auto const check = [](auto zero, index_t n, index_t k) {
        using T = decltype(zero);
        B b;
        auto plain = uneven<T>(b, n, k), packed = uneven<T>(b, n, k);
        ops::grouped_gemm_nt(b, plain.group(), plain.x.const_view(), plain.weight, plain.y.view());

        // The same experts in blocks of rows and panels. Where tuned bodies run the rows are
        // spoilt, which shows that the panels are what they read.
        bool const tuned = HasWorkers<B> && !std::is_same_v<T, double>;
        index_t const panels = n * k + 7, elements = panels + ops::panel_elements(n, k);
        Buffer<T, B> blocks(b, 5 * elements);
        ops::fill(b, blocks.view(), T(std::nanf("")));
        auto g = packed.group();
        for (int e = 0; e < g.size; ++e) {
            T* const block = blocks.data() + e * elements;
            T const* rows = reinterpret_cast<T const*>(g.block[e]) + packed.weight.offset;
            if (!tuned) b.copy(block, rows, std::size_t(n * k) * sizeof(T));
            ops::pack_panels(b, MatrixView<T const, space_of<B>>{rows, n, k},
                             VectorView<T, space_of<B>>{block + panels, elements - panels});
            g.block[e] = reinterpret_cast<std::byte const*>(block);
        }
        ops::BlockSlice slice{0, n, k};
        slice.panels = panels;
        ops::grouped_gemm_nt(b, g, packed.x.const_view(), slice, packed.y.view());
        CHECK(same_bits(plain.y.read(b), packed.y.read(b)));
    };
    check(bf16{}, 50, 270);
    check(float{}, 16, 9);
    check(f16{}, 33, 40);
    check(double{}, 5, 3);
}

TEST_CASE_TEMPLATE("ops/grouped_gemm: two micro-batches leave the gradient of one batch", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Experts<float, B> whole(b, {{0, 300}}, 19, 33, 300), parts(b, {{0, 300}}, 19, 33, 300);
    ops::grouped_gemm_tn(b, whole.gradient_group(), 0, whole.y.const_view(), whole.x.const_view(),
                         whole.weight);
    ops::Group<std::byte> first = parts.gradient_group(), second = first;
    first.rows[0] = 123;
    second.first_row[0] = 123, second.rows[0] = 177;
    auto const y = parts.y.const_view(), x = parts.x.const_view();
    ops::grouped_gemm_tn(b, first, 0, y, x, parts.weight);
    ops::grouped_gemm_tn(b, second, 1, y, x, parts.weight);
    CHECK(same_bits(to_host(b, whole.gradient_memory), to_host(b, parts.gradient_memory)));
}

TEST_CASE_TEMPLATE("ops/grouped_gemm: a bias is added to its expert's rows only", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto e = uneven<float>(b);
    ops::grouped_add_bias(b, e.group(), e.bias, e.y.view());
    auto const got = e.y.read(b);
    bool ok = true;
    for (index_t r = 0; r < e.total; ++r)
        for (index_t j = 0; j < e.n; ++j) {
            float expected = e.y(r, j);
            for (std::size_t i = 0; i < e.rows.size(); ++i)
                if (r >= e.rows[i].first && r < e.rows[i].first + e.rows[i].count)
                    expected += e.weights[i * std::size_t(e.block_elements) +
                                          std::size_t(e.bias.offset + j)];
            ok &= got[std::size_t(r * e.n + j)] == expected;
        }
    CHECK(ok);
    CHECK(e.y.padding_intact(b));
}

TEST_CASE_TEMPLATE("ops/grouped_gemm: rows outside the matrix and wrong widths are refused", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    auto e = uneven<float>(b);
    auto g = e.group();
    g.rows[4] = 9;
    CHECK_THROWS_WITH_AS(ops::grouped_gemm_nt(b, g, e.x.const_view(), e.weight, e.y.view()),
                         "grouped_gemm_nt: expert 4 of the group has rows [25,34) of [29,37]",
                         precondition_error);
    CHECK_THROWS_WITH_AS(ops::grouped_gemm_nt(b, e.group(), e.y.const_view(), e.weight, e.y.view()),
                         "grouped_gemm_nt: a matrix of rows is [29,21], 37 columns needed",
                         precondition_error);
}

TEST_CASE("ops/grouped_gemm: the number of threads changes no bit") {
    std::vector<float> rows, gradients;
    for (int threads : {1, 2, 3, 5}) {
        CpuBackend b{.threads = threads};
        auto e = uneven<float>(b, 70, 290);
        ops::grouped_gemm_tn(b, e.gradient_group(), 0b00100, e.y.const_view(), e.x.const_view(),
                             e.weight);
        ops::grouped_gemm_nt(b, e.group(), e.x.const_view(), e.weight, e.y.view());
        ops::grouped_gemm_nn(b, e.group(), e.y.const_view(), e.weight, e.x.view());
        auto now = e.y.read(b);
        auto const back = e.x.read(b), d_w = to_host(b, e.gradient_memory);
        now.insert(now.end(), back.begin(), back.end());
        if (threads == 1) rows = now, gradients = d_w;
        CHECK(same_bits(rows, now));
        CHECK(same_bits(gradients, d_w));
    }
}

} // namespace grouped_gemm_test
