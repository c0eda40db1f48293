#include "semoe/optim/elementwise.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

namespace acme {

/// The sign of the gradient, and nothing to remember.
template <class Real>
struct SignRule {
    static constexpr int moments_per_element = 0;
    Real lr;
    SEMOE_HD void operator()(Real& p, Real g) const {
        p -= lr * Real((g > Real(0)) - (g < Real(0)));
    }
};
struct SignSgd {
    static constexpr int moments_per_element = 0;
    double lr = 1e-3;

    template <semoe::Backend B, class T>
    void update(B& b, semoe::ParameterBlock<T, semoe::space_of<B>> const& block,
                semoe::UpdateStep step) const {
        using Real = semoe::accumulate_t<T>;
        semoe::optim::update_elements(b, block, step.gradient_scale,
                                      SignRule<Real>{Real(lr * step.lr_factor)});
    }
};

/// Every result is exact in float, so that the order of instructions cannot hide an error.
struct CountRule {
    static constexpr int moments_per_element = 2;
    SEMOE_HD void operator()(float& p, float g, float& m, float& v) const {
        m += 1;
        v += g;
        p += m * v;
    }
};

/// Rounds at every operation.
struct CubeRule {
    static constexpr int moments_per_element = 1;
    SEMOE_HD void operator()(float& p, float g, float& m) const {
        m = 0.9f * m + 0.1f * g;
        p = 0.999f * p - 0.01f * (m * m * m);
    }
};

} // namespace acme

namespace {

using namespace semoe;

TEST_CASE_TEMPLATE("optim/elementwise: every element of any length is updated once", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    for (index_t const n : {0, 1, 15, 16, 17, 97, 4095, 4096, 4097, 8195}) {
        CAPTURE(n);
        std::vector<float> p(std::size_t(n) + 1), g(p), m(2 * std::size_t(n) + 1), expected;
        for (std::size_t i = 0; i < p.size(); ++i) {
            p[i] = float(i);
            g[i] = float(i % 7) - 3;
        }
        for (std::size_t i = 0; i < m.size(); ++i) m[i] = float(i % 5);
        auto weight = test::to_backend(b, p), gradient = test::to_backend(b, g),
             state = test::to_backend(b, m);
        ParameterBlock<float, space_of<B>> const block{
            weight.view().part(0, n), {}, gradient.view().part(0, n), state.view().part(0, 2 * n)};
        optim::update_elements(b, block, 2.0, acme::CountRule{});

        for (std::size_t i = 0; i < std::size_t(n); ++i)
            acme::CountRule{}(p[i], 2 * g[i], m[i], m[std::size_t(n) + i]);
        // The element past the end keeps its value too.
        CHECK(test::to_host(b, weight) == p);
        CHECK(test::to_host(b, state) == m);
    }
}

TEST_CASE_TEMPLATE("optim/elementwise: an element's bits do not depend on the block around it", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 83;
    auto const p = test::random_values<float>(1, n), g = test::random_values<float>(2, n),
               m = test::random_values<float>(3, n);
    auto const run = [&](index_t first, index_t count) {
        auto weight = test::to_backend(b, p), gradient = test::to_backend(b, g),
             state = test::to_backend(b, m);
        ParameterBlock<float, space_of<B>> const block{weight.view().part(first, count),
                                                       {},
                                                       gradient.view().part(first, count),
                                                       state.view().part(first, count)};
        optim::update_elements(b, block, 0.7, acme::CubeRule{});
        return test::to_host(b, weight.data() + first, count);
    };
    auto const whole = run(0, n);
    for (index_t const cut : {1, 16, 29, 82}) {
        auto parts = run(0, cut);
        auto const rest = run(cut, n - cut);
        parts.insert(parts.end(), rest.begin(), rest.end());
        CHECK(parts == whole);
    }
}

TEST_CASE_TEMPLATE("optim/elementwise: the master is the parameter, the weight its rounding", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto weight = test::to_backend(b, std::vector<f16>(20, f16(9.0f)));
    auto master = test::to_backend(b, std::vector<float>(20, 1.0f));
    auto gradient = test::to_backend(b, std::vector<float>(20, -3.0f));
    ParameterBlock<f16, space_of<B>> const block{weight.view(), master.view(), gradient.view(), {}};
    acme::SignSgd{.lr = 0x1p-20}.update(b, block, UpdateStep{});
    for (float const x : test::to_host(b, master)) CHECK(x == 1 + 0x1p-20f);
    for (f16 const x : test::to_host(b, weight)) CHECK(float(x) == 1);
}

TEST_CASE_TEMPLATE("optim/elementwise: an optimizer of a foreign namespace is one rule", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(Optimizer<acme::SignSgd, B>);
    B b{};
    auto weight = test::to_backend(b, std::vector<double>{1, 1, 1});
    auto gradient = test::to_backend(b, std::vector<double>{1e-9, 0, -5});
    ParameterBlock<double, space_of<B>> const block{weight.view(), {}, gradient.view(), {}};
    acme::SignSgd{.lr = 0.5}.update(b, block, UpdateStep{});
    CHECK(test::to_host(b, weight) == std::vector<double>{0.5, 1, 1.5});
}

TEST_CASE_TEMPLATE("optim/elementwise: sizes that do not fit are named before any work", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto const refused = [&](auto block, char const* text) {
        CHECK_THROWS_WITH_AS(optim::update_elements(b, block, 1.0, acme::CountRule{}),
                             doctest::Contains(text), precondition_error);
    };
    using S = space_of<B>;
    refused(ParameterBlock<float, S>{{nullptr, 3}, {}, {nullptr, 2}, {nullptr, 6}},
            "gradient has 2 elements, the weight's 3 need 3");
    refused(ParameterBlock<float, S>{{nullptr, 3}, {}, {}, {nullptr, 3}},
            "moments has 3 elements, the weight's 3 need 6");
    refused(ParameterBlock<bf16, S>{{nullptr, 3}, {}, {}, {nullptr, 6}},
            "master has 0 elements, the weight's 3 need 3");
}

} // namespace
