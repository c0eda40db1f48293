#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/message.hpp"
#include "semoe/expert/concept.hpp"
#include "semoe/expert/initialize.hpp"
#include "semoe/ops/cast.hpp"
#include "semoe/ops/fill.hpp"
#include "semoe/optim/concept.hpp"
#include "semoe/tier/concept.hpp"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace semoe {

/// A parameter's logical shape.
struct Shape {
    index_t rows = 0, cols = 0;
    friend bool operator==(Shape const&, Shape const&) = default;
};

namespace detail {

/// The routed expert's description, with or without a shared one beside it.
template <class X>
auto const& routed_part(X const& expert) {
    if constexpr (HasSharedExpert<X>)
        return expert.routed;
    else
        return expert;
}

template <class X>
using RoutedPart = std::remove_cvref_t<decltype(routed_part(std::declval<X const&>()))>;

template <class X>
using SharedPart = std::remove_cvref_t<decltype(std::declval<X const&>().shared)>;
template <class X>
constexpr bool find_shared_with_own_weights() {
    if constexpr (HasSharedExpert<X>)
        return has_own_weights<SharedPart<X>>;
    else
        return false;
}
template <class X>
inline constexpr bool shared_has_own_weights = find_shared_with_own_weights<X>();
/// Whether all experts, the shared one too, are made of their value_type.
template <class X>
inline constexpr bool has_float_weights =
    !has_own_weights<RoutedPart<X>> && !shared_has_own_weights<X>;

/// Of an expert's weights: BlockInfo::contents.
template <class X>
std::uint64_t contents_of(BlockLayout const& layout, X const& expert) {
    return layout.contents(element_name<weight_t<X>>() + codes_of(expert));
}

/// The slices of the router's block.
template <class X>
BlockLayout router_layout(X const& expert, index_t num_experts) {
    BlockLayout layout;
    layout.add("weight", num_experts, expert.hidden);
    if constexpr (HasSharedExpert<X>)
        if (expert.sigmoid_gate) layout.add("shared_gate", 1, expert.hidden);
    return layout;
}

/// "router.weight", "shared.up_proj", "experts.3.down_proj".
inline std::string parameter_name(expert_id id, char const* slice) {
    if (id == router_block) return std::string("router.") + slice;
    if (id == shared_block) return std::string("shared.") + slice;
    return message("experts.{}.{}", id, slice);
}

/// The blocks of one layer on one rank: the router's, the shared expert's and those of the local
/// experts, with a flag for each that says whether its gradient block holds anything.
template <class B, class X, class M>
class LayerBlocks {
public:
    using T = typename X::value_type;
    using Real = accumulate_t<T>;
    using S = space_of<B>;
    static constexpr bool has_shared = HasSharedExpert<X>;

    /// Declares every weight block. @cost what the tier does at declare
    LayerBlocks(B& b, X const& expert, M tier, layer_id layer, index_t num_experts,
                std::vector<expert_id> local_experts)
      : tier_(std::move(tier))
      , layer_(layer)
      , local_(std::move(local_experts))
      , expert_layout_(routed_part(expert).layout(b))
      , router_layout_(router_layout(expert, num_experts)) {
        if constexpr (has_shared) {
            shared_layout_ = expert.shared.layout(b);
            ids_.push_back(shared_block);
        }
        ids_.push_back(router_block);
        ids_.insert(ids_.end(), local_.begin(), local_.end());
        has_gradient_.assign(std::size_t(num_experts + dense_ids), 0);
        upcoming_.reserve(ids_.size() * std::size_t(num_block_kinds));
        contents_ = contents_of(expert_layout_, routed_part(expert));
        if constexpr (has_shared) shared_contents_ = contents_of(shared_layout_, expert.shared);
        for (expert_id id : ids_) declare(b, id, BlockKind::weight, layout(id).elements());
    }

    M& tier() { return tier_; }
    /// Expert numbers of this rank, rising.
    std::vector<expert_id> const& local_experts() const { return local_; }
    /// Every block of this rank: shared, router, then the local experts.
    std::vector<expert_id> const& ids() const { return ids_; }

    BlockLayout const& layout(expert_id id) const {
        if (id == router_block) return router_layout_;
        if (id == shared_block) return shared_layout_;
        return expert_layout_;
    }
    BlockKey key(expert_id id, BlockKind kind) const { return {layer_, id, kind}; }
    /// Whether the block's weights are of Real, so that they need no master.
    static constexpr bool is_real(expert_id id) { return id == router_block || !needs_master<T>; }
    bool has_master(expert_id id) const { return !is_real(id); }

    bool has_gradient(expert_id id) const { return has_gradient_[flag(id)] != 0; }
    void set_gradient(expert_id id, bool present) { has_gradient_[flag(id)] = char(present); }
    void clear_gradient(expert_id id) {
        if constexpr (HasDiscard<M>)
            if (has_gradient(id)) tier_.discard(key(id, BlockKind::gradient));
        set_gradient(id, false);
    }
    void clear_gradients() {
        for (expert_id id : ids_) clear_gradient(id);
    }

    /// Elements of the largest gradient.
    index_t largest_primary() const {
        index_t n = 0;
        for (expert_id id : ids_) n = std::max(n, layout(id).primary_elements());
        return n;
    }

    auto acquire(B& b, expert_id id, BlockKind kind, Access access) {
        return tier_.acquire(b, key(id, kind), access);
    }
    /// The block's gradient: loaded only when there is something in it to add to.
    auto acquire_gradient(B& b, expert_id id) {
        return acquire(b, id, BlockKind::gradient,
                       has_gradient(id) ? Access::write : Access::overwrite);
    }

    /// Makes the gradient blocks exist; again does nothing.
    void declare_gradients(B& b) {
        if (gradients_declared_) return;
        for (expert_id id : ids_)
            declare(b, id, BlockKind::gradient, layout(id).primary_elements());
        gradients_declared_ = true;
    }
    /// Makes masters and moments exist: fresh masters from the weights, fresh moments zero.
    template <class O>
    void declare_states(B& b, bool fresh) {
        declare_states(
            b, {O::moments_per_element, HasPackedMoments<O>, &optim::moments_size<O, Real>}, fresh);
    }
    int moments_per_element() const { return has_states() ? moments_.per_element : 0; }
    bool has_packed_moments() const { return moments_.packed; }
    bool has_states() const { return moments_.per_element >= 0; }

    /// Tells the tier the order in which an update goes through the blocks.
    void announce_update(B& b) {
        upcoming_.clear();
        for (expert_id id : ids_) append_update(id, has_gradient(id), upcoming_);
        tier_.prefetch(b, upcoming_);
    }
    /// What an update of one block acquires, in order.
    void append_update(expert_id id, bool gradient, std::vector<BlockKey>& keys) const {
        keys.push_back(key(id, BlockKind::weight));
        if (gradient) keys.push_back(key(id, BlockKind::gradient));
        if (has_master(id)) keys.push_back(key(id, BlockKind::master));
        if (moments_.per_element > 0) keys.push_back(key(id, BlockKind::moments));
    }

    /// Those that exist, and those that the tier may have from another layer, once they are
    /// declared.
    void clear_moments(B& b) {
        moments_cleared_ = true;
        for (expert_id id : ids_)
            if (moments_per_element() > 0) zero_moments(b, id);
    }
    /// Copies weights into masters; after weights were set from outside.
    void refresh_masters(B& b) {
        if (has_states()) make_masters(b);
    }

    /// Calls f(name, view, shape) for every slice of a block, in a fixed order: the view is a
    /// MatrixView in backend memory whose element type follows the kind. Of moments, part m of
    /// n has the name suffix ".m"; packed ones are one row a block, named "packed".
    template <class F>
    void visit_block(B& b, expert_id id, BlockKind kind, Access access, F&& f) {
        if (kind == BlockKind::master && !has_master(id)) return;
        auto lease = acquire(b, id, kind, access);
        if constexpr (has_own_weights<RoutedPart<X>>)
            if (kind == BlockKind::weight && id >= 0)
                return visit_slices<weight_t<RoutedPart<X>>>(id, lease.bytes(), 0, "", f);
        if constexpr (shared_has_own_weights<X>)
            if (kind == BlockKind::weight && id == shared_block)
                return visit_slices<weight_t<SharedPart<X>>>(id, lease.bytes(), 0, "", f);
        if (kind == BlockKind::weight && !is_real(id))
            visit_slices<T>(id, lease.bytes(), 0, "", f);
        else if (kind != BlockKind::moments)
            visit_slices<Real>(id, lease.bytes(), 0, "", f);
        else if (has_packed_moments())
            visit_row(parameter_name(id, "packed"), view_as<Real>(lease.bytes()), f);
        else
            for (int m = 0; m < moments_per_element(); ++m)
                visit_slices<Real>(id, lease.bytes(), m * layout(id).primary_elements(),
                                   message(".{}", m), f);
    }

private:
    /// What an optimizer's moments are.
    struct Moments {
        int per_element = -1; ///< before the first update
        bool packed = false;
        index_t (*size)(index_t) = nullptr; ///< in Reals, of a block of so many elements
    };
    static constexpr index_t dense_ids = 2;
    static std::size_t flag(expert_id id) { return std::size_t(index_t(id) + dense_ids); }

    void zero_moments(B& b, expert_id id) {
        auto const lease = acquire(b, id, BlockKind::moments, Access::overwrite);
        ops::fill(b, lease.bytes(), std::byte{0});
    }
    void make_masters(B& b) {
        if constexpr (needs_master<T>)
            for (expert_id id : ids_) {
                if (!has_master(id)) continue;
                auto weight = acquire(b, id, BlockKind::weight, Access::read);
                auto master = acquire(b, id, BlockKind::master, Access::overwrite);
                auto const from = view_as<T>(weight.bytes());
                ops::cast(b, VectorView<T const, S>(from.part(0, layout(id).primary_elements())),
                          view_as<Real>(master.bytes()));
            }
    }
    void declare_states(B& b, Moments const& moments, bool fresh) {
        declare_gradients(b);
        if (has_states()) {
            index_t const n = largest_primary();
            return expects(moments.per_element == moments_.per_element &&
                               moments.packed == moments_.packed &&
                               moments.size(n) == moments_.size(n),
                           "MoeLayer: the layer has states of another optimizer, with other "
                           "moments; update it by one of that kind");
        }
        std::vector<expert_id> stale; // the tier has moments of another layer
        for (expert_id id : ids_) {
            index_t const n = layout(id).primary_elements();
            if (has_master(id)) declare(b, id, BlockKind::master, n);
            if (moments.per_element == 0) continue;
            if (moments_cleared_ && tier_.contains(key(id, BlockKind::moments)))
                stale.push_back(id);
            declare(b, id, BlockKind::moments, moments.size(n));
        }
        for (expert_id id : stale) zero_moments(b, id);
        if (fresh) make_masters(b);
        moments_ = moments; // where anything failed, all of it is done again
    }
    void declare(B& b, expert_id id, BlockKind kind, index_t elements) {
        bool const narrow = kind == BlockKind::weight && !is_real(id);
        index_t size = narrow ? index_t(sizeof(T)) : index_t(sizeof(Real));
        if constexpr (has_own_weights<RoutedPart<X>>)
            if (id >= 0 && kind == BlockKind::weight) size = sizeof(weight_t<RoutedPart<X>>);
        if constexpr (shared_has_own_weights<X>)
            if (id == shared_block && kind == BlockKind::weight)
                size = sizeof(weight_t<SharedPart<X>>);
        bool const weight = kind == BlockKind::weight;
        LayoutId const order = weight ? layout(id).id() : LayoutId::row_major;
        std::uint64_t const contents = id == shared_block ? shared_contents_
                                       : id == router_block
                                           ? router_layout_.contents(element_name<Real>())
                                           : contents_;
        tier_.declare(b, key(id, kind), BlockInfo{elements * size, order, weight ? contents : 0});
    }
    template <class F>
    void visit_row(std::string const& name, VectorView<Real, S> all, F& f) {
        f(name, MatrixView<Real, S>{all.data, 1, all.size}, Shape{1, all.size});
    }
    template <class Element, class F>
    void visit_slices(expert_id id, Bytes<S> bytes, index_t first, std::string const& suffix,
                      F& f) {
        auto const all = view_as<Element>(bytes);
        for (Slice const& s : layout(id)) {
            if (s.derived) continue;
            f(parameter_name(id, s.name) + suffix,
              MatrixView<Element, S>{all.data + first + s.offset, s.rows, s.cols},
              Shape{s.rows, s.cols});
        }
    }

    M tier_;
    layer_id layer_;
    std::vector<expert_id> local_, ids_;
    BlockLayout expert_layout_, router_layout_, shared_layout_;
    std::uint64_t contents_ = 0, shared_contents_ = 0; ///< of routed experts, of the shared one
    std::vector<char> has_gradient_;
    std::vector<BlockKey> upcoming_;
    bool gradients_declared_ = false, moments_cleared_ = false;
    Moments moments_;
};

} // namespace detail
} // namespace semoe
