#include "semoe/routing/check_choices.hpp"

#include "choices.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <limits>

using namespace semoe;

TEST_CASE_TEMPLATE("routing/check_choices: names the first token that no gate could have routed so",
                   B, SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 150, K = 3, E = 6;
    auto const first_bad = [&](std::vector<expert_id> const& host, std::vector<float> host_weights,
                               std::vector<std::uint8_t> const& mask = {},
                               Masked masked = Masked::anything) {
        index_t const tokens = index_t(host.size()) / K;
        host_weights.resize(host.size(), 0.5f);
        auto const ids = test::to_backend(b, host);
        auto const weights = test::to_backend(b, host_weights);
        auto const status = test::to_backend(b, std::vector<index_t>{12345});
        Buffer<std::byte, B> scratch(b, check_choices_scratch_bytes(T));
        auto const shown = test::to_backend(b, mask);
        MatrixView<expert_id const, space_of<B>> const chosen = ids.matrix(tokens, K);
        MatrixView<float const, space_of<B>> const by = weights.matrix(tokens, K);
        if (mask.empty())
            check_choices(b, chosen, by, E, status.view(), scratch.view());
        else
            check_choices(b, chosen, by, E, status.view(), scratch.view(), shown.view(), masked);
        return test::to_host(b, status)[0];
    };
    auto const good = test::random_choices(2, T, K, E, 0.3);
    CHECK(first_bad(good, {}) == -1);
    CHECK(first_bad({}, {}) == -1);
    CHECK(first_bad({-1, -1, -1}, {}) == -1);
    for (std::size_t const at : {0u, 70u, 149u}) {
        auto bad = good;
        bad[at * 3 + 1] = 6;
        CHECK(first_bad(bad, {}) == 2 * index_t(at));
        bad[at * 3 + 1] = -2;
        CHECK(first_bad(bad, {}) == 2 * index_t(at));
        bad[at * 3] = bad[at * 3 + 2] = 4;
        bad[at * 3 + 1] = -1;
        CHECK(first_bad(bad, {}) == 2 * index_t(at));
        std::vector<std::uint8_t> mask(T, 1);
        mask[at] = 0; // padding may hold anything
        CHECK(first_bad(bad, {}, mask) == -1);
        CHECK(first_bad(bad, {}, mask, Masked::nobody) == 2 * index_t(at));
        auto nobody = good;
        for (std::size_t k = 0; k < 3; ++k) nobody[at * 3 + k] = -1;
        CHECK(first_bad(nobody, {}, mask, Masked::nobody) == -1);

        bad[at * 3] = 3;
        float const infinity = std::numeric_limits<float>::infinity();
        for (float const wrong : {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity}) {
            std::vector<float> weights(good.size(), 0.5f);
            weights[at * 3 + 1] = wrong; // of no choice
            CHECK(first_bad(bad, weights) == -1);
            weights[at * 3 + 2] = wrong;
            CHECK(first_bad(bad, weights) == 2 * index_t(at) + 1);
            CHECK(first_bad(bad, weights, mask) == -1);
        }
    }
}
