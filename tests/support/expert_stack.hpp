#pragma once

#include "semoe/backend/simulated.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "support/memory.hpp"

#include <deque>
#include <vector>

namespace semoe::test {

/// Layers of one expert each over one tier. All tokens go through all layers, each time.
template <class B, class Tier, class Sch = schedule::Sequential>
class ExpertStack {
    using Gate = gate::TopK<gate::Softmax>;
    using Expert = expert::Ffn<float, ops::activation::Relu>;
    using Layer = MoeLayer<B, Gate, Expert, comm::Self, Tier, Sch>;

public:
    static constexpr index_t num_tokens = 4, hidden = 3, intermediate = 5;
    static constexpr Expert expert{.hidden = hidden, .intermediate = intermediate};
    static constexpr double block_bytes = 4 * 2 * hidden * intermediate;
    static double flops() { return double(num_tokens) * expert.flops_per_row(); }

    ExpertStack(B b, Tier tier, int layers, Sch schedule = {})
      : b_(b)
      , x_(to_backend(b_, random_values<float>(3, num_tokens * hidden)))
      , y_(b_, num_tokens * hidden)
      , ids_(to_backend(b_, std::vector<expert_id>(num_tokens, 0)))
      , weights_(to_backend(b_, std::vector<float>(num_tokens, 1))) {
        for (int l = 0; l < layers; ++l) {
            Layer& layer =
                layers_.emplace_back(b_, Gate{.num_experts = 1, .top_k = 1}, expert, comm::Self{},
                                     tier, schedule, MoeConfig{.layer = l});
            layer.initialize(11);
            contexts_.push_back(layer.make_context(num_tokens));
        }
        layers_.front().tier().flush(b_);
    }

    /// All layers, one after another. @return what comes out
    std::vector<float> pass() {
        auto const x = x_.matrix(num_tokens, hidden), y = y_.matrix(num_tokens, hidden);
        for (std::size_t l = 0; l < layers_.size(); ++l)
            layers_[l].forward_routed(l == 0 ? x : y, ids_.matrix(num_tokens, 1),
                                      weights_.matrix(num_tokens, 1), y, contexts_[l]);
        return to_host(b_, y_);
    }

private:
    B b_;
    Buffer<float, B> x_, y_;
    Buffer<expert_id, B> ids_;
    Buffer<float, B> weights_;
    std::deque<Layer> layers_;
    std::vector<typename Layer::Context> contexts_;
};

} // namespace semoe::test
