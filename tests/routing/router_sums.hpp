#pragma once

#include "semoe/routing/balance.hpp"
#include "support/memory.hpp"

#include <span>
#include <vector>

namespace semoe::test {

/// Router losses of one process, step by step, on host vectors.
template <class B, class Real>
class RouterSums {
public:
    using Values = std::vector<Real>;
    using Sums = std::vector<double>;
    using Mask = std::vector<std::uint8_t>;
    using Ids = std::vector<expert_id>;

    RouterSums(B& b, index_t num_experts, RouterProbability rule)
      : b_(b)
      , E_(num_experts)
      , rule_(rule) {}

    Sums statistics(Values const& logits, Mask const& mask, Ids const& ids) const {
        index_t const T = index_t(logits.size()) / E_;
        auto const z = to_backend(b_, logits);
        auto const m = to_backend(b_, mask);
        auto const id = to_backend(b_, ids);
        auto const sums = to_backend(b_, Sums(std::size_t(RouterStatistics{E_}.size()), 77.0));
        Buffer<std::byte, B> scratch(b_, router_statistics_scratch_bytes(T, E_));
        index_t const K = T ? index_t(ids.size()) / T : 1;
        router_statistics<B>(b_, z.matrix(T, E_), m.view(), id.matrix(T, K), rule_, sums.view(),
                             scratch.view());
        return to_host(b_, sums);
    }
    RouterSummary summary(Sums const& sums) const {
        return summarize_router(std::span<double const>(sums), E_);
    }
    /// start + gradient
    Values gradient(Values const& logits, Mask const& mask, Sums const& sums,
                    RouterLossWeights const& weights, Values const& start) const {
        index_t const T = index_t(logits.size()) / E_;
        auto const z = to_backend(b_, logits);
        auto const m = to_backend(b_, mask);
        auto const s = to_backend(b_, sums);
        auto const d = to_backend(b_, start);
        add_router_gradient(b_, z.matrix(T, E_), m.view(), s.view(), rule_, weights,
                            d.matrix(T, E_));
        return to_host(b_, d);
    }
    Values gradient(Values const& logits, Mask const& mask, Sums const& sums,
                    RouterLossWeights const& weights) const {
        return gradient(logits, mask, sums, weights, Values(logits.size()));
    }

private:
    B& b_;
    index_t E_;
    RouterProbability rule_;
};

} // namespace semoe::test
