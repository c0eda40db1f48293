#include "semoe/routing/drop.hpp"

#include "choices.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <limits>

using namespace semoe;
using test::random_choices;
using test::to_backend;
using test::to_host;
using Ids = std::vector<expert_id>;
using Counts = std::vector<index_t>;

namespace {

Counts count(Ids const& ids, index_t E) {
    Counts n(std::size_t(E), 0);
    for (expert_id e : ids)
        if (e >= 0) ++n[std::size_t(e)];
    return n;
}
index_t sum(Counts const& n) {
    index_t s = 0;
    for (index_t x : n) s += x;
    return s;
}

/// Both rules, on one process that plays every rank: rows are given to ranks at `cuts`.
template <class B>
struct Ranks {
    B b;
    index_t K, E;
    std::vector<index_t> cuts; // first rows, and T

    Ranks(index_t top_k, index_t num_experts, std::vector<index_t> first_rows)
      : K(top_k)
      , E(num_experts)
      , cuts(std::move(first_rows)) {}

    Ids by_position(Capacity const& capacity, Ids const& ids) {
        Ids kept;
        Buffer<index_t, B> counts(b, index_t(cuts.size() - 1) * E);
        for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
            auto const part = rows(ids, r);
            auto scratch = memory(drop_by_position_scratch_bytes(size(r), K, E));
            count_choices<B>(b, part.matrix(size(r), K), counts.view().part(index_t(r) * E, E),
                             scratch.view());
        }
        auto const all = counts.matrix(index_t(cuts.size() - 1), E);
        for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
            auto part = rows(ids, r);
            auto scratch = memory(drop_by_position_scratch_bytes(size(r), K, E));
            drop_by_position<B>(b, capacity, part.matrix(size(r), K), all, index_t(r),
                                part.matrix(size(r), K), scratch.view()); // in place
            append(kept, to_host(b, part));
        }
        return kept;
    }
    template <class Real>
    Ids by_probability(Capacity const& capacity, Ids const& ids, std::vector<Real> const& weights) {
        Ids kept;
        auto const all_ids = to_backend(b, ids);
        auto const all_weights = to_backend(b, weights);
        index_t const T = cuts.back();
        auto scratch = memory(drop_by_probability_scratch_bytes<B, Real>(T, K, E));
        for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
            Buffer<expert_id, B> part(b, size(r) * K);
            drop_by_probability<B>(b, capacity, E, all_ids.matrix(T, K), all_weights.matrix(T, K),
                                   cuts[r], part.matrix(size(r), K), scratch.view());
            append(kept, to_host(b, part));
        }
        return kept;
    }

private:
    index_t size(std::size_t r) const { return cuts[r + 1] - cuts[r]; }
    Buffer<expert_id, B> rows(Ids const& ids, std::size_t r) {
        return to_backend(b, Ids(ids.begin() + cuts[r] * K, ids.begin() + cuts[r + 1] * K));
    }
    Buffer<std::byte, B> memory(index_t bytes) { return {b, bytes}; }
    static void append(Ids& to, Ids const& from) { to.insert(to.end(), from.begin(), from.end()); }
};

/// The rules, as they are said.
Ids first_come(Ids ids, index_t rows, index_t E) {
    Counts taken(std::size_t(E), 0);
    for (expert_id& e : ids)
        if (e >= 0 && taken[std::size_t(e)]++ >= rows) e = -1;
    return ids;
}
template <class Real>
Ids heaviest(Ids ids, std::vector<Real> const& weights, index_t rows, index_t E) {
    for (expert_id e = 0; e < E; ++e) {
        std::vector<std::size_t> mine;
        for (std::size_t i = 0; i < ids.size(); ++i)
            if (ids[i] == e) mine.push_back(i);
        std::stable_sort(mine.begin(), mine.end(),
                         [&](std::size_t i, std::size_t j) { return weights[i] > weights[j]; });
        for (std::size_t i = std::size_t(rows); i < mine.size(); ++i) ids[mine[i]] = -1;
    }
    return ids;
}

} // namespace

TEST_CASE_TEMPLATE("routing/drop: capacity is shared out in order of rank, as in the reference", B,
                   SEMOE_TEST_BACKENDS) {
    // limit_by_capacity of Paddle's documentation: counts [1,2,2 | 8,3,6], capacity 5 each.
    Counts const counts[2] = {{1, 2, 2}, {8, 3, 6}};
    Ids ids;
    for (Counts const& rank : counts)
        for (expert_id e = 0; e < 3; ++e)
            ids.insert(ids.end(), std::size_t(rank[std::size_t(e)]), e);
    Ranks<B> ranks(1, 3, {0, 5, 22});
    Ids const kept = ranks.by_position({.factor = 0.01, .minimum = 5}, ids);
    CHECK(count(Ids(kept.begin(), kept.begin() + 5), 3) == Counts{1, 2, 2});
    CHECK(count(Ids(kept.begin() + 5, kept.end()), 3) == Counts{4, 3, 3});
}

TEST_CASE_TEMPLATE("routing/drop: what comes late is pruned, as in the reference", B,
                   SEMOE_TEST_BACKENDS) {
    // prune_gate_by_capacity of Paddle's documentation; capacity 3.
    Ranks<B> ranks(1, 4, {0, 8});
    CHECK(ranks.by_position({.factor = 0.01, .minimum = 3}, {1, 3, 3, 3, 3, 2, 1, 1}) ==
          Ids{1, 3, 3, 3, -1, 2, 1, 1});
}

TEST_CASE_TEMPLATE("routing/drop: both rules agree with their definition for any ranks", B,
                   SEMOE_TEST_BACKENDS) {
    struct Shape {
        index_t T, K, E;
        double drop, skew;
    };
    for (Shape const s : {Shape{61, 2, 5, 0, .05},
                          {61, 2, 5, .2, .2},
                          {200, 3, 7, .05, .1},
                          {1, 1, 1, 0, 0},
                          {40, 6, 6, 0, 0},
                          {0, 2, 3, 0, 0},
                          {150, 1, 2, 1, 0}})
        for (double factor : {0.3, 1.0, 1.25, 100.0}) {
            CAPTURE(s.T);
            CAPTURE(factor);
            Ids const ids = random_choices(3, s.T, s.K, s.E, s.drop, s.skew);
            Capacity const capacity{.factor = factor, .minimum = 1};
            // Padding takes no part in the share: T counts the choices that are there.
            index_t const rows = capacity_of(capacity, sum(count(ids, s.E)), s.E);
            // Few different weights, so that ties are many.
            auto weights = test::random_values<float>(5, s.T * s.K);
            for (float& w : weights) w = float(int(w * 2)) / 2;
            for (auto const& cuts :
                 {std::vector<index_t>{0, s.T}, std::vector<index_t>{0, s.T / 3, s.T / 3, s.T}}) {
                Ranks<B> ranks(s.K, s.E, cuts);
                CHECK(ranks.by_position(capacity, ids) == first_come(ids, rows, s.E));
                CHECK(ranks.by_probability(capacity, ids, weights) ==
                      heaviest(ids, weights, rows, s.E));
            }
        }
}

TEST_CASE_TEMPLATE("routing/drop: a weight that is not a number goes first", B,
                   SEMOE_TEST_BACKENDS) {
    double const nan = std::numeric_limits<double>::quiet_NaN();
    Ranks<B> ranks(1, 1, {0, 5});
    std::vector<double> const weights{nan, -1e300, nan, 2, 1};
    CHECK(ranks.by_probability({.factor = 0.6}, Ids(5, 0), weights) == Ids{-1, 0, -1, 0, 0});
    CHECK(ranks.by_probability({.factor = 0.8}, Ids(5, 0), weights) == Ids{0, 0, -1, 0, 0});
}

TEST_CASE_TEMPLATE("routing/drop: shapes that do not fit are named", B, SEMOE_TEST_BACKENDS) {
    B b;
    auto ids = to_backend(b, Ids{0, 1, 1, 0});
    Buffer<index_t, B> counts(b, 2);
    Buffer<std::byte, B> scratch(b, drop_by_position_scratch_bytes(2, 2, 2));
    auto const m = ids.matrix(2, 2);
    CHECK_THROWS_WITH_AS(
        drop_by_position<B>(b, {.factor = 1}, m, counts.matrix(1, 2), 1, m, scratch.view()),
        "drop_by_position: ids are [2,2], kept [2,2], rank 1 of 1", precondition_error);
    CHECK_THROWS_AS(drop_by_position<B>(b, {.factor = 1}, m, counts.matrix(1, 2), 0, m,
                                        scratch.view().part(0, 64)),
                    precondition_error);
    Buffer<float, B> weights(b, 4);
    CHECK_THROWS_WITH_AS(
        drop_by_probability<B>(b, {.factor = 1}, 2, m, weights.matrix(2, 2), 1, m, scratch.view()),
        "drop_by_probability: ids are [2,2], weights [2,2], kept [2,2] from row 1",
        precondition_error);
}
