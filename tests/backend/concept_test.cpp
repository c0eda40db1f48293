#include "semoe/testing/check_backend.hpp"

#include "support/backends.hpp"
#if defined(__CUDACC__)
#include "semoe/semoe_cuda.cuh" // the umbrella, compiled once
#endif

#include <cstddef>
#include <doctest/doctest.h>
#include <string>

using namespace semoe;

TEST_CASE_TEMPLATE("backend/concept: every backend keeps the promises of its concept", B,
                   SEMOE_TEST_BACKENDS) {
    CHECK_NOTHROW(testing::check_backend(B{}));
}

TEST_CASE_TEMPLATE("backend/concept: a device names the call that failed, and works on", B,
                   SEMOE_TEST_BACKENDS) {
    if constexpr (!host_reachable<B>) {
        B b{};
        std::string text;
        try {
            b.allocate(std::size_t(1) << 50);
        } catch (backend_error const& error) {
            text = error.what();
        }
        CHECK(text.find("Async of 1125899906842624 bytes: out of memory") != std::string::npos);
        CHECK_THROWS_AS(B{.device = 4711}, backend_error);
        CHECK_NOTHROW(testing::check_backend(b));
    }
}
