#pragma once

#include "semoe/core/types.hpp"

#include <algorithm>
#include <vector>

namespace semoe::tier::detail {

/// The layers of a model, whose last leads to the first again, with the blocks of each, and where
/// in them the work is.
class LayerCycle {
public:
    /// @cost amortised allocation; no other function allocates
    void add(BlockKey key) {
        auto const after = std::upper_bound(keys_.begin(), keys_.end(), key);
        keys_.insert(after, key);
        firsts_.clear();
        for (std::size_t i = 0; i < keys_.size(); ++i)
            if (i == 0 || keys_[i].layer != keys_[i - 1].layer) firsts_.push_back(i);
        firsts_.push_back(keys_.size());
        now_ = none;
    }

    /// The work is in this layer. @return whether it was in another before
    bool begin(layer_id layer) {
        if (now_ != none && layer_at(now_) == layer) return false;
        index_t const n = num_layers();
        index_t place = 0;
        while (place < n && layer_at(place) != layer) ++place;
        if (place == n) return false;
        // From the last layer to the first is ahead; of two layers each is ahead of the other.
        if (now_ != none && n > 2 && (now_ + n - 1) % n == place)
            direction_ = -1;
        else if (now_ == none || (now_ + 1) % n == place)
            direction_ = 1;
        now_ = place;
        return true;
    }
    /// f(key) for the blocks of the layers from `first` to `last` steps ahead, none of them twice.
    template <class F>
    void for_each_ahead(index_t first, index_t last, F const& f) const {
        index_t const n = num_layers();
        if (now_ == none) return;
        for (index_t step = first; step <= std::min(last, n - 1 + first); ++step) {
            index_t const place = ((now_ + direction_ * step) % n + n) % n;
            for (std::size_t k = firsts_[std::size_t(place)]; k < firsts_[std::size_t(place) + 1];
                 ++k)
                f(keys_[k]);
        }
    }

private:
    static constexpr index_t none = -1;

    layer_id layer_at(index_t place) const { return keys_[firsts_[std::size_t(place)]].layer; }
    index_t num_layers() const { return std::max<index_t>(1, index_t(firsts_.size())) - 1; }

    std::vector<BlockKey> keys_;      ///< rising
    std::vector<std::size_t> firsts_; ///< of each layer, and one past the last
    index_t now_ = none, direction_ = 1;
};

} // namespace semoe::tier::detail
