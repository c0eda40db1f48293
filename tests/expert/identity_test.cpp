#include "semoe/expert/identity.hpp"
#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

namespace {

using namespace semoe;

TEST_CASE_TEMPLATE("expert/identity: every element type keeps the contract", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(RecomputableExpert<expert::Identity<double>, B>);
    B b{};
    testing::check_expert(b, expert::Identity<double>{.hidden = 5});
    testing::check_expert(b, expert::Identity<float>{.hidden = 1});
    testing::check_expert(b, expert::Identity<f16>{.hidden = 17});
    testing::check_expert(b, expert::Identity<bf16>{.hidden = 3});
}

TEST_CASE_TEMPLATE("expert/identity: rows are multiplied by the scale of their expert", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    auto const scales = test::to_backend(b, std::vector<float>{1, 10, 100, -1, -2, -3});
    auto const in = test::to_backend(b, std::vector<float>{1, 2, 3, 4, 5, 6});
    Buffer<float, B> const out(b, 6);
    ops::Group<std::byte const> group;
    group.add(1, 1, reinterpret_cast<std::byte const*>(scales.data()));
    group.add(0, 1, reinterpret_cast<std::byte const*>(scales.data() + 3));
    expert::Identity<float>{3}.forward_grouped(
        b, group, ExpertRows<float, space_of<B>>{in.matrix(2, 3), out.matrix(2, 3), {}, {}});
    CHECK(test::to_host(b, out) == std::vector<float>{-1, -4, -9, 4, 50, 600});
}

TEST_CASE("expert/identity: a size below one is named") {
    CHECK_THROWS_WITH_AS((expert::Identity<float>{0}.validate()),
                         "expert::Identity: hidden is 0, must be at least 1", precondition_error);
}

} // namespace
