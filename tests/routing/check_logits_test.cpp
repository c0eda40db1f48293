#include "semoe/routing/check_logits.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <limits>

using namespace semoe;
using test::to_backend;
using test::to_host;

namespace {

template <class B, class Real>
index_t first_bad(B& b, std::vector<Real> const& logits, index_t T, index_t E,
                  std::vector<std::uint8_t> const& mask = {}) {
    auto const z = to_backend(b, logits);
    auto const m = to_backend(b, mask);
    auto const status = to_backend(b, std::vector<index_t>{12345});
    Buffer<std::byte, B> scratch(b, check_logits_scratch_bytes(T));
    check_logits(b, z.matrix(T, E), {m.data(), m.size()}, status.view(), scratch.view());
    return to_host(b, status)[0];
}

} // namespace

TEST_CASE_TEMPLATE("routing/check_logits: names the first token that is not finite", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 201, E = 5;
    for (double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
          -std::numeric_limits<double>::infinity()})
        for (std::size_t const at : {0u, 63u, 64u, 150u, 200u}) {
            auto logits = test::random_values<float>(1, T * E, 1e30);
            CHECK(first_bad(b, logits, T, E) == -1);
            logits[at * 5 + 4] = float(bad);
            logits[std::min(at + 1, std::size_t(200)) * 5] = float(bad);
            CHECK(first_bad(b, logits, T, E) == index_t(at));
            auto doubles = test::random_values<double>(1, T * E, 1e300);
            doubles[at * 5 + at % 5] = bad;
            CHECK(first_bad(b, doubles, T, E) == index_t(at));
        }
}

TEST_CASE_TEMPLATE("routing/check_logits: masked tokens may hold anything, no tokens are fine", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    float const nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(first_bad(b, std::vector<float>{nan, nan, 1, 2, nan, 0}, 3, 2, {0, 1, 0}) == -1);
    CHECK(first_bad(b, std::vector<float>{nan, nan, 1, 2, nan, 0}, 3, 2, {0, 1, 1}) == 2);
    CHECK(first_bad(b, std::vector<float>{}, 0, 4) == -1);
}
