#include "semoe/ops/histogram.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class Id, class B>
std::vector<index_t> histogram(B& b, std::vector<Id> const& values, index_t bins) {
    auto const ids = to_backend(b, values);
    Buffer<index_t, B> counts(b, bins), scratch(b, ops::histogram_scratch(ids.size(), bins));
    VectorView<Id const, space_of<B>> const view = ids.view();
    ops::histogram(b, view, counts.view(), scratch.view());
    return to_host(b, counts);
}

} // namespace

TEST_CASE_TEMPLATE("ops/histogram: counts are exact for any number of ids and bins", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (index_t bins : {0, 1, 3, 64, 2000})
        for (index_t n : {0, 1, 1023, 1024, 1025, 5003}) {
            std::vector<expert_id> ids;
            std::vector<index_t> expected(std::size_t(bins), 0);
            for (index_t i = 0; i < n; ++i) {
                auto const id = expert_id(i * 7919 % (bins + 3)) - 1; // -1 and above the last, too
                ids.push_back(id);
                if (id >= 0 && id < bins) ++expected[std::size_t(id)];
            }
            CHECK(histogram(b, ids, bins) == expected);
            CHECK(histogram(b, std::vector<index_t>(ids.begin(), ids.end()), bins) == expected);
        }
}

TEST_CASE_TEMPLATE("ops/histogram: all ids in one bin", B, SEMOE_TEST_BACKENDS) {
    B b;
    auto const counts = histogram(b, std::vector<expert_id>(9000, 2), 4);
    CHECK(counts == std::vector<index_t>{0, 0, 9000, 0});
}

TEST_CASE("ops/histogram: scratch grows with ids and bins, not with their product") {
    for (index_t bins : {1, 100, 4096, 100000})
        for (index_t n : {0, 1, 100000, 10000000})
            CHECK(ops::histogram_scratch(n, bins) <= n + bins);
}

TEST_CASE_TEMPLATE("ops/histogram: too little scratch is refused with both sizes", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Buffer<expert_id, B> ids(b, 2000);
    Buffer<index_t, B> counts(b, 8), scratch(b, 15);
    CHECK_THROWS_WITH_AS(ops::histogram(b, ids.view(), counts.view(), scratch.view()),
                         "histogram: scratch holds 15 elements, 16 needed", precondition_error);
}
