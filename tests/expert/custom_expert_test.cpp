#include "semoe/testing/check_expert.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

// What a user writes: y = x weight^T, with gradients.
#include <semoe/expert/concept.hpp>
#include <semoe/ops/grouped_gemm.hpp>

namespace acme {

template <semoe::Element T>
struct Linear {
    using value_type = T;
    semoe::index_t hidden;

    auto layout(auto const&) const { return semoe::BlockLayout{}.add("weight", hidden, hidden); }
    semoe::ops::BlockSlice weight() const { return {0, hidden, hidden}; }
    semoe::index_t saved_columns() const { return 0; }
    semoe::index_t scratch_columns() const { return 0; }
    semoe::index_t backward_scratch_columns() const { return 0; }

    void forward_grouped(auto& b, auto const& weights, auto const& rows) const {
        semoe::ops::grouped_gemm_nt(b, weights, rows.in, weight(), rows.out);
    }
    void backward_grouped(auto& b, auto const& weights, auto const& gradients,
                          semoe::ops::GroupMask accumulate, auto const& rows) const {
        semoe::ops::grouped_gemm_tn(b, gradients, accumulate, rows.d_out, rows.in, weight());
        semoe::ops::grouped_gemm_nn(b, weights, rows.d_out, weight(), rows.d_in);
    }
};

} // namespace acme

TEST_CASE_TEMPLATE("expert/custom: an expert of a foreign namespace keeps the contract", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(semoe::DifferentiableExpert<acme::Linear<double>, B>);
    B b{};
    semoe::testing::check_expert(b, acme::Linear<double>{7});
    semoe::testing::check_expert(b, acme::Linear<float>{4});
}
