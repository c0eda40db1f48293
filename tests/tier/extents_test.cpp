#include "semoe/tier/detail/extents.hpp"

#include <doctest/doctest.h>

#include <random>

using namespace semoe;
using tier::detail::Extent, tier::detail::Extents;

TEST_CASE("tier/extents: pages given back are taken again, the best fit first") {
    Extents space(8192);
    Extent const a = space.take(1), b = space.take(8192), c = space.take(4097),
                 d = space.take(4096);
    CHECK(a == Extent{8192, 4096});
    CHECK(b == Extent{12'288, 8192});
    CHECK(c == Extent{20'480, 8192});
    CHECK(space.take(0) == Extent{});
    space.give(a);
    space.give(c);
    CHECK(space.unused().size() == 2);
    CHECK(space.take(4096) == a);
    CHECK(space.take(4096) == Extent{20'480, 4096});
    CHECK(space.take(8192) == Extent{32'768, 8192}); // behind d
    CHECK(space.end() == 40'960);
    space.give({20'480, 4096});
    space.give({32'768, 8192});
    CHECK(space.end() == 32'768);
    space.give(b); // touches what lies behind it
    CHECK(space.unused() == std::vector<Extent>{{12'288, 16'384}});
    space.give(a);
    space.give(d);
    CHECK(space.unused().empty());
    CHECK(space.end() == 8192);
}

TEST_CASE("tier/extents: whatever is taken and given, nothing overlaps and nothing is lost") {
    std::mt19937 random(7);
    Extents space(8192);
    std::vector<Extent> taken;
    for (int step = 0; step < 2000; ++step) {
        if (taken.empty() || random() % 5 < 3) {
            Extent const got = space.take(index_t(1 + random() % 20'000));
            for (Extent const& other : taken)
                REQUIRE((got.offset + got.bytes <= other.offset ||
                         other.offset + other.bytes <= got.offset));
            taken.push_back(got);
        } else {
            std::swap(taken[random() % taken.size()], taken.back());
            space.give(taken.back());
            taken.pop_back();
        }
        index_t bytes = 8192;
        for (Extent const& extent : taken) bytes += extent.bytes;
        for (Extent const& extent : space.unused()) bytes += extent.bytes;
        REQUIRE(bytes == space.end());
    }
}

TEST_CASE("tier/extents: what is used from the start leaves gaps") {
    Extents space(8192);
    space.use({12'288, 4096});
    space.use({16'384, 0});
    space.use({16'384, 4096});
    CHECK(space.unused() == std::vector<Extent>{{8192, 4096}});
    CHECK(space.end() == 20'480);
}
