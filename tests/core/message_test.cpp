#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/space.hpp"
#include "semoe/core/view.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <string_view>

using semoe::message;

TEST_CASE("core/message: each {} is the next part: numbers, texts, shapes") {
    CHECK(message("plain") == "plain");
    CHECK(message("{} of {}", 3, std::size_t(7)) == "3 of 7");
    CHECK(message("{}{}", "a", std::string("b")) == "ab");
    CHECK(message("<{}>", std::string_view("view")) == "<view>");
    CHECK(message("{} and {}", 0.5, 1e-9f) == "0.5 and 1e-09");
    CHECK(message("{}", std::numeric_limits<semoe::index_t>::min()) == "-9223372036854775808");
    float values[6] = {};
    semoe::MatrixView<float, semoe::HostSpace> const m{values, 2, 3};
    CHECK(message("x is {}, wanted [{},{}]", m, 4, 5) == "x is [2,3], wanted [4,5]");
}
TEST_CASE("core/message: braces in a text are kept, parts without a place are appended") {
    CHECK(message("{}!", "{}") == "{}!");
    CHECK(message("{} {", 1) == "1 {");
    CHECK(message("none", 1) == "none1");
    CHECK(message("{} {}", 1) == "1 {}");
}
TEST_CASE("core/error: expects makes its text when it is needed, and only then") {
    int made = 0;
    auto const text = [&] {
        ++made;
        return std::string("made");
    };
    semoe::expects(true, text);
    semoe::expects(true, "{} is wrong", 1);
    CHECK(made == 0);
    CHECK_THROWS_WITH_AS(semoe::expects(false, text), "made", semoe::precondition_error);
    CHECK_THROWS_WITH_AS(semoe::expects(false, "plain"), "plain", semoe::precondition_error);
    CHECK_THROWS_WITH_AS(semoe::expects(false, "{} of {}", 1, "two"), "1 of two",
                         semoe::precondition_error);
}
