#include "optim/reference_run.hpp"
#include "semoe/optim/adamw.hpp"
#include "support/backends.hpp"

#include <cmath>
#include <doctest/doctest.h>

namespace adamw_test {
namespace {

using namespace semoe;

optim::AdamW const decayed{
    .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
optim::AdamW const plain{.lr = 0.01, .beta1 = 0.9, .beta2 = 0.999};

TEST_CASE_TEMPLATE("optim/adamw: five steps follow the reference in float and double", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(Optimizer<optim::AdamW, B>);
    B b{};
    std::vector<std::string> const moments{"exp_avg", "exp_avg_sq"};
    test::check_reference_run<float>(b, decayed, "adamw", 1e-6, moments);
    test::check_reference_run<float>(b, plain, "adamw_plain", 1e-6, moments);
    test::check_reference_run<double>(b, decayed, "adamw", 1e-12, moments);
    test::check_reference_run<double>(b, plain, "adamw_plain", 1e-12, moments);
}

TEST_CASE_TEMPLATE("optim/adamw: the factor scales learning rate and decay alike", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto const start = test::random_values<double>(1, 37), g = test::random_values<double>(2, 37);
    auto const run = [&](optim::AdamW const& adam, double factor) {
        auto weight = test::to_backend(b, start), gradient = test::to_backend(b, g);
        auto state = test::to_backend(b, std::vector<double>(74));
        ParameterBlock<double, space_of<B>> const block{
            weight.view(), {}, gradient.view(), state.view()};
        adam.update(b, block, UpdateStep{.step = 3, .lr_factor = factor});
        return test::to_host(b, weight);
    };
    auto quarter = decayed;
    quarter.lr *= 0.25;
    CHECK(run(decayed, 0.25) == run(quarter, 1));
    CHECK(run(decayed, 0) == start);
}

TEST_CASE_TEMPLATE("optim/adamw: gradient_scale is a multiplication of the gradient", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto const start = test::random_values<float>(1, 19);
    auto const run = [&](std::vector<float> const& g, double scale) {
        auto weight = test::to_backend(b, start), gradient = test::to_backend(b, g);
        auto state = test::to_backend(b, std::vector<float>(38));
        ParameterBlock<float, space_of<B>> const block{
            weight.view(), {}, gradient.view(), state.view()};
        decayed.update(b, block, UpdateStep{.gradient_scale = scale});
        auto result = test::to_host(b, weight);
        auto const moments = test::to_host(b, state);
        result.insert(result.end(), moments.begin(), moments.end());
        return result;
    };
    auto g = test::random_values<float>(2, 19);
    auto const scaled = run(g, 0.125);
    for (float& x : g) x *= 0.125f;
    CHECK(scaled == run(g, 1));
}

TEST_CASE_TEMPLATE("optim/adamw: a block without gradient steps as one with zeros", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 21;
    auto const start = test::random_values<float>(1, n);
    std::vector<float> initial = test::random_values<float>(2, 2 * n);
    for (float& x : initial) x = std::abs(x);
    std::vector<float> results[2];
    for (bool const empty : {false, true}) {
        auto weight = test::to_backend(b, start), state = test::to_backend(b, initial);
        auto zeros = test::to_backend(b, std::vector<float>(std::size_t(n)));
        ParameterBlock<float, space_of<B>> block{weight.view(), {}, {}, state.view()};
        if (!empty) block.gradient = zeros.view();
        decayed.update(b, block, UpdateStep{.step = 5});
        results[empty] = test::to_host(b, weight);
        auto const moments = test::to_host(b, state);
        for (std::size_t i = 0; i < moments.size(); ++i)
            CHECK(moments[i] == doctest::Approx(initial[i] * (i < std::size_t(n) ? 0.9 : 0.95)));
    }
    CHECK(results[0] == results[1]);
    CHECK(results[0] != start);
}

TEST_CASE_TEMPLATE("optim/adamw: small steps that 16 bits would lose gather in the master", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    std::vector<bf16> const start(33, bf16(1.0f));
    auto weight = test::to_backend(b, start);
    auto master = test::to_backend(b, std::vector<float>(33, 1.0f));
    auto gradient = test::to_backend(b, std::vector<float>(33, 1.0f));
    auto state = test::to_backend(b, std::vector<float>(66));
    ParameterBlock<bf16, space_of<B>> const block{weight.view(), master.view(), gradient.view(),
                                                  state.view()};
    // A step takes 1e-4 off; the neighbour of 1 in bf16 is 4e-3 away.
    for (index_t step = 0; step < 100; ++step)
        optim::AdamW{.lr = 1e-4}.update(b, block, UpdateStep{.step = step});
    for (float const x : test::to_host(b, master)) CHECK(x == doctest::Approx(0.99).epsilon(1e-5));
    for (bf16 const x : test::to_host(b, weight)) CHECK(float(x) == float(bf16(0.99f)));
}

TEST_CASE_TEMPLATE("optim/adamw: a first step has size lr for gradients of any magnitude", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    std::vector<float> g;
    for (float x = 1e-17f; x < 1e18f; x *= 1.37f) g.push_back(g.size() % 2 ? x : -x);
    std::size_t const ordinary = g.size();
    // The second moment of 1e25 is infinite, so the step is zero; NaN shows in the weight.
    g.insert(g.end(), {0.0f, 1e25f, std::nanf("")});
    auto weight = test::to_backend(b, std::vector<float>(g.size()));
    auto gradient = test::to_backend(b, g);
    auto state = test::to_backend(b, std::vector<float>(2 * g.size()));
    ParameterBlock<float, space_of<B>> const block{
        weight.view(), {}, gradient.view(), state.view()};
    optim::AdamW{.lr = 1, .eps = 1e-30}.update(b, block, UpdateStep{});
    auto const p = test::to_host(b, weight);
    for (std::size_t i = 0; i < ordinary; ++i)
        CHECK(p[i] == doctest::Approx(g[i] > 0 ? -1 : 1).epsilon(1e-6));
    CHECK(p[ordinary] == 0);
    CHECK(p[ordinary + 1] == 0);
    CHECK(std::isnan(p[ordinary + 2]));
}

TEST_CASE_TEMPLATE("optim/adamw: a constant out of range is named before any work", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto weight = test::to_backend(b, std::vector<float>{1});
    auto state = test::to_backend(b, std::vector<float>(2));
    ParameterBlock<float, space_of<B>> const block{weight.view(), {}, {}, state.view()};
    auto const refused = [&](optim::AdamW const& adam, UpdateStep step, char const* text) {
        CHECK_THROWS_WITH_AS(adam.update(b, block, step), doctest::Contains(text),
                             precondition_error);
    };
    refused({.lr = -1}, {}, "AdamW: lr is -1");
    refused({.beta1 = 1}, {}, "AdamW: beta1 is 1, must lie in [0, 1)");
    refused({.beta2 = std::nan("")}, {}, "AdamW: beta2 is nan");
    refused({.eps = -1e-8}, {}, "AdamW: eps is -1e-08");
    refused({.eps = 1e-46}, {}, "AdamW: eps is 1e-46, must be above 0"); // 0 as a float
    refused({.weight_decay = INFINITY}, {}, "AdamW: weight_decay is inf");
    refused({}, {.step = -1}, "AdamW: step is -1");
    CHECK(test::to_host(b, weight)[0] == 1);
}

} // namespace

} // namespace adamw_test
