#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/ops/reduce.hpp"

#include <algorithm>
#include <vector>

namespace semoe::detail {

/// The squared norm of all gradients of a layer, as one sum a block.
template <class B>
class GradientNorm {
public:
    /// @param largest  elements of the largest gradient
    GradientNorm(B& b, index_t num_experts, index_t largest)
      : sums_(b, num_experts + dense)
      , scratch_(b, ops::sum_squares_scratch(largest))
      , host_(std::size_t(sums_.size())) {}

    /// Over all ranks; those of router and shared expert once.
    template <class X, class M, class C>
    double squared(B& b, LayerBlocks<B, X, M>& blocks, C& comm) {
        std::fill(host_.begin(), host_.end(), 0.0);
        try {
            for (expert_id id : blocks.ids())
                if (blocks.has_gradient(id)) add(b, blocks, id);
        } catch (...) { // of a tier; what is enqueued writes to host_
            drain(b);
            throw;
        }
        b.synchronize();
        if (comm.size() > 1) {
            // Router and shared expert are the same everywhere; each expert has one owner.
            b.copy(sums_.data(), host_.data(), host_.size() * sizeof(double));
            comm.all_reduce_sum(b, sums_.view().part(dense, sums_.size() - dense));
            b.copy(host_.data(), sums_.data(), host_.size() * sizeof(double));
            b.synchronize();
        }
        double sum = 0;
        for (double const part : host_) sum += part;
        return sum;
    }

private:
    static constexpr index_t dense = 2; ///< the shared expert and the router come first

    template <class X, class M>
    void add(B& b, LayerBlocks<B, X, M>& blocks, expert_id id) {
        using Real = accumulate_t<typename X::value_type>;
        index_t const at = id + dense;
        auto lease = blocks.acquire(b, id, BlockKind::gradient, Access::read);
        ops::sum_squares(b,
                         VectorView<Real const, space_of<B>>(view_as<Real>(lease.bytes()))
                             .part(0, blocks.layout(id).primary_elements()),
                         scratch_.view(), sums_.data() + at);
        b.copy(&host_[std::size_t(at)], sums_.data() + at, sizeof(double));
    }
    static void drain(B& b) noexcept {
        try {
            b.synchronize();
        } catch (...) { // the first error is the one to tell of
        }
    }

    Buffer<double, B> sums_, scratch_;
    std::vector<double> host_;
};

} // namespace semoe::detail
