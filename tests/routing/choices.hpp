#pragma once

#include "semoe/core/types.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace semoe::test {

/// [T,K] ids, distinct in a row, each dropped with probability `drop`. With `skew` above zero low
/// ids are likelier.
inline std::vector<expert_id> random_choices(std::uint64_t seed, index_t T, index_t K, index_t E,
                                             double drop = 0, double skew = 0) {
    std::mt19937_64 engine(seed);
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<expert_id> ids, row(static_cast<std::size_t>(E));
    std::vector<double> key(static_cast<std::size_t>(E));
    for (index_t t = 0; t < T; ++t) {
        for (std::size_t e = 0; e < key.size(); ++e) key[e] = uniform(engine) + skew * double(e);
        std::iota(row.begin(), row.end(), 0);
        std::sort(row.begin(), row.end(), [&](expert_id a, expert_id b) {
            return key[std::size_t(a)] < key[std::size_t(b)];
        });
        for (index_t k = 0; k < K; ++k)
            ids.push_back(uniform(engine) < drop ? dropped_expert : row[std::size_t(k)]);
    }
    return ids;
}

} // namespace semoe::test
