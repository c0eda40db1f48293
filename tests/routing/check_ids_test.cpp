#include "semoe/routing/check_ids.hpp"

#include "choices.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE_TEMPLATE("routing/check_ids: names the first token that no gate could have routed so", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 150, K = 3, E = 6;
    auto const first_bad = [&](std::vector<expert_id> const& host,
                               std::vector<std::uint8_t> const& mask = {}) {
        auto const ids = test::to_backend(b, host);
        auto const status = test::to_backend(b, std::vector<index_t>{12345});
        Buffer<std::byte, B> scratch(b, check_ids_scratch_bytes(T));
        index_t const tokens = index_t(host.size()) / K;
        auto const shown = test::to_backend(b, mask);
        if (mask.empty())
            check_ids<B>(b, ids.matrix(tokens, K), E, status.view(), scratch.view());
        else
            check_ids<B>(b, ids.matrix(tokens, K), E, status.view(), scratch.view(), shown.view());
        return test::to_host(b, status)[0];
    };
    auto const good = test::random_choices(2, T, K, E, 0.3);
    CHECK(first_bad(good) == -1);
    CHECK(first_bad({}) == -1);
    CHECK(first_bad({-1, -1, -1}) == -1);
    for (std::size_t const at : {0u, 70u, 149u}) {
        auto bad = good;
        bad[at * 3 + 1] = 6;
        CHECK(first_bad(bad) == index_t(at));
        bad[at * 3 + 1] = -2;
        CHECK(first_bad(bad) == index_t(at));
        bad[at * 3] = bad[at * 3 + 2] = 4;
        bad[at * 3 + 1] = -1;
        CHECK(first_bad(bad) == index_t(at));
        std::vector<std::uint8_t> mask(T, 1);
        mask[at] = 0; // padding may hold anything
        CHECK(first_bad(bad, mask) == -1);
    }
}
