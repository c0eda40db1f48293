#include "semoe/routing/placement.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace {
std::vector<expert_id> list(std::span<expert_id const> experts) {
    return {experts.begin(), experts.end()};
}
} // namespace

TEST_CASE("routing/placement: contiguous gives the first E mod P ranks one more expert") {
    Placement const p = Placement::contiguous(7, 3);
    CHECK(list(p.experts_of(0)) == std::vector<expert_id>{0, 1, 2});
    CHECK(list(p.experts_of(1)) == std::vector<expert_id>{3, 4});
    CHECK(list(p.experts_of(2)) == std::vector<expert_id>{5, 6});
    CHECK(p.in_rank_order());
    CHECK(p.num_experts() == 7);
    CHECK(p.num_ranks() == 3);
}

TEST_CASE("routing/placement: every expert has one owner and one local number, for any E and P") {
    for (index_t experts : {1, 2, 3, 7, 8, 64})
        for (int ranks : {1, 2, 3, 4, 8}) {
            CAPTURE(experts);
            CAPTURE(ranks);
            Placement const p = Placement::contiguous(experts, ranks);
            index_t seen = 0;
            for (int r = 0; r < ranks; ++r) {
                index_t const share = p.num_local_experts(r);
                CHECK(share >= experts / ranks);
                CHECK(share <= experts / ranks + 1);
                for (index_t l = 0; l < share; ++l, ++seen) {
                    expert_id const e = p.experts_of(r)[std::size_t(l)];
                    CHECK(e == expert_id(seen));
                    CHECK(p.owner(e) == r);
                    CHECK(p.local_index(e) == l);
                }
            }
            CHECK(seen == experts);
        }
}

TEST_CASE("routing/placement: a table puts experts anywhere, in rising order on each rank") {
    std::vector<int> const owners = {2, 0, 2, 0, 2};
    Placement const p = Placement::table(owners, 4);
    CHECK(list(p.experts_of(0)) == std::vector<expert_id>{1, 3});
    CHECK(p.num_local_experts(1) == 0);
    CHECK(list(p.experts_of(2)) == std::vector<expert_id>{0, 2, 4});
    CHECK(p.num_local_experts(3) == 0);
    CHECK(list(p.by_rank()) == std::vector<expert_id>{1, 3, 0, 2, 4});
    CHECK(p.owner(4) == 2);
    CHECK(p.local_index(4) == 2);
    CHECK_FALSE(p.in_rank_order());
    CHECK(Placement::table(std::vector<int>{0, 0, 3}, 4).in_rank_order());
}

TEST_CASE("routing/placement: names what is out of range") {
    CHECK_THROWS_WITH_AS(Placement::contiguous(0, 2),
                         "Placement: 0 experts on 2 ranks, at least one of each needed",
                         precondition_error);
    CHECK_THROWS_WITH_AS(Placement::contiguous(2, 0),
                         "Placement: 2 experts on 0 ranks, at least one of each needed",
                         precondition_error);
    CHECK_THROWS_WITH_AS(Placement::table(std::vector<int>{0, 2}, 2),
                         "Placement: expert 1 is given to rank 2 of 2", precondition_error);
}
