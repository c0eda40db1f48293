#include "expert/reference_run.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

namespace {

using namespace semoe;
namespace activation = semoe::ops::activation;

template <class T>
using AnyFfn = expert::Ffn<T, test::Selected>;

TEST_CASE_TEMPLATE("expert/ffn: every activation keeps the contract, with bias and without", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    for (test::Curve const curve : test::all_curves) {
        CAPTURE(int(curve));
        testing::check_expert(b, AnyFfn<double>{5, 7, false, {curve}});
        testing::check_expert(b, AnyFfn<double>{6, 3, true, {curve}});
    }
    testing::check_expert(b, AnyFfn<double>{1, 1, true});
}

TEST_CASE("expert/ffn: an expert of 16 bits keeps the contract") {
    test::FirstBackend b{};
    testing::check_expert(b, AnyFfn<bf16>{33, 18, true, {test::Curve::gelu}});
}

TEST_CASE("expert/ffn: every element type agrees with a reference in double") {
    test::FirstBackend b{};
    test::check_curves<expert::Ffn, double>(b);
    test::check_curves<expert::Ffn, float>(b);
    test::check_curves<expert::Ffn, f16>(b);
    test::check_curves<expert::Ffn, bf16>(b);
}

TEST_CASE("expert/ffn: derived panels change no bit") {
    using B = test::FirstBackend;
    B b{};
    AnyFfn<f16> plain{
        .hidden = 19, .intermediate = 35, .bias = true, .activation = {test::Curve::gelu}};
    auto packed = plain;
    packed.packing = expert::Packing::derived_panels;
    testing::check_expert(b, packed);
    CHECK(packed.layout(b).id() == (HasWorkers<B> ? LayoutId::panels_16 : LayoutId::row_major));
    CHECK(packed.layout(b).primary_elements() == plain.layout(b).elements());
    CHECK(test::run_group(b, packed) == test::run_group(b, plain));
    expert::Ffn<float, activation::Gelu> const one_operation{
        .hidden = 3, .intermediate = 5, .packing = expert::Packing::derived_panels};
    CHECK(one_operation.layout(CpuBackend{}).id() == LayoutId::row_major);
    expert::Ffn<double, activation::Gelu> const without_panels{
        .hidden = 3, .intermediate = 5, .packing = expert::Packing::derived_panels};
    CHECK(without_panels.layout(CpuBackend{}).id() == LayoutId::row_major);
}

TEST_CASE("expert/ffn: the block holds up, down and, with bias, their biases") {
    CpuBackend const b{};
    auto const layout =
        expert::Ffn<float, activation::Relu>{.hidden = 3, .intermediate = 5, .bias = true}.layout(
            b);
    REQUIRE(layout.size() == 4);
    CHECK(layout.slice("up_proj").rows == 5);
    CHECK(layout.slice("up_proj").cols == 3);
    CHECK(layout.slice("down_proj").offset == 15);
    CHECK(layout.slice("up_bias").offset == 30);
    CHECK(layout.slice("down_bias").offset == 35);
    CHECK(layout.elements() == 38);
    CHECK(expert::Ffn<float, activation::Relu>{3, 5}.layout(b).elements() == 30);
    CHECK(expert::Ffn<float, activation::Relu>{3, 5}.flops_per_row() == 60);
}

TEST_CASE("expert/ffn: a size below one is named") {
    using Relu = expert::Ffn<float, activation::Relu>;
    CHECK_THROWS_WITH_AS((Relu{0, 5}.validate()), "expert::Ffn: hidden is 0, must be at least 1",
                         precondition_error);
    CHECK_THROWS_WITH_AS((Relu{5, -3}.validate()),
                         "expert::Ffn: intermediate is -3, must be at least 1", precondition_error);
    Relu{1, 1}.validate();
}

struct Steps {
    SEMOE_HD float operator()(float x) const { return x > 0 ? 1.0f : 0.0f; }
};
TEST_CASE("expert/ffn: an activation without derivative makes an expert that only infers") {
    using Infers = expert::Ffn<float, Steps>;
    static_assert(Expert<Infers, CpuBackend>);
    static_assert(!DifferentiableExpert<Infers, CpuBackend>);
    static_assert(RecomputableExpert<expert::Ffn<bf16, activation::Silu>, CpuBackend>);
    CpuBackend b{};
    testing::check_expert(b, Infers{4, 6, true});
}

} // namespace
