#pragma once

#include "semoe/expert/concept.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/layer/stages.hpp"
#include "semoe/optim/elementwise.hpp"

#include <array>
#include <optional>
#include <span>

namespace semoe::detail {

/// One optimizer step over one block whose weights are of type W.
template <class W, class B, class X, class M, class O>
void update_block_of(B& b, LayerBlocks<B, X, M>& blocks, O const& optimizer, expert_id id,
                     UpdateStep const& step) {
    using Real = accumulate_t<typename X::value_type>;
    index_t const n = blocks.layout(id).primary_elements();
    auto weight = blocks.acquire(b, id, BlockKind::weight, Access::write);
    ParameterBlock<W, space_of<B>> block;
    block.weight = view_as<W>(weight.bytes()).part(0, n);
    using Lease = decltype(weight);
    std::optional<Lease> gradient, master, moments;
    if (blocks.has_gradient(id)) {
        auto const& lease =
            gradient.emplace(blocks.acquire(b, id, BlockKind::gradient, Access::read));
        block.gradient = view_as<Real>(lease.bytes()).part(0, n);
    }
    if (blocks.has_master(id)) {
        auto const& lease = master.emplace(blocks.acquire(b, id, BlockKind::master, Access::write));
        block.master = view_as<Real>(lease.bytes()).part(0, n);
    }
    if (O::moments_per_element > 0) {
        auto const& lease =
            moments.emplace(blocks.acquire(b, id, BlockKind::moments, Access::write));
        block.moments = view_as<Real>(lease.bytes());
    }
    optimizer.update(b, block, step);
    if (step.zero_grad) blocks.clear_gradient(id); // before a tier could evict it
}
template <class B, class X, class M, class O>
void update_block(B& b, LayerBlocks<B, X, M>& blocks, O const& optimizer, expert_id id,
                  UpdateStep const& step) {
    using T = typename X::value_type;
    if (blocks.is_real(id))
        update_block_of<accumulate_t<T>>(b, blocks, optimizer, id, step);
    else
        update_block_of<T>(b, blocks, optimizer, id, step);
}

/// Updates the experts of a group by gradients that are handed over, in host memory.
template <class T, class Rule>
struct UpdateTaker {
    using Real = accumulate_t<T>;

    Rule rule;
    Real gradient_scale;
    index_t elements; ///< of a block
    T* weight[ops::Group<>::capacity];
    Real* master[ops::Group<>::capacity]; ///< null: the weight is the master
    Real* moments[ops::Group<>::capacity];

    void operator()(int i, index_t first, VectorView<float const, HostSpace> gradient) const {
        ParameterBlock<T, HostSpace> block;
        block.weight = {weight[i], elements};
        if (master[i]) block.master = {master[i], elements};
        block.moments = {moments[i], Rule::moments_per_element * elements};
        optim::update_some(block, first, gradient, gradient_scale, rule);
    }
};
/// Whether backward and update of an expert can be one.
template <class B, class X, class O>
inline constexpr bool may_update_at_once =
    HasWorkers<B>&& std::same_as<accumulate_t<typename X::value_type>, float>&&
        HandsOverGradients<X, B>&& optim::HasElementRule<O, float>;

/// Backward and one optimizer step of some experts: no gradient goes to memory.
/// @param places  their rows
/// @pre expert.hands_over_gradients(b, rows of each)
/// @sync enqueues
template <class B, class X, class Blocks, class O>
    requires may_update_at_once<B, X, O>
void update_at_once(B& b, Blocks& blocks, X const& expert, O const& optimizer,
                    UpdateStep const& step, std::span<expert_id const> ids,
                    ops::Group<std::byte const> const& places,
                    ExpertGradientRows<typename X::value_type, space_of<B>> const& rows) {
    using T = typename X::value_type;
    auto const rule = optimizer.template rule<float>(step);
    using Lease = decltype(blocks.acquire(b, ids[0], BlockKind::weight, Access::write));
    std::array<std::optional<Lease>, std::size_t(3 * ops::Group<>::capacity)> leases;
    std::size_t used = 0;
    auto const acquire = [&](expert_id id, BlockKind kind) {
        return leases[used++].emplace(blocks.acquire(b, id, kind, Access::write)).bytes();
    };
    UpdateTaker<T, std::remove_cv_t<decltype(rule)>> taker{
        rule, float(step.gradient_scale), blocks.layout(ids[0]).primary_elements(), {}, {}, {}};
    ops::Group<std::byte const> group;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        auto const weight = acquire(ids[i], BlockKind::weight);
        group.add(places.first_row[i], places.rows[i], weight.data);
        taker.weight[i] = view_as<T>(weight).data;
        if (blocks.has_master(ids[i]))
            taker.master[i] = view_as<float>(acquire(ids[i], BlockKind::master)).data;
        if (O::moments_per_element > 0)
            taker.moments[i] = view_as<float>(acquire(ids[i], BlockKind::moments)).data;
    }
    expert.backward_grouped(b, group, taker, rows);
}

/// Renews what a block derives from its weights.
template <class B, class X, class M>
void rebuild_derived(B& b, LayerBlocks<B, X, M>& blocks, X const& expert, expert_id id) {
    auto const& layout = blocks.layout(id);
    if (layout.elements() == layout.primary_elements()) return;
    auto const rebuild = [&](auto const& part) {
        if constexpr (HasDerivedSlices<std::remove_cvref_t<decltype(part)>, B>) {
            auto lease = blocks.acquire(b, id, BlockKind::weight, Access::write);
            part.rebuild_derived(b, lease.bytes());
        }
    };
    if constexpr (HasSharedExpert<X>)
        if (id == shared_block) return rebuild(expert.shared);
    rebuild(routed_part(expert));
}

/// One optimizer step over a layer's blocks, one by one.
template <class B, class X, class M, class O>
struct LayerUpdate {
    B& backend;
    LayerBlocks<B, X, M>& blocks;
    X const& expert;
    O const& optimizer;
    UpdateStep step;
    bool skip_untouched; ///< experts without a gradient are left as they are

    void operator()(expert_id id) const {
        if (skip_untouched && id >= 0 && !blocks.has_gradient(id)) return;
        update_block(backend, blocks, optimizer, id, step);
        rebuild_derived(backend, blocks, expert, id);
    }
};
/// The same for experts whose gradients become complete during backward, as one operation with it
/// where it can be.
template <class B, class X, class M, class O>
class UpdateInBackward final : public GradientUser<B, typename X::value_type> {
public:
    explicit UpdateInBackward(LayerUpdate<B, X, M, O> const& update)
      : update_(update) {}

    void complete(expert_id id) override { update_(id); }
    bool takes(index_t rows) const override {
        if constexpr (at_once)
            return routed_part(update_.expert).hands_over_gradients(update_.backend, rows);
        else
            return false;
    }
    void take(B& b, std::span<expert_id const> experts, ops::Group<std::byte const> const& places,
              ExpertGradientRows<typename X::value_type, space_of<B>> const& rows) override {
        if constexpr (at_once) {
            update_at_once(b, update_.blocks, routed_part(update_.expert), update_.optimizer,
                           update_.step, experts, places, rows);
            for (expert_id id : experts) rebuild_derived(b, update_.blocks, update_.expert, id);
        }
    }

private:
    static constexpr bool at_once = may_update_at_once<B, RoutedPart<X>, O>;

    LayerUpdate<B, X, M, O> update_;
};

} // namespace semoe::detail
