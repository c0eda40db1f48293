#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/identity.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>
#include <type_traits>

namespace {

using namespace semoe;
using Relu = expert::Ffn<double, ops::activation::Relu>;

struct CoarseSteps {
    SEMOE_HD float operator()(float x) const { return x > 0 ? 1.0f : 0.0f; }
};

TEST_CASE_TEMPLATE("expert/with_shared: it is the routed expert, with a shared one beside", B,
                   SEMOE_TEST_BACKENDS) {
    expert::WithShared const described{expert::Identity<double>{.hidden = 5},
                                       Relu{.hidden = 5, .intermediate = 3}, true};
    static_assert(std::is_same_v<std::remove_const_t<decltype(described)>,
                                 expert::WithShared<expert::Identity<double>, Relu>>);
    CHECK(described.hidden == 5);
    described.validate();
    B b{};
    testing::check_expert(b, described);
    CHECK(described.layout(b).contains("scale"));
}

TEST_CASE("expert/with_shared: it can do what its routed expert can") {
    using B = CpuBackend;
    using Silu = expert::SwiGlu<bf16>;
    using Infers = expert::Ffn<bf16, CoarseSteps>;
    static_assert(HasSharedExpert<expert::WithShared<Silu, Silu>>);
    static_assert(!HasSharedExpert<Silu>);
    static_assert(RecomputableExpert<expert::WithShared<Silu, Infers>, B>);
    static_assert(HasDerivedSlices<expert::WithShared<Silu, Infers>, B>);
    static_assert(Expert<expert::WithShared<Infers, Silu>, B>);
    static_assert(!DifferentiableExpert<expert::WithShared<Infers, Silu>, B>);
    using Plain = expert::Identity<bf16>;
    static_assert(!HasDerivedSlices<expert::WithShared<Plain, Silu>, B>);

    expert::WithShared const two{Silu{4, 6}, Infers{4, 2}};
    CHECK(!two.sigmoid_gate);
    CHECK(two.saved_columns() == 12);
    CHECK(two.scratch_columns() == 6);
    CHECK(two.backward_scratch_columns() == 18);
}

TEST_CASE("expert/with_shared: widths that differ are named, and so is what either refuses") {
    expert::WithShared const uneven{Relu{4, 6}, Relu{5, 6}};
    CHECK_THROWS_WITH_AS(uneven.validate(),
                         "expert::WithShared: hidden is 4, the routed 4, the shared 5; they must "
                         "be equal",
                         precondition_error);
    auto other = expert::WithShared{Relu{4, 6}, Relu{4, 6}};
    other.hidden = 8;
    CHECK_THROWS_WITH_AS(other.validate(), doctest::Contains("hidden is 8, the routed 4"),
                         precondition_error);
    expert::WithShared const empty{Relu{4, 6}, Relu{4, 0}};
    CHECK_THROWS_WITH_AS(empty.validate(), doctest::Contains("intermediate is 0"),
                         precondition_error);
}

} // namespace
