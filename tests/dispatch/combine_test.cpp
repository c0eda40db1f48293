#include "semoe/dispatch/combine.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

#include <limits>

using namespace semoe;

namespace {

/// T tokens of K choices, some dropped; the kept ones have slots in scattered order.
struct Choices {
    index_t tokens, top_k;
    std::vector<index_t> slot_of;
    index_t num_slots = 0;

    Choices(index_t t, index_t k, index_t keep_of_seven)
      : tokens(t)
      , top_k(k) {
        for (index_t i = 0; i < t * k; ++i)
            slot_of.push_back(i * 3 % 7 < keep_of_seven ? num_slots++ : -1);
        for (index_t& slot : slot_of)
            if (slot >= 0) slot = num_slots - 1 - slot;
    }
    index_t at(index_t t, index_t k) const { return slot_of[std::size_t(t * top_k + k)]; }
};

std::vector<std::uint8_t> every_third_masked(index_t tokens) {
    std::vector<std::uint8_t> mask;
    for (index_t t = 0; t < tokens; ++t) mask.push_back(t % 3 != 1);
    return mask;
}

template <class T>
double value(std::vector<T> const& v, index_t i) {
    return double(v[std::size_t(i)]);
}
template <class T>
double tolerance() {
    return sizeof(T) == 8 ? 1e-14 : sizeof(T) == 4 ? 1e-6 : std::is_same_v<T, f16> ? 1e-3 : 6e-3;
}

/// All operands of one combine, in host and in backend memory. H columns of rows that are longer.
template <class B, class T>
struct Problem {
    using Real = accumulate_t<T>;
    using S = space_of<B>;

    B b;
    Choices choices;
    index_t H, ld;
    std::vector<T> rows, base, dy;
    std::vector<Real> weights, factor;
    std::vector<std::uint8_t> mask;

    Buffer<T, B> d_rows, d_base, d_dy;
    Buffer<Real, B> d_weights, d_factor;
    Buffer<index_t, B> d_slot_of;
    Buffer<std::uint8_t, B> d_mask;

    Problem(Choices c, index_t hidden)
      : choices(std::move(c))
      , H(hidden)
      , ld(hidden + 3)
      , rows(test::random_values<T>(1, choices.num_slots * H))
      , base(test::random_values<T>(2, choices.tokens * ld))
      , dy(test::random_values<T>(3, choices.tokens * ld))
      , weights(test::random_values<Real>(4, choices.tokens * choices.top_k))
      , factor(test::random_values<Real>(5, choices.tokens))
      , mask(every_third_masked(choices.tokens))
      , d_rows(test::to_backend(b, rows))
      , d_base(test::to_backend(b, base))
      , d_dy(test::to_backend(b, dy))
      , d_weights(test::to_backend(b, weights))
      , d_factor(test::to_backend(b, factor))
      , d_slot_of(test::to_backend(b, choices.slot_of))
      , d_mask(test::to_backend(b, mask)) {}

    MatrixView<T, S> row_view() const { return d_rows.matrix(choices.num_slots, H); }
    MatrixView<index_t const, S> slot_view() const {
        return d_slot_of.matrix(choices.tokens, choices.top_k);
    }
    MatrixView<Real, S> weight_view() const {
        return d_weights.matrix(choices.tokens, choices.top_k);
    }
    MatrixView<T, S> strided(Buffer<T, B> const& buffer) const {
        return {buffer.data(), choices.tokens, H, ld};
    }
    TokenBase<T, S> base_view(bool with_factor) const {
        return {strided(d_base), with_factor ? VectorView<Real const, S>(d_factor.view())
                                             : VectorView<Real const, S>()};
    }
    bool masked(index_t t) const { return mask[std::size_t(t)] == 0; }

    /// y in double, with or without base, factor and mask.
    std::vector<double> forward(bool with_base, bool with_factor, bool with_mask) const {
        std::vector<double> y(std::size_t(choices.tokens * H));
        for (index_t t = 0; t < choices.tokens; ++t)
            for (index_t h = 0; h < H && !(with_mask && masked(t)); ++h) {
                double& sum = y[std::size_t(t * H + h)];
                if (with_base) sum = (with_factor ? value(factor, t) : 1) * value(base, t * ld + h);
                for (index_t k = 0; k < choices.top_k; ++k)
                    if (index_t const slot = choices.at(t, k); slot >= 0)
                        sum += value(weights, t * choices.top_k + k) * value(rows, slot * H + h);
            }
        return y;
    }
};

/// The H columns of each of `rows` rows, in double.
template <class B, class T>
std::vector<double> columns(B& b, MatrixView<T, space_of<B>> m) {
    std::vector<double> values;
    if (m.empty()) return values;
    auto const all = test::to_host(b, m.data, (m.rows - 1) * m.ld + m.cols);
    for (index_t r = 0; r < m.rows; ++r)
        for (index_t c = 0; c < m.cols; ++c) values.push_back(value(all, r * m.ld + c));
    return values;
}

template <class B, class T>
void check_forward(Choices const& choices, index_t hidden) {
    using S = space_of<B>;
    Problem<B, T> p(choices, hidden);
    auto const y = test::to_backend(p.b, std::vector<T>(p.dy.size(), T(7.f)));
    auto const out = p.strided(y);
    VectorView<std::uint8_t const, S> const none, mask = p.d_mask.view();

    combine(p.b, p.row_view(), p.slot_view(), p.weight_view(), none, out);
    CHECK(test::relative_error(columns(p.b, out), p.forward(false, false, false)) <=
          tolerance<T>());
    combine(p.b, p.row_view(), p.slot_view(), p.weight_view(), p.base_view(true), mask, out);
    CHECK(test::relative_error(columns(p.b, out), p.forward(true, true, true)) <= tolerance<T>());
    combine(p.b, p.row_view(), p.slot_view(), p.weight_view(), p.base_view(false), none, out);
    CHECK(test::relative_error(columns(p.b, out), p.forward(true, false, false)) <= tolerance<T>());
    // Padding columns are nobody's.
    auto const whole = test::to_host(p.b, y);
    bool untouched = true;
    for (index_t t = 0; t < choices.tokens; ++t)
        for (index_t c = hidden; c < p.ld; ++c)
            untouched = untouched && value(whole, t * p.ld + c) == 7;
    CHECK(untouched);
}

template <class B, class T>
void check_backward(Choices const& choices, index_t hidden, bool in_place) {
    using Real = accumulate_t<T>;
    Problem<B, T> p(choices, hidden);
    Buffer<T, B> other(p.b, choices.num_slots * hidden);
    auto const d_rows = in_place ? p.row_view() : other.matrix(choices.num_slots, hidden);
    Buffer<Real, B> d_weights(p.b, choices.tokens * choices.top_k);
    combine_backward(p.b, p.strided(p.d_dy), p.row_view(), p.slot_view(), p.weight_view(),
                     p.d_mask.view(), d_rows, d_weights.matrix(choices.tokens, choices.top_k));

    std::vector<double> want_rows(p.rows.size()), want_weights(p.weights.size());
    for (index_t t = 0; t < choices.tokens; ++t)
        for (index_t k = 0; k < choices.top_k; ++k) {
            index_t const slot = choices.at(t, k), i = t * choices.top_k + k;
            for (index_t h = 0; h < hidden && slot >= 0 && !p.masked(t); ++h) {
                double const dy = value(p.dy, t * p.ld + h);
                want_rows[std::size_t(slot * hidden + h)] = value(p.weights, i) * dy;
                want_weights[std::size_t(i)] += dy * value(p.rows, slot * hidden + h);
            }
        }
    CHECK(test::relative_error(columns(p.b, d_rows), want_rows) <= tolerance<T>());
    CHECK(test::relative_error(test::to_host(p.b, d_weights), want_weights) <=
          (sizeof(T) == 8 ? 1e-14 : 1e-6));
}

} // namespace

TEST_CASE_TEMPLATE("dispatch/combine: weighs rows back to tokens, in every type and width", B,
                   SEMOE_TEST_BACKENDS) {
    for (index_t hidden : {1, 16, 64, 131}) {
        CAPTURE(hidden);
        check_forward<B, double>(Choices(11, 3, 4), hidden);
        check_forward<B, float>(Choices(11, 3, 4), hidden);
        check_forward<B, f16>(Choices(11, 3, 4), hidden);
        check_forward<B, bf16>(Choices(11, 3, 4), hidden);
    }
}

TEST_CASE_TEMPLATE("dispatch/combine: no tokens, nothing dropped, everything dropped", B,
                   SEMOE_TEST_BACKENDS) {
    for (Choices const& choices :
         {Choices(0, 2, 4), Choices(1, 1, 7), Choices(5, 4, 7), Choices(5, 4, 0)}) {
        check_forward<B, float>(choices, 9);
        check_backward<B, float>(choices, 9, false);
    }
}

TEST_CASE_TEMPLATE("dispatch/combine: adds in order of the choices", B, SEMOE_TEST_BACKENDS) {
    B b;
    auto const rows = test::to_backend(b, std::vector<float>{-1e8f, 1, 1e8f});
    auto const slot_of = test::to_backend(b, std::vector<index_t>{2, 1, 0});
    auto const weights = test::to_backend(b, std::vector<float>{1, 1, 1});
    Buffer<float, B> y(b, 1);
    combine(b, rows.matrix(3, 1), slot_of.matrix(1, 3), weights.matrix(1, 3), {}, y.matrix(1, 1));
    CHECK(test::to_host(b, y)[0] == 0.f); // (1e8 + 1) - 1e8
}

TEST_CASE_TEMPLATE("dispatch/combine: a token's bits do not depend on the other tokens", B,
                   SEMOE_TEST_BACKENDS) {
    Problem<B, float> p(Choices(13, 2, 6), 70);
    Buffer<float, B> whole(p.b, 13 * p.ld), parts(p.b, 13 * p.ld);
    auto const run = [&](Buffer<float, B> const& y, index_t first, index_t count) {
        combine(p.b, p.row_view(), p.slot_view().row_range(first, count),
                p.weight_view().row_range(first, count), {}, p.strided(y).row_range(first, count));
    };
    run(whole, 0, 13);
    for (index_t first : {0, 6, 12}) run(parts, first, first == 12 ? 1 : 6);
    CHECK((columns(p.b, p.strided(whole)) == columns(p.b, p.strided(parts))));
}

TEST_CASE_TEMPLATE("dispatch/combine: the base may be y itself, and of a wider type", B,
                   SEMOE_TEST_BACKENDS) {
    using S = space_of<B>;
    Problem<B, float> p(Choices(4, 2, 5), 66);
    combine(p.b, p.row_view(), p.slot_view(), p.weight_view(), p.base_view(true), {},
            p.strided(p.d_base));
    CHECK(test::relative_error(columns(p.b, p.strided(p.d_base)), p.forward(true, true, false)) <=
          1e-6);

    Problem<B, bf16> q(Choices(4, 2, 5), 66);
    auto const base = test::random_values<float>(6, index_t(4) * 66);
    auto const d_base = test::to_backend(q.b, base);
    auto want = q.forward(false, false, false);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += double(base[i]);
    combine(q.b, q.row_view(), q.slot_view(), q.weight_view(),
            TokenBase<float, S>{d_base.matrix(4, 66), {}}, {}, q.strided(q.d_dy));
    CHECK(test::relative_error(columns(q.b, q.strided(q.d_dy)), want) <= tolerance<bf16>());
}

TEST_CASE_TEMPLATE("dispatch/combine: a masked token is zero whatever its rows and base hold", B,
                   SEMOE_TEST_BACKENDS) {
    using S = space_of<B>;
    B b;
    float const nan = std::numeric_limits<float>::quiet_NaN();
    auto const rows = test::to_backend(b, std::vector<float>{nan, 2});
    auto const base = test::to_backend(b, std::vector<float>{nan, 3});
    auto const slot_of = test::to_backend(b, std::vector<index_t>{0, 1});
    auto const weights = test::to_backend(b, std::vector<float>{1, 5});
    auto const mask = test::to_backend(b, std::vector<std::uint8_t>{0, 1});
    TokenBase<float, S> const from{base.matrix(2, 1), {}};
    Buffer<float, B> y(b, 2), d_rows(b, 2), d_weights(b, 2), d_base(b, 2);
    combine(b, rows.matrix(2, 1), slot_of.matrix(2, 1), weights.matrix(2, 1), from, mask.view(),
            y.matrix(2, 1));
    CHECK((test::to_host(b, y) == std::vector<float>{0, 13}));
    combine_backward(b, base.matrix(2, 1), rows.matrix(2, 1), slot_of.matrix(2, 1),
                     weights.matrix(2, 1), mask.view(), d_rows.matrix(2, 1),
                     d_weights.matrix(2, 1));
    CHECK((test::to_host(b, d_rows) == std::vector<float>{0, 15}));
    CHECK((test::to_host(b, d_weights) == std::vector<float>{0, 6}));
    combine_base_backward(b, rows.matrix(2, 1), from, mask.view(), d_base.matrix(2, 1), {});
    CHECK((test::to_host(b, d_base) == std::vector<float>{0, 2}));
}

TEST_CASE_TEMPLATE("dispatch/combine: gradients of rows and weights, in every type and width", B,
                   SEMOE_TEST_BACKENDS) {
    for (index_t hidden : {1, 16, 37, 131})
        for (bool in_place : {false, true}) {
            CAPTURE(hidden);
            CAPTURE(in_place);
            check_backward<B, double>(Choices(11, 3, 4), hidden, in_place);
            check_backward<B, float>(Choices(11, 3, 4), hidden, in_place);
            check_backward<B, f16>(Choices(11, 3, 4), hidden, in_place);
            check_backward<B, bf16>(Choices(11, 3, 4), hidden, in_place);
        }
}

TEST_CASE_TEMPLATE("dispatch/combine: gradients of the base and its factor", B,
                   SEMOE_TEST_BACKENDS) {
    Problem<B, double> p(Choices(7, 1, 3), 35);
    Buffer<double, B> d_base(p.b, 7 * p.ld), d_factor(p.b, 7);
    combine_base_backward(p.b, p.strided(p.d_dy), p.base_view(true), p.d_mask.view(),
                          p.strided(d_base), d_factor.view());
    std::vector<double> want_base, want_factor(7);
    for (index_t t = 0; t < 7; ++t)
        for (index_t h = 0; h < 35; ++h) {
            double const dy = p.masked(t) ? 0 : value(p.dy, t * p.ld + h);
            want_base.push_back(value(p.factor, t) * dy);
            want_factor[std::size_t(t)] += dy * value(p.base, t * p.ld + h);
        }
    CHECK(test::relative_error(columns(p.b, p.strided(d_base)), want_base) <= 1e-14);
    CHECK(test::relative_error(test::to_host(p.b, d_factor), want_factor) <= 1e-14);
}

TEST_CASE_TEMPLATE("dispatch/combine: the backward of dispatch adds up a token's slots", B,
                   SEMOE_TEST_BACKENDS) {
    Problem<B, double> p(Choices(9, 3, 5), 67);
    for (double& w : p.weights) w = 1;
    Buffer<double, B> dx(p.b, 9 * p.ld);
    dispatch_backward(p.b, p.row_view(), p.slot_view(), p.strided(dx));
    CHECK(test::relative_error(columns(p.b, p.strided(dx)), p.forward(false, false, false)) <=
          1e-14);
    dispatch_backward(p.b, p.row_view(), p.slot_view(), p.base_view(false), p.strided(dx));
    CHECK(test::relative_error(columns(p.b, p.strided(dx)), p.forward(true, false, false)) <=
          1e-14);
}

TEST_CASE_TEMPLATE("dispatch/combine: names shapes that do not fit", B, SEMOE_TEST_BACKENDS) {
    B b;
    Buffer<float, B> rows(b, 12), weights(b, 6), y(b, 12), small(b, 4);
    Buffer<index_t, B> slot_of(b, 6);
    Buffer<std::uint8_t, B> mask(b, 3);
    CHECK_THROWS_WITH_AS(combine(b, rows.matrix(3, 4), slot_of.matrix(3, 2), weights.matrix(3, 2),
                                 {}, y.matrix(2, 4)),
                         "combine: tokens are [2,4], slots [3,4], slot_of [3,2]",
                         precondition_error);
    CHECK_THROWS_WITH_AS(combine(b, rows.matrix(3, 4), slot_of.matrix(3, 2), weights.matrix(2, 3),
                                 {}, y.matrix(3, 4)),
                         "combine: weights are [2,3], slot_of [3,2]", precondition_error);
    CHECK_THROWS_WITH_AS(combine(b, rows.matrix(3, 4), slot_of.matrix(3, 2), weights.matrix(3, 2),
                                 mask.view().part(0, 2), y.matrix(3, 4)),
                         "combine: the mask has 2 elements for 3 tokens", precondition_error);
    CHECK_THROWS_WITH_AS(combine_backward(b, y.matrix(3, 4), rows.matrix(3, 4),
                                          slot_of.matrix(3, 2), weights.matrix(3, 2), {},
                                          small.matrix(1, 4), weights.matrix(3, 2)),
                         "combine_backward: rows are [3,4], d_rows [1,4]", precondition_error);
}
