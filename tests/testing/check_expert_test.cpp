#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>
#include <string>
#include <vector>

// An expert that breaks one promise at a time: y = w * x^2 + c, column by column.
namespace check_expert_test {
namespace acme {

using semoe::index_t;

enum class Fault {
    none,
    reads_next_row,
    reads_its_place,
    writes_next_row,
    writes_past_columns,
    leaves_a_column,
    adds_to_d_in,
    fills_idle_gradients,
    ignores_the_mask,
    always_adds,
    shifts_the_mask,
    leaves_half_the_gradient,
    saves_less,
    halves_d_in,
    halves_a_column_of_d_in,
    halves_d_weight,
    jumps,
    needs_saved,
    ignores_the_index,
    ignores_the_index_again,
};

template <class T, class Space>
struct ForwardFn {
    semoe::ops::Group<std::byte const> g;
    semoe::ExpertRows<T, Space> rows;
    Fault fault;
    SEMOE_HD void operator()(index_t n) const {
        auto const [e, r] = g.place(n);
        index_t const H = rows.in.cols, last = g.first_row[e] + g.rows[e] - 1;
        auto const* w = reinterpret_cast<T const*>(g.block[e]);
        for (index_t c = 0; c < H; ++c) {
            if (fault == Fault::leaves_a_column && c == 1) continue;
            T const x =
                fault == Fault::ignores_the_index ? rows.in(r, c) : rows.indexed().row(r)[c];
            T y = w[c] * x * x + w[H + c];
            if (fault == Fault::reads_next_row && r < last) y += rows.indexed().row(r + 1)[c];
            if (fault == Fault::reads_its_place) y += T(e);
            if (fault == Fault::jumps && index_t(y * T(1e8)) % 2) y += T(1e-3);
            if (fault == Fault::needs_saved && !rows.keep_saved) y = 0;
            rows.out(r, c) = y;
            rows.saved(r, c) = x * x;
        }
        if (fault == Fault::writes_next_row && n == 0) rows.out.row(g.first_row[0] - 1)[0] = 0;
        if (fault == Fault::writes_past_columns) rows.out.row(r)[H] = 0;
    }
};
template <class T, class Space>
struct RowGradientFn {
    semoe::ops::Group<std::byte const> g;
    semoe::ExpertGradientRows<T, Space> rows;
    Fault fault;
    SEMOE_HD void operator()(index_t n) const {
        auto const [e, r] = g.place(n);
        auto const* w = reinterpret_cast<T const*>(g.block[e]);
        for (index_t c = 0; c < rows.in.cols; ++c) {
            bool const halved =
                fault == Fault::halves_d_in || (fault == Fault::halves_a_column_of_d_in && c == 1);
            T const factor = halved ? T(1) : T(2);
            T const d = factor * w[c] * rows.indexed().row(r)[c] * rows.d_out(r, c);
            rows.d_in(r, c) = fault == Fault::adds_to_d_in ? rows.d_in(r, c) + d : d;
        }
    }
};
template <class T, class Space>
struct BlockGradientFn {
    semoe::ops::Group<std::byte> g;
    semoe::ops::GroupMask mask;
    semoe::ExpertGradientRows<T, Space> rows;
    Fault fault;
    SEMOE_HD void operator()(index_t i) const {
        int const e = int(i);
        index_t const H = rows.in.cols, first = g.first_row[e];
        auto* d = reinterpret_cast<T*>(g.block[e]);
        if (g.rows[e] == 0 && fault != Fault::fills_idle_gradients) return;
        int const bit = fault == Fault::shifts_the_mask ? e + 1 : e;
        bool add = (mask >> bit & 1u) != 0;
        if (fault == Fault::ignores_the_mask) add = false;
        if (fault == Fault::always_adds) add = true;
        for (index_t c = 0; c < H; ++c) {
            T d_w = add ? d[c] : T(0), d_c = add ? d[H + c] : T(0);
            for (index_t r = first; r < first + g.rows[e]; ++r) {
                T const factor = fault == Fault::halves_d_weight ? T(0.5) : T(1);
                d_w += factor * rows.saved(r, c) * rows.d_out(r, c);
                d_c += rows.d_out(r, c);
            }
            d[c] = d_w;
            if (fault != Fault::leaves_half_the_gradient) d[H + c] = d_c;
        }
    }
};

template <class T, class S>
struct RecomputeFn {
    semoe::ops::Group<std::byte const> g;
    semoe::IndexedRows<T const, S> in;
    semoe::MatrixView<T, S> saved;
    Fault fault;
    SEMOE_HD void operator()(index_t n) const {
        index_t const r = g.place(n).row;
        T const* const x = fault == Fault::ignores_the_index_again ? in.all.row(r) : in.row(r);
        for (index_t c = 0; c < in.all.cols; ++c)
            saved(r, c) = x[c] * x[c] * (fault == Fault::saves_less ? T(0.5) : T(1));
    }
};

template <class T>
struct Quadratic {
    using value_type = T;
    index_t hidden;
    Fault fault = Fault::none;

    template <class B>
    semoe::BlockLayout layout(B const&) const {
        return semoe::BlockLayout{}.add("weight", 1, hidden).add("constant", 1, hidden);
    }
    index_t saved_columns() const { return hidden; }
    index_t scratch_columns() const { return 0; }
    index_t backward_scratch_columns() const { return 0; }
    template <class B>
    bool reads_indexed_rows(B const&) const {
        return true;
    }

    template <class B>
    void forward_grouped(B& b, semoe::ops::Group<std::byte const> const& g,
                         semoe::ExpertRows<T, semoe::space_of<B>> const& rows) const {
        b.parallel_for(g.total_rows(), ForwardFn<T, semoe::space_of<B>>{g, rows, fault});
    }
    template <class B>
    void backward_grouped(B& b, semoe::ops::Group<std::byte const> const& g,
                          semoe::ops::Group<std::byte> const& gradients,
                          semoe::ops::GroupMask accumulate,
                          semoe::ExpertGradientRows<T, semoe::space_of<B>> const& rows) const {
        using S = semoe::space_of<B>;
        b.parallel_for(g.total_rows(), RowGradientFn<T, S>{g, rows, fault});
        b.parallel_for(gradients.size, BlockGradientFn<T, S>{gradients, accumulate, rows, fault});
    }
    template <class B>
    void recompute_grouped(B& b, semoe::ops::Group<std::byte const> const& g,
                           semoe::IndexedRows<T const, semoe::space_of<B>> const& in,
                           semoe::MatrixView<T, semoe::space_of<B>> saved,
                           semoe::MatrixView<T, semoe::space_of<B>>) const {
        b.parallel_for(g.total_rows(), RecomputeFn<T, semoe::space_of<B>>{g, in, saved, fault});
    }
};

} // namespace acme

namespace {

using namespace semoe;
using acme::Fault;

TEST_CASE_TEMPLATE("testing/check_expert: an expert that keeps the contract passes", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    for (std::uint64_t const seed : {1u, 2u, 3u}) {
        CHECK_NOTHROW(testing::check_expert(b, acme::Quadratic<double>{5}, {.seed = seed}));
        CHECK_NOTHROW(testing::check_expert(b, acme::Quadratic<float>{2}, {.seed = seed}));
    }
}

TEST_CASE_TEMPLATE("testing/check_expert: every broken promise is found and said", B,
                   SEMOE_TEST_BACKENDS) {
    struct {
        Fault fault;
        char const* sentence;
    } const cases[] = {
        {Fault::reads_next_row, "a row gives the same bits alone and among others (row 0): out"},
        {Fault::reads_its_place, "a row gives the same bits alone and among others (row 3): out"},
        {Fault::writes_next_row, "out is written in a row of another group"},
        {Fault::writes_past_columns, "out is written past its last column"},
        {Fault::leaves_a_column, "out, row 0, holds a NaN though all inputs are finite"},
        {Fault::adds_to_d_in, "d_in, row 0, holds a NaN"},
        {Fault::fills_idle_gradients, "leaves all gradients alone"},
        {Fault::ignores_the_mask, "where the mask is set, the gradient is added to"},
        {Fault::always_adds, "where the mask is clear, the whole gradient is written"},
        {Fault::shifts_the_mask, "the mask"},
        {Fault::leaves_half_the_gradient, "where the mask is clear, the whole gradient is written"},
        {Fault::needs_saved, "without keep_saved out has the same bits"},
        {Fault::ignores_the_index, "an index changes no bit: out"},
        {Fault::ignores_the_index_again, "an index changes no bit: recomputed"},
        {Fault::saves_less, "recompute_grouped gives the bits that forward saved"},
        {Fault::halves_d_in, "the gradient of in is"},
        {Fault::halves_d_weight, "the gradient of weight is"},
    };
    B b{};
    for (auto const& c : cases) {
        CAPTURE(c.sentence);
        CHECK_THROWS_WITH_AS(testing::check_expert(b, acme::Quadratic<double>{5, c.fault}),
                             doctest::Contains(c.sentence), testing::contract_violation);
        CHECK_THROWS_AS(testing::check_expert(b, acme::Quadratic<float>{5, c.fault}),
                        testing::contract_violation);
    }
}

TEST_CASE_TEMPLATE("testing/check_expert: a difference for each row is one in each column", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    acme::Quadratic<double> const expert{5, Fault::halves_a_column_of_d_in};
    CHECK_THROWS_WITH_AS(testing::check_expert(b, expert, {.max_differences = 9}),
                         doctest::Contains("the gradient of in is"), testing::contract_violation);
}

TEST_CASE_TEMPLATE("testing/check_expert: a gradient that no difference can check is no pass", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    CHECK_THROWS_WITH_AS(testing::check_expert(b, acme::Quadratic<double>{5, Fault::jumps}),
                         doctest::Contains("too many kinks near this seed's values"),
                         testing::contract_violation);
}

/// Hands its gradients over times a factor.
struct HandsOver : acme::Quadratic<float> {
    float factor = 1;

    template <class B>
    bool hands_over_gradients(B const&, index_t) const {
        return true;
    }
    using Quadratic::backward_grouped;
    template <class B, ops::GradientTaker F>
    void backward_grouped(B& b, ops::Group<std::byte const> const& g, F const& taker,
                          ExpertGradientRows<float, space_of<B>> const& rows) const {
        std::vector<std::vector<float>> blocks(std::size_t(g.size),
                                               std::vector<float>(2 * std::size_t(hidden)));
        ops::Group<std::byte> gradients;
        for (int i = 0; i < g.size; ++i)
            gradients.add(g.first_row[i], g.rows[i],
                          reinterpret_cast<std::byte*>(blocks[std::size_t(i)].data()));
        Quadratic::backward_grouped(b, g, gradients, 0, rows);
        b.synchronize();
        for (int i = 0; i < g.size; ++i) {
            auto& block = blocks[std::size_t(i)];
            for (float& x : block) x *= factor;
            if (g.rows[i] > 0) taker(i, 0, {block.data(), index_t(block.size())});
        }
    }
};

TEST_CASE("testing/check_expert: gradients that are handed over are those that are stored") {
    CpuBackend b{.threads = 2};
    CHECK_NOTHROW(testing::check_expert(b, HandsOver{{5}}));
    CHECK_THROWS_WITH_AS(testing::check_expert(b, HandsOver{{5}, 2}),
                         doctest::Contains("a taker gets the bits that blocks would hold"),
                         testing::contract_violation);
}

} // namespace

} // namespace check_expert_test
