#include "semoe/core/layout.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>

using namespace semoe;

TEST_CASE("core/layout: slices follow one another in the order they were added") {
    BlockLayout layout;
    layout.add("gate_proj", 3, 5).add("down_proj", 5, 3).add("bias", 1, 7);
    CHECK(layout.id() == LayoutId::row_major);
    CHECK(layout.size() == 3);
    CHECK(layout.slice("gate_proj").offset == 0);
    CHECK(layout.slice("down_proj").offset == 15);
    CHECK(layout.slice("bias").offset == 30);
    CHECK(layout.slice("bias").rows == 1);
    CHECK(layout.slice("bias").cols == 7);
    CHECK(layout.elements() == 37);
    CHECK(layout.primary_elements() == 37);
    CHECK(layout.contains("bias"));
    CHECK(!layout.contains("up_proj"));
}

TEST_CASE("core/layout: derived slices start on a multiple of 64 and are no part of a gradient") {
    BlockLayout layout{LayoutId::panels_16};
    layout.add("w", 5, 7).add_derived("w", 5, 7, 112).add_derived("v", 1, 1, 16);
    CHECK(layout[1].derived);
    CHECK(!layout[0].derived);
    CHECK(layout[1].offset == 64);
    CHECK(layout[2].offset == 192);
    CHECK(layout.primary_elements() == 35);
    CHECK(layout.elements() == 208);
    // A name finds the primary slice first.
    CHECK(!layout.slice("w").derived);
}

TEST_CASE("core/layout: a block without slices is empty") {
    BlockLayout const layout;
    CHECK(layout.elements() == 0);
    CHECK(layout.primary_elements() == 0);
    CHECK(layout.begin() == layout.end());
}

TEST_CASE("core/layout: sizes past 2^31 elements are ordinary") {
    BlockLayout layout;
    layout.add("a", index_t(1) << 20, index_t(1) << 20).add("b", 1, 1);
    CHECK(layout.slice("b").offset == index_t(1) << 40);
}

TEST_CASE("core/layout: misuse is refused by name") {
    BlockLayout layout;
    layout.add("w", 2, 2).add_derived("w16", 2, 2, 16);
    CHECK_THROWS_WITH_AS(layout.add("late", 1, 1),
                         "BlockLayout: primary slices go before derived ones", precondition_error);
    CHECK_THROWS_WITH_AS(layout.slice("up_proj"), "BlockLayout: no slice named up_proj",
                         precondition_error);
    for (auto const& [rows, cols] :
         {std::pair{-1LL, 2LL}, {1LL << 40, 1LL << 40}, {1LL << 62, 1LL}})
        CHECK_THROWS_WITH_AS(BlockLayout{}.add("w", rows, cols),
                             doctest::Contains("is negative or too large"), precondition_error);
    BlockLayout full;
    for (int i = 0; i < BlockLayout::max_slices; ++i) full.add("x", 1, 1);
    CHECK_THROWS_WITH_AS(full.add("x", 1, 1), "BlockLayout: too many slices", precondition_error);
}

TEST_CASE("core/layout: contents tell names, shapes and elements apart") {
    auto const of = [](char const* name, index_t rows, index_t cols, std::string const& elements) {
        return BlockLayout{}.add(name, rows, cols).contents(elements);
    };
    auto const one = of("w", 2, 6, "f4");
    CHECK(one == of("w", 2, 6, "f4"));
    for (auto const other : {of("w", 3, 4, "f4"), of("v", 2, 6, "f4"), of("w", 2, 6, "bf16"),
                             BlockLayout{}.add("w", 1, 6).add("w", 1, 6).contents("f4")})
        CHECK(other != one);
    CHECK(element_name<float>() != element_name<std::int32_t>());
    CHECK(element_name<f16>() != element_name<bf16>());
}

TEST_CASE("core/layout: every layout has a name") {
    CHECK(std::string(to_string(LayoutId::row_major)) == "row_major");
    CHECK(std::string(to_string(LayoutId::panels_16)) == "panels_16");
    CHECK(std::string(to_string(LayoutId(77))) == "unknown");
}
