#include "semoe/ops/feed_forward.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/ops/tolerance.hpp"
#include "semoe/ops/worker_scratch.hpp"
#include "support/allocation_counter.hpp"
#include "support/matrix.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace feed_forward_test {

namespace {

/// Random numbers that repeat after a prime number of them, since millions take seconds to draw.
template <class T>
std::vector<T> weights_of(std::uint64_t seed, index_t n, double scale = 1) {
    constexpr index_t period = 8191;
    auto const drawn = random_values<T>(seed, min(n, period), scale);
    std::vector<T> values;
    values.reserve(static_cast<std::size_t>(n));
    for (index_t left = n; left > 0; left -= period)
        values.insert(values.end(), drawn.begin(), drawn.begin() + min(left, period));
    return values;
}

/// Experts of one group with rows between rows that belong to nobody.
template <class T, class Unit>
struct Experts {
    index_t H, I, inputs = Unit::inputs * I;
    std::vector<index_t> counts;
    bool bias;
    index_t total = 1; // the first row is nobody's
    ops::FeedForwardBlock<Unit> block;
    std::vector<std::vector<T>> weights;
    std::vector<std::vector<float>> gradients;
    std::vector<T> in, d_out;
    std::vector<T> saved, act, out, d_pre, d_in;

    Experts(index_t h, index_t i, std::vector<index_t> rows, bool with_bias)
      : H(h)
      , I(i)
      , counts(std::move(rows))
      , bias(with_bias) {
        index_t const in_elements = inputs * H, biases = in_elements + H * I;
        block.in = {0, inputs, H};
        block.down = {in_elements, H, I};
        if (bias) {
            block.in_bias = {biases, 1, inputs};
            block.down_bias = {biases + inputs, 1, H};
        }
        index_t const elements = biases + (bias ? inputs + H : 0);
        for (std::size_t e = 0; e < counts.size(); ++e) {
            weights.push_back(weights_of<T>(10 + e, elements, 1 / std::sqrt(double(H))));
            gradients.push_back(weights_of<float>(50 + e, elements));
            total += counts[e] + 1;
        }
        auto const n = std::size_t(total);
        in = random_values<T>(1, total * H);
        d_out = random_values<T>(2, total * H);
        out = d_in = std::vector<T>(n * std::size_t(H), T(7.0f));
        saved = d_pre = std::vector<T>(n * std::size_t(inputs), T(7.0f));
        act = std::vector<T>(n * std::size_t(I), T(7.0f));
    }
    template <class Byte, class V>
    ops::Group<Byte> group(std::vector<std::vector<V>>& blocks) {
        ops::Group<Byte> g;
        index_t first = 1;
        for (std::size_t e = 0; e < counts.size(); first += counts[e++] + 1)
            g.add(first, counts[e], reinterpret_cast<Byte*>(blocks[e].data()));
        return g;
    }
    MatrixView<T, HostSpace> view(std::vector<T>& v, index_t cols) {
        return {v.data(), total, cols};
    }
    template <class B>
    void forward(B& b) {
        ops::grouped_feed_forward<T>(b, group<std::byte const>(weights), block, view(in, H),
                                     view(saved, inputs), view(act, I), view(out, H));
    }
    template <class B>
    void backward(B& b, ops::GroupMask accumulate) {
        ops::grouped_feed_forward_backward<T>(
            b, group<std::byte const>(weights), group<std::byte>(gradients), accumulate, block,
            view(in, H), view(saved, inputs), view(d_out, H), view(d_pre, inputs), view(d_in, H));
    }
    template <class B, class F>
    void backward_to(B& b, F const& taker) {
        ops::grouped_feed_forward_backward<T>(b, group<std::byte const>(weights), taker, block,
                                              view(in, H), view(saved, inputs), view(d_out, H),
                                              view(d_pre, inputs), view(d_in, H));
    }
};

template <class T>
double number(std::vector<T> const& v, index_t i) {
    return double(float(v[std::size_t(i)]));
}

/// Whether the products and the unit between them are what loops over doubles compute, from what
/// the operation itself left where it rounds.
template <class T, class Unit>
struct Reference {
    Experts<T, Unit> const& x;
    double worst = 0; ///< error as a part of what is allowed

    static constexpr bool narrow = std::same_as<T, bf16>;
    /// The error of a term with an activation, which forward computes before `saved` is rounded.
    static constexpr double rounded = narrow ? 1.0 / 64 : 0;
    /// @param term_error  of what is summed; the sizes of which add up to `size`
    void see(double got, double want, double size, index_t depth, double term_error = 0) {
        double const rounding = narrow ? 1.0 / 128 : 1.0 / (1 << 22);
        double const allowed = rounding * std::fabs(want) +
                               (4 * ops::tolerance<float>(depth) + term_error) * size + 1e-30;
        worst = std::max(worst, std::fabs(got - want) / allowed);
        if (!std::isfinite(got)) worst = INFINITY;
    }
    void forward(std::size_t e, index_t first, index_t step) {
        auto const& w = x.weights[e];
        for (index_t r = first; r < first + x.counts[e]; r += step) {
            for (index_t n = 0; n < x.inputs; ++n) {
                double sum = x.bias ? number(w, x.block.in_bias.offset + n) : 0, size = 0;
                for (index_t h = 0; h < x.H; ++h) {
                    double const term = number(w, n * x.H + h) * number(x.in, r * x.H + h);
                    sum += term, size += std::fabs(term);
                }
                see(number(x.saved, r * x.inputs + n), sum, size, x.H);
            }
            for (index_t h = 0; h < x.H; ++h) {
                double sum = x.bias ? number(w, x.block.down_bias.offset + h) : 0, size = 0;
                for (index_t i = 0; i < x.I; ++i) {
                    double const term = number(w, x.block.down.offset + h * x.I + i) * act(r, i);
                    sum += term, size += std::fabs(term);
                }
                see(number(x.out, r * x.H + h), sum, size, x.I, rounded);
            }
        }
    }
    void backward(std::size_t e, index_t first, bool add, index_t step) {
        auto const& w = x.weights[e];
        index_t const rows = x.counts[e];
        if (rows == 0) return;
        // A step is coprime to all I here, so all columns have their turn.
        for (index_t at = first * x.I; at < (first + rows) * x.I; at += step) {
            index_t const r = at / x.I, i = at % x.I;
            double sum = 0, size = 0;
            for (index_t h = 0; h < x.H; ++h) {
                double const term =
                    number(w, x.block.down.offset + h * x.I + i) * number(x.d_out, r * x.H + h);
                sum += term, size += std::fabs(term);
            }
            index_t const gate = r * x.inputs + i, up = gate + x.I;
            double const u = gated ? number(x.saved, up) : 1;
            see(number(x.d_pre, gate), sum * u * slope(r, i), size * std::fabs(u), x.H);
            if (gated)
                see(number(x.d_pre, up), sum * silu(r, i), size * std::fabs(silu(r, i)), x.H);
        }
        for (index_t r = first; r < first + rows; r += step)
            for (index_t h = 0; h < x.H; ++h) {
                double sum = 0, size = 0;
                for (index_t n = 0; n < x.inputs; ++n) {
                    double const term = number(w, n * x.H + h) * number(x.d_pre, r * x.inputs + n);
                    sum += term, size += std::fabs(term);
                }
                see(number(x.d_in, r * x.H + h), sum, size, x.inputs);
            }
        auto const before = weights_of<float>(50 + e, index_t(w.size()));
        auto const check = [&](index_t at, auto const& term) {
            double sum = add ? number(before, at) : 0, size = std::fabs(sum);
            for (index_t r = first; r < first + rows; ++r) {
                double const product = term(r);
                sum += product, size += std::fabs(product);
            }
            see(number(x.gradients[e], at), sum, size, rows, rounded);
        };
        for (index_t n = 0; n < x.inputs; n += step)
            for (index_t h = 0; h < x.H; ++h)
                check(n * x.H + h, [&](index_t r) {
                    return number(x.d_pre, r * x.inputs + n) * number(x.in, r * x.H + h);
                });
        for (index_t h = 0; h < x.H; h += step)
            for (index_t i = 0; i < x.I; ++i)
                check(x.block.down.offset + h * x.I + i,
                      [&](index_t r) { return number(x.d_out, r * x.H + h) * act(r, i); });
    }
    static constexpr bool gated = Unit::inputs == 2;
    double sigmoid(index_t r, index_t i) const {
        return 1 / (1 + std::exp(-number(x.saved, r * x.inputs + i)));
    }
    double silu(index_t r, index_t i) const {
        return number(x.saved, r * x.inputs + i) * sigmoid(r, i);
    }
    double slope(index_t r, index_t i) const { // of silu
        return sigmoid(r, i) + silu(r, i) * (1 - sigmoid(r, i));
    }
    double act(index_t r, index_t i) const {
        return silu(r, i) * (gated ? number(x.saved, r * x.inputs + x.I + i) : 1);
    }
};

template <class T, class Unit>
void check(CpuBackend b, index_t H, index_t I, std::vector<index_t> const& counts, bool bias,
           index_t step) {
    CAPTURE(H);
    CAPTURE(I);
    Experts<T, Unit> x(H, I, counts, bias);
    ops::GroupMask const accumulate = 0b0101;
    x.forward(b);
    x.backward(b, accumulate);
    Reference<T, Unit> reference{x};
    index_t first = 1;
    for (std::size_t e = 0; e < counts.size(); first += counts[e++] + 1) {
        reference.forward(e, first, step);
        reference.backward(e, first, (accumulate >> e & 1u) != 0, step);
        // The row after each expert's is nobody's.
        for (auto* v : {&x.out, &x.d_in}) CHECK(number(*v, (first + counts[e]) * H) == 7.0);
    }
    CHECK(reference.worst <= 1);
}
/// One worker has all rows of a panel in one task, several have them in parts.
template <class T, class Unit>
void check(index_t H, index_t I, std::vector<index_t> const& counts, bool bias, index_t step = 1) {
    for (int const threads : {1, 2}) {
        CAPTURE(threads);
        check<T, Unit>(CpuBackend{.threads = threads}, H, I, counts, bias, step);
    }
}

using Gated = ops::unit::Gated<ops::activation::Silu>;
using Plain = ops::unit::Plain<ops::activation::Silu>;

/// Keeps what it is given, counts it, and spoils the weights that nobody may need any more.
template <class T>
struct Keep {
    std::vector<T>* weights;
    std::vector<float>*gradients, *times;

    void operator()(int i, index_t first, VectorView<float const, HostSpace> values) const {
        for (index_t n = 0; n < values.size; ++n) {
            auto const at = std::size_t(first + n);
            gradients[i][at] = values[n];
            times[i][at] += 1;
            weights[i][at] = T(NAN);
        }
    }
};

} // namespace

TEST_CASE_TEMPLATE("ops/feed_forward: products and gradients agree with loops over doubles", T,
                   float, bf16) {
    for (bool const bias : {false, true}) {
        check<T, Gated>(1, 1, {1}, bias);
        check<T, Gated>(32, 32, {32, 0, 16}, bias);
        check<T, Gated>(70, 45, {3, 0, 33, 17}, bias);
        check<T, Plain>(33, 65, {5, 31, 0}, bias);
        check<T, Plain>(4, 33, {32}, bias);
        check<T, Plain>(20, 48, {17, 50}, bias);
        check<T, Plain>(96, 64, {48, 1}, bias);
    }
}
TEST_CASE_TEMPLATE("ops/feed_forward: more than a slab, a panel, a block of rows and a task", T,
                   float, bf16) {
    check<T, Gated>(640, 300, {400, 1, 50}, false, 97);
    check<T, Plain>(300, 1100, {70}, false, 97);
    check<T, Plain>(1100, 1056, {2, 5, 12}, false, 97);
    check<T, Gated>(64, 64, {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12, 13, 14, 15, 16}, true);
}

TEST_CASE_TEMPLATE("ops/feed_forward: bits do not depend on threads, scratch or other rows", T,
                   float, bf16) {
    Experts<T, Gated> first(96, 80, {40, 3}, true);
    CpuBackend one{.threads = 1};
    first.forward(one);
    first.backward(one, 1);
    for (int const threads : {1, 2, 3}) {
        Experts<T, Gated> x(96, 80, {40, 3}, true);
        CpuBackend b{.threads = threads};
        ops::reserve_worker_scratch(b, ops::feed_forward_scratch_bytes<CpuBackend, T>(x.block));
        x.forward(b);
        x.backward(b, 1);
        CHECK(same_bits(x.out, first.out));
        CHECK(same_bits(x.saved, first.saved));
        CHECK(same_bits(x.d_in, first.d_in));
        for (std::size_t e = 0; e < 2; ++e) CHECK(same_bits(x.gradients[e], first.gradients[e]));
    }
}

TEST_CASE_TEMPLATE(
    "ops/feed_forward: few rows have the bits of many, in weights whose rows are read "
    "whole or in parts",
    T, float, bf16) {
    CpuBackend b{.threads = 1};
    index_t const rows = 40;
    for (auto const& [H, I] : {std::pair<index_t, index_t>{96, 80}, {1100, 1056}}) {
        Experts<T, Gated> all(H, I, {rows}, true), some = all;
        all.forward(b);
        for (index_t const n : {1, 3, 5, 8, 12}) {
            CAPTURE(n);
            std::fill(some.out.begin(), some.out.end(), T(0.0f));
            for (index_t first = 0; first < rows; first += n) {
                ops::Group<std::byte const> g;
                g.add(1 + first, min(n, rows - first),
                      reinterpret_cast<std::byte const*>(some.weights[0].data()));
                ops::grouped_feed_forward<T>(b, g, some.block, some.view(some.in, H),
                                             some.view(some.saved, 2 * I), some.view(some.act, I),
                                             some.view(some.out, H));
            }
            for (auto i = std::size_t(H); i < std::size_t((rows + 1) * H); ++i)
                REQUIRE(float(some.out[i]) == float(all.out[i]));
        }
    }
}

TEST_CASE_TEMPLATE("ops/feed_forward: a taker gets every gradient once, with its bits, when nobody "
                   "reads the weights any more",
                   T, float, bf16) {
    std::vector<std::vector<index_t>> const groups{
        {1}, {3, 0, 384}, {40, 7}, {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12, 13, 14, 15, 16}};
    for (auto const& rows : groups)
        for (int const threads : {1, 2, 3}) {
            CAPTURE(rows.size());
            CAPTURE(threads);
            CpuBackend b{.threads = threads};
            Experts<T, Gated> stored(70, 45, rows, false), taken = stored;
            stored.forward(b);
            stored.backward(b, 0);
            taken.forward(b);
            auto times = taken.gradients;
            for (auto& expert : times) std::fill(expert.begin(), expert.end(), 0.0f);
            taken.backward_to(b,
                              Keep<T>{taken.weights.data(), taken.gradients.data(), times.data()});
            CHECK(same_bits(taken.d_in, stored.d_in));
            for (std::size_t e = 0; e < rows.size(); ++e) {
                CHECK(same_bits(taken.gradients[e], stored.gradients[e]));
                CHECK(times[e] == std::vector<float>(times[e].size(), rows[e] > 0 ? 1.0f : 0.0f));
            }
        }
}

TEST_CASE("ops/feed_forward: a taker of more rows than one block, or of biases, is refused") {
    CpuBackend b{.threads = 1};
    auto const nobody = [](int, index_t, VectorView<float const, HostSpace>) {};
    Experts<float, Gated> many(8, 4, {2, ops::taken_gradient_rows + 1}, false);
    CHECK_THROWS_WITH_AS(many.backward_to(b, nobody),
                         "grouped_feed_forward_backward: expert 1 of the group has 385 rows, of "
                         "at most 384",
                         precondition_error);
    Experts<float, Gated> biased(8, 4, {2}, true);
    CHECK_THROWS_WITH_AS(biased.backward_to(b, nobody), doctest::Contains("gradients of biases"),
                         precondition_error);
}

TEST_CASE_TEMPLATE("ops/feed_forward: nothing allocates where workers have their scratch", T, float,
                   bf16) {
    for (index_t const rows : {1, 40, 400}) {
        Experts<T, Gated> x(96, 200, {rows, 2}, true);
        CpuBackend b{.threads = 2};
        ops::reserve_worker_scratch(b, ops::feed_forward_scratch_bytes<CpuBackend, T>(x.block));
        long const before = num_allocations;
        x.forward(b);
        x.backward(b, 0);
        CHECK(num_allocations == before);
    }
}

TEST_CASE("ops/feed_forward: a matrix that does not fit is refused by name") {
    Experts<float, Gated> x(32, 16, {4}, false);
    CpuBackend b{.threads = 1};
    auto const g = x.group<std::byte const>(x.weights);
    auto const in = x.view(x.in, 32), out = x.view(x.out, 32), act = x.view(x.act, 16);
    auto const forward = [&](auto saved, auto scratch) {
        ops::grouped_feed_forward<float>(b, g, x.block, in, saved, scratch, out);
    };
    MatrixView<float, HostSpace> const saved = x.view(x.saved, 32);
    CHECK_NOTHROW(forward(saved, act));
    CHECK_THROWS_AS(forward(saved.col_range(0, 31), act), precondition_error);
    CHECK_THROWS_AS(forward(saved, act.row_range(0, 4)), precondition_error);
}

TEST_CASE("ops/feed_forward: slices of a block that do not fit one another are named") {
    CpuBackend b{.threads = 1};
    auto const refused = [&](auto const& change, char const* what) {
        Experts<float, Gated> x(32, 16, {4}, true);
        change(x.block);
        auto const g = x.group<std::byte const>(x.weights);
        auto const rows = x.view(x.in, 32);
        MatrixView<float, HostSpace> const none{};
        CHECK_THROWS_WITH_AS(ops::grouped_feed_forward<float>(b, g, x.block, rows, none,
                                                              x.view(x.act, 16), x.view(x.out, 32)),
                             doctest::Contains(what), precondition_error);
    };
    refused([](auto& block) { block.in.rows = 16; }, "in is [16,32], must be [32,32]");
    refused([](auto& block) { block.in.cols = 31; }, "in is [32,31], must be [32,32]");
    refused([](auto& block) { block.in_bias.cols = 16; }, "in_bias is [1,16], must be [1,32]");
    refused([](auto& block) { block.down_bias.rows = 2; }, "down_bias is [2,32], must be [1,32]");
}

TEST_CASE("ops/feed_forward: gradients of other experts or rows than the weights' are refused") {
    Experts<float, Gated> x(32, 16, {4, 3}, false);
    CpuBackend b{.threads = 1};
    auto const refused = [&](ops::Group<std::byte> const& gradients, char const* what) {
        CHECK_THROWS_WITH_AS(ops::grouped_feed_forward_backward<float>(
                                 b, x.group<std::byte const>(x.weights), gradients, 0, x.block,
                                 x.view(x.in, 32), x.view(x.saved, 32), x.view(x.d_out, 32),
                                 x.view(x.d_pre, 32), x.view(x.d_in, 32)),
                             doctest::Contains(what), precondition_error);
    };
    auto gradients = x.group<std::byte>(x.gradients);
    gradients.rows[1] = 2;
    refused(gradients, "expert 1 of the group has 3 rows from 6 on, its gradients 2 from 6 on");
    gradients.size = 1;
    refused(gradients, "weights of 2 experts, gradients of 1");
}

} // namespace feed_forward_test
