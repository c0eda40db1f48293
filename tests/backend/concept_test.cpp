#include "semoe/testing/check_backend.hpp"

#include "support/backends.hpp"

#include <doctest/doctest.h>

using namespace semoe;

TEST_CASE_TEMPLATE("backend/concept: every backend keeps the promises of its concept", B,
                   SEMOE_TEST_BACKENDS) {
    CHECK_NOTHROW(testing::check_backend(B{}));
}
