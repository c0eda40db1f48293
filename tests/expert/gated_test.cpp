#include "expert/reference_run.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>
#include <type_traits>

namespace {

using namespace semoe;
namespace activation = semoe::ops::activation;

template <class T>
using AnyGated = expert::Gated<T, test::Selected>;

TEST_CASE_TEMPLATE("expert/gated: every activation keeps the contract, with bias and without", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    for (test::Curve const curve : test::all_curves) {
        CAPTURE(int(curve));
        testing::check_expert(b, AnyGated<double>{5, 7, false, {curve}});
        testing::check_expert(b, AnyGated<double>{6, 3, true, {curve}});
    }
    testing::check_expert(b, AnyGated<double>{1, 1, true});
}

TEST_CASE("expert/gated: an expert of float keeps the contract") {
    test::FirstBackend b{};
    testing::check_expert(b, AnyGated<float>{5, 17, true, {test::Curve::softsign}});
    testing::check_expert(b, AnyGated<float>{16, 32, false, {test::Curve::silu}});
}

TEST_CASE("expert/gated: every element type agrees with a reference in double") {
    test::FirstBackend b{};
    test::check_curves<expert::Gated, double>(b);
    test::check_curves<expert::Gated, float>(b);
    test::check_curves<expert::Gated, f16>(b);
    test::check_curves<expert::Gated, bf16>(b);
}

TEST_CASE("expert/gated: derived panels change no bit") {
    test::FirstBackend b{};
    AnyGated<f16> plain{
        .hidden = 19, .intermediate = 35, .bias = true, .activation = {test::Curve::silu}};
    auto packed = plain;
    packed.packing = expert::Packing::derived_panels;
    testing::check_expert(b, packed);
    CHECK(packed.layout(b).id() ==
          (HasWorkers<test::FirstBackend> ? LayoutId::panels_16 : LayoutId::row_major));
    CHECK(packed.layout(b).primary_elements() == plain.layout(b).elements());
    CHECK(test::run_group(b, packed) == test::run_group(b, plain));
}

TEST_CASE("expert/gated: gate and up lie one after the other, as do their biases") {
    test::FirstBackend const b{};
    auto const layout =
        expert::SwiGlu<float>{.hidden = 3, .intermediate = 5, .bias = true}.layout(b);
    REQUIRE(layout.size() == 6);
    CHECK(layout.slice("gate_proj").rows == 5);
    CHECK(layout.slice("gate_proj").cols == 3);
    CHECK(layout.slice("up_proj").offset == layout.slice("gate_proj").offset + 15);
    CHECK(layout.slice("down_proj").rows == 3);
    CHECK(layout.slice("up_bias").offset == layout.slice("gate_bias").offset + 5);
    CHECK(layout.elements() == 45 + 13);
    CHECK(expert::SwiGlu<float>{3, 5}.layout(b).elements() == 45);
    CHECK(expert::SwiGlu<float>{3, 5}.flops_per_row() == 90);
    static_assert(std::is_same_v<expert::SwiGlu<bf16>, expert::Gated<bf16, activation::Silu>>);
    static_assert(std::is_same_v<expert::GeGlu<bf16>, expert::Gated<bf16, activation::Gelu>>);
}

TEST_CASE("expert/gated: a size below one is named") {
    CHECK_THROWS_WITH_AS((expert::GeGlu<float>{0, 5}.validate()),
                         "expert::Gated: hidden is 0, must be at least 1", precondition_error);
    CHECK_THROWS_WITH_AS((expert::GeGlu<float>{5, -3}.validate()),
                         "expert::Gated: intermediate is -3, must be at least 1",
                         precondition_error);
    expert::GeGlu<float>{1, 1}.validate();
}

} // namespace
