#include "semoe/ops/group.hpp"

#include <doctest/doctest.h>
#include <type_traits>

using namespace semoe;

TEST_CASE("ops/group: the group's rows are numbered expert by expert, empty ones passed over") {
    ops::Group<std::byte const> g;
    CHECK(g.total_rows() == 0);
    g.add(10, 2, nullptr);
    g.add(0, 0, nullptr);
    g.add(4, 3, nullptr);
    CHECK(g.size == 3);
    CHECK(g.total_rows() == 5);
    struct Expected {
        int expert;
        index_t row;
    };
    Expected const expected[] = {{0, 10}, {0, 11}, {2, 4}, {2, 5}, {2, 6}};
    for (index_t n = 0; n < 5; ++n) {
        CHECK(g.place(n).expert == expected[n].expert);
        CHECK(g.place(n).row == expected[n].row);
    }
}

TEST_CASE("ops/group: more experts than it has room for are refused") {
    ops::Group<std::byte const> g;
    for (int i = 0; i < g.capacity; ++i) g.add(i, 1, nullptr);
    CHECK_THROWS_WITH_AS(g.add(32, 1, nullptr), "ops::Group: 32 experts are the most",
                         precondition_error);
    CHECK(g.total_rows() == 32);
}

TEST_CASE("ops/group: a group travels by value, with a bit a gradient for every expert") {
    static_assert(std::is_trivially_copyable_v<ops::Group<std::byte>>);
    static_assert(sizeof(ops::Group<std::byte>) <= 1024);
    static_assert(ops::Group<std::byte>::capacity <= int(8 * sizeof(ops::GroupMask)));
    CHECK(ops::BlockSlice{}.panels < 0);
}
