#pragma once

#include "semoe/core/view.hpp"
#include "support/shapes.hpp"

#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace bench {

using semoe::expert_id;

enum class Skew { balanced, zipf };
inline char const* to_string(Skew skew) { return skew == Skew::balanced ? "balanced" : "zipf"; }

/// The choices of one batch; every choice has weight 1 / K.
struct Routing {
    index_t tokens, top_k;
    std::vector<expert_id> ids; ///< [T,K], distinct in a row
    std::vector<float> weights; ///< [T,K]
    index_t touched = 0;        ///< experts with rows

    semoe::MatrixView<expert_id const, semoe::HostSpace> ids_view() const {
        return {ids.data(), tokens, top_k};
    }
    semoe::MatrixView<float const, semoe::HostSpace> weights_view() const {
        return {weights.data(), tokens, top_k};
    }
};

/// Draws batches for one layer, the same ones in every process.
///
/// Balanced: each token takes K distinct experts, all equally likely. Zipf: the r-th most popular
/// expert has probability proportional to r^-1.2 before the K of a token are made distinct.
///
/// The experts of a batch are then renamed so that those come first which went unused the longest.
/// How many rows each of them has stays as drawn, and small batches in succession find no weights
/// in the last-level cache, as in a model, whose other layers come in between.
class RoutingStream {
public:
    RoutingStream(Shape const& shape, Skew skew, std::uint64_t seed)
      : shape_(shape)
      , rng_(seed)
      , longest_unused_(std::size_t(shape.num_experts)) {
        std::iota(longest_unused_.begin(), longest_unused_.end(), 0);
        std::shuffle(longest_unused_.begin(), longest_unused_.end(), rng_);
        std::vector<double> popularity(longest_unused_.size(), 1.0);
        if (skew == Skew::zipf)
            for (std::size_t r = 0; r < popularity.size(); ++r)
                popularity[r] = std::pow(double(r + 1), -1.2);
        draw_ = std::discrete_distribution<int>(popularity.begin(), popularity.end());
    }

    Routing next(index_t tokens) {
        Routing batch{tokens, shape_.top_k, {}, {}};
        std::size_t const K = std::size_t(shape_.top_k);
        batch.ids.resize(std::size_t(tokens) * K);
        batch.weights.assign(batch.ids.size(), 1.0f / float(K));
        for (std::size_t begin = 0; begin < batch.ids.size(); begin += K)
            for (std::size_t k = 0; k < K;) {
                auto const row = batch.ids.begin() + std::ptrdiff_t(begin);
                expert_id const id = draw_(rng_);
                if (std::find(row, row + std::ptrdiff_t(k), id) == row + std::ptrdiff_t(k))
                    row[std::ptrdiff_t(k++)] = id;
            }
        rename(batch);
        return batch;
    }

private:
    void rename(Routing& batch) {
        std::vector<expert_id> name(longest_unused_.size(), -1);
        for (expert_id& id : batch.ids) {
            expert_id& known = name[std::size_t(id)];
            if (known < 0) known = longest_unused_[std::size_t(batch.touched++)];
            id = known;
        }
        std::rotate(longest_unused_.begin(), longest_unused_.begin() + batch.touched,
                    longest_unused_.end());
    }

    Shape shape_;
    std::mt19937_64 rng_;
    std::vector<expert_id> longest_unused_;
    std::discrete_distribution<int> draw_;
};

} // namespace bench
