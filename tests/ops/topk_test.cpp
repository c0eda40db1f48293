#include "semoe/ops/topk.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

using namespace semoe;

namespace {

template <class Id>
void check(std::vector<float> const& values, index_t k) {
    std::vector<Id> order(values.size()), ids(std::size_t(k), Id(-7));
    std::vector<float> keys(std::size_t(k), -7);
    std::iota(order.begin(), order.end(), Id(0));
    std::sort(order.begin(), order.end(), [&](Id a, Id b) {
        float const x = values[std::size_t(a)], y = values[std::size_t(b)];
        if (std::isnan(x) || std::isnan(y)) {
            if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
            return a < b;
        }
        return x != y ? x > y : a < b;
    });
    order.resize(std::size_t(k));
    ops::select_topk(ops::RowKey<float>{values.data()}, index_t(values.size()), k, ids.data(),
                     keys.data());
    CHECK(ids == order);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        float const key = values[std::size_t(ids[i])];
        CHECK((keys[i] == key || (std::isnan(keys[i]) && std::isnan(key))));
    }
}

struct CountingKey {
    int* calls;
    SEMOE_HD float operator()(index_t i) const {
        ++*calls;
        return float(i % 5);
    }
};

} // namespace

TEST_CASE("ops/topk: few of many values that hardly ever tie, some of them NaN") {
    std::mt19937 engine(3);
    std::normal_distribution<float> normal;
    for (index_t n : {16, 17, 64, 100, 255, 256, 257, 400})
        for (index_t k : {1, 2, 8, 15, 16, 17})
            for (int repeat = 0; repeat < 5; ++repeat) {
                if (k > n) continue;
                std::vector<float> values;
                for (index_t i = 0; i < n; ++i)
                    values.push_back(repeat == 4 && i % 3 ? std::nanf("") : normal(engine));
                check<expert_id>(values, k);
            }
}

TEST_CASE("ops/topk: the k best in order, with ties and NaN, for any k") {
    float const nan = std::numeric_limits<float>::quiet_NaN();
    float const infinity = std::numeric_limits<float>::infinity();
    float const pool[] = {0, -0.0f, 1, 1, 2, -3, nan, infinity, -infinity, 0.5f};
    std::mt19937 engine(1);
    for (index_t n : {1, 2, 3, 7, 16, 61})
        for (index_t k = 0; k <= n; k += n > 20 ? 6 : 1)
            for (int repeat = 0; repeat < 5; ++repeat) {
                CAPTURE(n);
                CAPTURE(k);
                std::vector<float> values;
                for (index_t i = 0; i < n; ++i) values.push_back(pool[engine() % 10]);
                check<expert_id>(values, k);
                check<index_t>(values, k);
            }
    std::vector<float> rising(4096), falling(4096);
    std::iota(rising.begin(), rising.end(), 0.f);
    std::iota(falling.rbegin(), falling.rend(), 0.f);
    for (index_t k : {8, 1000, 4096}) {
        check<expert_id>(rising, k);
        check<expert_id>(falling, k);
        check<expert_id>(std::vector<float>(4096, 1), k);
        check<expert_id>(std::vector<float>(4096, nan), k);
    }
}

TEST_CASE("ops/topk: a key is computed once a candidate") {
    int calls = 0;
    expert_id ids[9];
    float keys[9];
    ops::select_topk(CountingKey{&calls}, 200, 9, ids, keys);
    CHECK(calls == 200);
    CHECK(ids[0] == 4);
    CHECK(ids[8] == 44);
}
