#include "optim/reference_run.hpp"
#include "semoe/optim/sgd.hpp"
#include "support/backends.hpp"

#include <cmath>
#include <doctest/doctest.h>

namespace {

using namespace semoe;

TEST_CASE_TEMPLATE("optim/sgd: five steps follow the reference in float and double", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(Optimizer<optim::Sgd, B>);
    B b{};
    optim::Sgd const momentum{.lr = 0.01, .momentum = 0.9};
    auto nesterov = momentum, coupled = momentum, decoupled = momentum;
    nesterov.nesterov = true;
    coupled.weight_decay = decoupled.weight_decay = 0.1;
    decoupled.decoupled = true;
    struct {
        optim::Sgd optimizer;
        char const* kind;
    } const runs[] = {{momentum, "sgd"},
                      {nesterov, "sgd_nesterov"},
                      {coupled, "sgd_coupled_decay"},
                      {decoupled, "sgd_decoupled_decay"}};
    for (auto const& run : runs) {
        test::check_reference_run<float>(b, run.optimizer, run.kind, 1e-6);
        test::check_reference_run<double>(b, run.optimizer, run.kind, 1e-12);
    }
}

TEST_CASE_TEMPLATE("optim/sgd: without momentum the step is lr times the scaled gradient", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto weight = test::to_backend(b, std::vector<float>{1, 2, 3});
    auto gradient = test::to_backend(b, std::vector<float>{4, 0, -8});
    auto state = test::to_backend(b, std::vector<float>(3));
    ParameterBlock<float, space_of<B>> const block{
        weight.view(), {}, gradient.view(), state.view()};
    optim::Sgd{.lr = 0.5}.update(b, block, UpdateStep{.lr_factor = 0.5, .gradient_scale = 2});
    CHECK(test::to_host(b, weight) == std::vector<float>{-1, 2, 7});
}

TEST_CASE_TEMPLATE("optim/sgd: a block without gradient coasts on its momentum", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto weight = test::to_backend(b, std::vector<double>{1});
    auto state = test::to_backend(b, std::vector<double>{4});
    ParameterBlock<double, space_of<B>> const block{weight.view(), {}, {}, state.view()};
    optim::Sgd{.lr = 0.25, .momentum = 0.5}.update(b, block, UpdateStep{.step = 1});
    CHECK(test::to_host(b, weight)[0] == 0.5);
    CHECK(test::to_host(b, state)[0] == 2);
}

TEST_CASE_TEMPLATE("optim/sgd: a constant out of range is named before any work", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    ParameterBlock<float, space_of<B>> const block{};
    auto const refused = [&](optim::Sgd const& sgd, char const* text) {
        CHECK_THROWS_WITH_AS(sgd.update(b, block, UpdateStep{}), doctest::Contains(text),
                             precondition_error);
    };
    refused({.lr = std::nan("")}, "Sgd: lr is nan, must be 0 or more");
    refused({.momentum = 1}, "Sgd: momentum is 1, must lie in [0, 1)");
    refused({.nesterov = true}, "Sgd: momentum is 0, must be above 0 with nesterov");
    refused({.weight_decay = -0.1}, "Sgd: weight_decay is -0.1");
}

} // namespace
