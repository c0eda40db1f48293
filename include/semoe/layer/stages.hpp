#pragma once

#include "semoe/dispatch/combine.hpp"
#include "semoe/dispatch/spread.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/layer/context.hpp"

#include <array>
#include <optional>
#include <span>

namespace semoe::detail {

/// Who uses the experts' gradients during backward.
template <class B, class T>
class GradientUser {
public:
    using Rows = ExpertGradientRows<T, space_of<B>>;

    /// An expert's block holds its whole gradient.
    virtual void complete(expert_id) = 0;
    /// Whether experts of so many rows come to take() instead.
    virtual bool takes(index_t rows) const = 0;
    /// Runs backward of experts whose rows these are, and uses their gradients at once.
    virtual void take(B& b, std::span<expert_id const> experts,
                      ops::Group<std::byte const> const& places, Rows const& rows) = 0;

protected:
    ~GradientUser() = default;
};

/// Experts of one chunk in groups that the tier can hold at once, those in slots already first, so
/// that they are computed while others arrive: calls work(group of expert numbers, first rows,
/// rows). Grouping never changes a result.
template <class B, class W, class M, class T, class C>
class ExpertGroups {
public:
    using Lease = decltype(std::declval<M&>().acquire(std::declval<B&>(), BlockKey{}, Access{}));
    using Leases = std::array<std::optional<Lease>, ops::Group<>::capacity>;

    ExpertGroups(LayerBlocks<B, W, M>& blocks, ContextState<B, T, C>& state)
      : blocks_(blocks)
      , state_(state) {}

    /// Fixes the order of experts in every chunk, those that have arrived first, then those on
    /// their way, and tells the tier.
    /// @param updates  of each block, after its last chunk
    void announce(B& b, bool gradients, bool updates = false) {
        auto& order = state_.expert_order;
        order.clear();
        state_.upcoming.clear();
        auto const& experts = blocks_.local_experts();
        for (index_t c = 0; c < state_.shape.num_chunks; ++c) {
            auto const offsets = state_.exchanges[std::size_t(c)].local_offsets();
            for (std::size_t l = 0; l < experts.size(); ++l)
                state_.expert_distance[l] =
                    offsets[l + 1] == offsets[l]
                        ? not_needed
                        : distance(blocks_.key(experts[l], BlockKind::weight));
            for (Distance const d : {there, coming, absent})
                for (std::size_t l = 0; l < experts.size(); ++l) {
                    if (state_.expert_distance[l] != d) continue;
                    auto const key = blocks_.key(experts[l], BlockKind::weight);
                    order.push_back(index_t(l));
                    state_.upcoming.push_back(key);
                    if (gradients && blocks_.has_gradient(experts[l]))
                        state_.upcoming.push_back(blocks_.key(experts[l], BlockKind::gradient));
                    // Its gradient is about to be overwritten, and used at once: nothing to load.
                    if (updates && !has_rows(c + 1, l))
                        blocks_.append_update(experts[l], false, state_.upcoming);
                }
            state_.order_end[std::size_t(c)] = order.size();
        }
        if (updates)
            for_each_other([&](expert_id id) {
                blocks_.append_update(id, blocks_.has_gradient(id), state_.upcoming);
            });
        blocks_.tier().prefetch(b, state_.upcoming);
    }
    /// f(block) for those that backward of the experts leaves alone: dense ones, and experts
    /// without rows.
    template <class F>
    void for_each_other(F&& f) {
        for (expert_id id : blocks_.ids())
            if (id < 0) f(id);
        auto const& experts = blocks_.local_experts();
        for (std::size_t l = 0; l < experts.size(); ++l)
            if (!has_rows(0, l)) f(experts[l]);
    }
    /// Tells the tier which experts have rows, as a guess.
    void predict() {
        auto const& experts = blocks_.local_experts();
        state_.upcoming.clear();
        for (std::size_t l = 0; l < experts.size(); ++l)
            for (index_t c = 0; c < state_.shape.num_chunks; ++c) {
                auto const offsets = state_.exchanges[std::size_t(c)].local_offsets();
                if (offsets[l + 1] == offsets[l]) continue;
                state_.upcoming.push_back(blocks_.key(experts[l], BlockKind::weight));
                break;
            }
        blocks_.tier().predict(blocks_.key(router_block, BlockKind::weight).layer, state_.upcoming);
    }
    /// forward(group) for each group of a chunk.
    template <class F>
    void forward(B& b, index_t chunk, F&& f) {
        Leases weights;
        ops::Group<std::byte const> group;
        index_t const limit = group_limit(false);
        auto const flush = [&] {
            if (group.size > 0) f(group);
            for (int i = 0; i < group.size; ++i) weights[std::size_t(i)].reset();
            group.size = 0;
        };
        for_each_expert(chunk, [&](std::size_t l, index_t first, index_t rows) {
            expert_id const id = blocks_.local_experts()[l];
            if (!at_hand(id)) flush();
            auto const& weight = weights[std::size_t(group.size)].emplace(
                blocks_.acquire(b, id, BlockKind::weight, Access::read));
            group.add(first, rows, weight.bytes().data);
            if (group.size == limit) flush();
        });
        flush();
    }
    /// backward(weights, gradients, accumulate) for each group of a chunk; then the user, if there
    /// is one, has those experts complete that have no rows in a chunk yet to come. What it takes
    /// it gets in groups of their own.
    template <class F>
    void backward(B& b, index_t chunk, GradientUser<B, T>* user,
                  ExpertGradientRows<T, space_of<B>> const& all_rows, F&& f) {
        Leases weights, gradients;
        std::array<std::size_t, ops::Group<>::capacity> members{};
        std::array<expert_id, ops::Group<>::capacity> ids{};
        ops::Group<std::byte const> group;
        ops::Group<std::byte> gradient_group;
        ops::GroupMask accumulate = 0;
        bool taken = false;
        bool const may_take = user && state_.shape.num_chunks == 1 && !state_.shape.recompute;
        index_t const limit = group_limit(true), taken_limit = may_take ? update_limit() : 0;
        auto const flush = [&] {
            auto const done = std::size_t(group.size);
            if (done > 0 && taken)
                user->take(b, std::span<expert_id const>(ids).first(done), group, all_rows);
            else if (done > 0)
                f(group, gradient_group, accumulate);
            for (std::size_t i = 0; i < done; ++i) {
                weights[i].reset();
                gradients[i].reset();
            }
            group.size = gradient_group.size = 0;
            accumulate = 0;
            for (std::size_t i = 0; user && !taken && i < done; ++i)
                if (!has_rows_to_come(members[i])) user->complete(ids[i]);
        };
        for_each_expert(chunk, [&](std::size_t l, index_t first, index_t rows) {
            expert_id const id = blocks_.local_experts()[l];
            bool const take = may_take && user->takes(rows);
            if (take != taken || !at_hand(id)) flush();
            taken = take;
            auto const i = std::size_t(group.size);
            members[i] = l;
            ids[i] = id;
            if (take) {
                group.add(first, rows, nullptr);
                if (group.size == taken_limit) flush();
                return;
            }
            auto const& weight =
                weights[i].emplace(blocks_.acquire(b, id, BlockKind::weight, Access::read));
            auto const& gradient = gradients[i].emplace(blocks_.acquire_gradient(b, id));
            if (blocks_.has_gradient(id)) accumulate |= ops::GroupMask(1) << i;
            blocks_.set_gradient(id, true);
            group.add(first, rows, weight.bytes().data);
            gradient_group.add(first, rows, gradient.bytes().data);
            if (group.size == limit) flush();
        });
        flush();
    }

private:
    enum Distance : char { there, coming, absent, not_needed };
    static constexpr int experts_stage = 1; // as pass() counts

    Distance distance(BlockKey key) {
        M& tier = blocks_.tier();
        if (!tier.resident(key)) return absent;
        if constexpr (HasArrival<M>)
            if (!tier.arrived(key)) return coming;
        return there;
    }
    /// Whether acquiring the expert's weights would not wait: those acquired before would, too.
    bool at_hand(expert_id id) {
        if constexpr (HasArrival<M>)
            return blocks_.tier().arrived(blocks_.key(id, BlockKind::weight));
        else
            return true;
    }
    /// The same of experts that are updated at once: half the slots that their states have.
    index_t update_limit() {
        auto const pinned = [&](BlockKind kind) {
            return index_t(blocks_.tier().max_pinned(kind));
        };
        index_t slots = pinned(BlockKind::weight);
        if (blocks_.has_master(0)) slots = std::min(slots, pinned(BlockKind::master));
        if (blocks_.moments_per_element() > 0) slots = std::min(slots, pinned(BlockKind::moments));
        return std::clamp<index_t>(slots / 2, 1, ops::Group<>::capacity);
    }
    /// Few enough that most slots stay free for what comes next, but some, for what one operation
    /// makes of several: of the many rows that a training step has, more, and half the slots.
    index_t group_limit(bool gradients) {
        index_t slots = blocks_.tier().max_pinned(BlockKind::weight);
        if (gradients)
            slots = std::min(slots, index_t(blocks_.tier().max_pinned(BlockKind::gradient)));
        index_t const least = std::min<index_t>(4, slots - slots / 2);
        index_t const wanted = state_.shape.training ? slots / 2 : slots / 16;
        return std::clamp<index_t>(wanted, least, ops::Group<>::capacity);
    }
    /// Whether a local expert has rows in a chunk or in a later one.
    bool has_rows(index_t chunk, std::size_t l) const {
        for (; chunk < state_.shape.num_chunks; ++chunk) {
            auto const offsets = state_.exchanges[std::size_t(chunk)].local_offsets();
            if (offsets[l + 1] > offsets[l]) return true;
        }
        return false;
    }
    /// Whether it has rows in a chunk whose experts the schedule has yet to run, in whatever order.
    bool has_rows_to_come(std::size_t l) const {
        for (index_t c = 0; c < state_.shape.num_chunks; ++c) {
            auto const offsets = state_.exchanges[std::size_t(c)].local_offsets();
            if (state_.stages_run[std::size_t(c)] <= experts_stage && offsets[l + 1] > offsets[l])
                return true;
        }
        return false;
    }
    /// f(local expert, first row, rows) in the announced order. First rows count from the chunk's
    /// own.
    template <class F>
    void for_each_expert(index_t chunk, F&& f) {
        auto const offsets = state_.exchanges[std::size_t(chunk)].local_offsets();
        std::size_t const begin = chunk == 0 ? 0 : state_.order_end[std::size_t(chunk) - 1];
        for (std::size_t i = begin; i < state_.order_end[std::size_t(chunk)]; ++i) {
            auto const l = std::size_t(state_.expert_order[i]);
            f(l, offsets[l], offsets[l + 1] - offsets[l]);
        }
    }

    LayerBlocks<B, W, M>& blocks_;
    ContextState<B, T, C>& state_;
};

/// What the stages of forward and of backward share.
template <class B, class X, class M, class T, class C, class Tr>
struct StagesBase {
    using S = space_of<B>;
    using Real = accumulate_t<T>;

    using Routed = RoutedPart<X>;

    B& backend;
    Routed const& expert;
    ExpertGroups<B, X, M, T, C> groups;
    ContextState<B, T, C>& s;
    Tr& tracer;

    /// A schedule begins: no chunk has passed a stage.
    void begin() const { std::fill(s.stages_run.begin(), s.stages_run.end(), 0); }
    /// The schedule runs a chunk's stage: dispatch, experts and combine are 0, 1 and 2.
    /// @throws precondition_error naming a chunk that there is not, or a stage out of its order
    void pass(int stage, index_t c) const {
        expects(c >= 0 && c < s.shape.num_chunks, "MoeLayer: the schedule names chunk {} of {}", c,
                s.shape.num_chunks);
        expect_passed(c, stage);
        ++s.stages_run[std::size_t(c)];
    }
    /// @throws precondition_error unless the schedule ran every stage of every chunk
    void expect_all() const {
        for (index_t c = 0; c < s.shape.num_chunks; ++c) expect_passed(c, 3);
    }
    void expect_passed(index_t c, int stages) const {
        constexpr char const* when[] = {"dispatch", "experts", "combine", "the end"};
        int const run = s.stages_run[std::size_t(c)];
        expects(run == stages,
                "MoeLayer: the schedule comes to {} when chunk {} has run {} of dispatch, experts "
                "and combine, which every chunk runs once and in this order",
                when[stages], c, run);
    }

    B& compute() { return backend; }
    B& wire() { return s.wire ? *s.wire : backend; }
    char const* queue_name(B const& queue) const { return &queue == &backend ? "compute" : "wire"; }

    Exchange<B, C>& exchange(index_t c) { return s.exchanges[std::size_t(c)]; }
    MatrixView<index_t const, S> slot_of(index_t c) const { return s.plan(c).slot_of; }
    template <class E>
    MatrixView<E, S> of_tokens(MatrixView<E, S> all, index_t c) const {
        auto const [first, count] = s.chunk_tokens(c);
        return all.row_range(first, count);
    }
    template <class E>
    VectorView<E, S> of_tokens(VectorView<E, S> all, index_t c) const {
        auto const [first, count] = s.chunk_tokens(c);
        return all.empty() ? all : all.part(first, count);
    }
    /// The rows that experts of a chunk read: copies, or the tokens themselves by index.
    IndexedRows<T const, S> inputs(index_t c) const {
        if (!s.shape.indexed_rows) return s.by_row(s.views.rows, c);
        return {of_tokens(s.x, c), s.plan(c).token_of_slot.part(0, s.num_rows(c))};
    }
    /// What experts save lies by row where backward needs it, else in one chunk's buffer.
    MatrixView<T, S> saved(index_t c) const {
        return s.shape.training && !s.shape.recompute ? s.by_row(s.views.saved, c)
                                                      : s.views.saved.row_range(0, s.num_rows(c));
    }
};

/// The stages of forward, as a schedule sees them.
template <class B, class X, class M, class T, class C, class Tr>
struct ForwardStages : StagesBase<B, X, M, T, C, Tr> {
    using Base = StagesBase<B, X, M, T, C, Tr>;
    using Base::s, Base::of_tokens;

    void dispatch(B& q, index_t c) {
        this->pass(0, c);
        auto const span = this->tracer.span(q, "dispatch", this->queue_name(q), c);
        if (s.shape.indexed_rows) return;
        auto const send = s.by_slot(s.views.send, c);
        spread_rows(q, of_tokens(s.x, c), this->slot_of(c), send);
        this->exchange(c).to_experts(q, send, s.by_row(s.views.rows, c), s.views.exchange_staging);
    }
    void experts(B& q, index_t c) {
        this->pass(1, c);
        auto const span = this->tracer.span(q, "experts", this->queue_name(q), c);
        auto const in = this->inputs(c);
        ExpertRows<T, space_of<B>> const rows{in.all,
                                              s.by_row(s.views.out_rows, c),
                                              this->saved(c),
                                              s.views.scratch.row_range(0, s.num_rows(c)),
                                              s.shape.training && !s.shape.recompute,
                                              in.index};
        this->groups.forward(
            q, c, [&](auto const& weights) { this->expert.forward_grouped(q, weights, rows); });
    }
    void combine(B& q, index_t c) {
        this->pass(2, c);
        auto const span = this->tracer.span(q, "combine", this->queue_name(q), c);
        auto const slots = s.by_slot(s.views.slots, c);
        this->exchange(c).to_tokens(q, s.by_row(s.views.out_rows, c), slots,
                                    s.views.exchange_staging);
        // Without a shared expert there is none, of backward's type: one kernel serves both.
        TokenBase<std::conditional_t<HasSharedExpert<X>, T, accumulate_t<T>>, space_of<B>> base;
        if constexpr (HasSharedExpert<X>)
            base = {of_tokens(s.views.shared_out, c), of_tokens(s.views.shared_factor, c)};
        semoe::combine(q, slots, this->slot_of(c), of_tokens(s.views.assignment.topk_weights, c),
                       base, of_tokens(s.options.mask, c), of_tokens(s.y, c));
    }
};

/// The stages of backward: the backward of combine is a dispatch and the other way round.
template <class B, class X, class M, class T, class C, class Tr>
struct BackwardStages : StagesBase<B, X, M, T, C, Tr> {
    using Base = StagesBase<B, X, M, T, C, Tr>;
    using Base::s, Base::of_tokens;

    MatrixView<T, space_of<B>> dx;
    GradientUser<B, T>* user = nullptr;

    void dispatch(B& q, index_t c) {
        this->pass(0, c);
        auto const span = this->tracer.span(q, "dispatch backward", this->queue_name(q), c);
        this->exchange(c).to_experts(q, s.by_slot(s.views.d_slots, c),
                                     s.by_row(s.views.d_out_rows, c), s.views.exchange_staging);
    }
    void experts(B& q, index_t c) {
        this->pass(1, c);
        auto const span = this->tracer.span(q, "experts backward", this->queue_name(q), c);
        auto const in = this->inputs(c);
        auto const kept = this->saved(c);
        ExpertGradientRows<T, space_of<B>> const rows{
            in.all,
            kept,
            s.by_row(s.views.d_out_rows, c),
            s.by_row(s.views.d_rows, c),
            s.views.backward_scratch.row_range(0, s.num_rows(c)),
            in.index};
        this->groups.backward(
            q, c, user, rows,
            [&](auto const& weights, auto const& gradients, ops::GroupMask accumulate) {
                if constexpr (RecomputableExpert<typename Base::Routed, B>)
                    if (s.shape.recompute) recompute(q, weights, in, kept);
                this->expert.backward_grouped(q, weights, gradients, accumulate, rows);
            });
    }
    void recompute(B& q, ops::Group<std::byte const> const& weights,
                   IndexedRows<T const, space_of<B>> const& in,
                   MatrixView<T, space_of<B>> saved) requires
        RecomputableExpert<typename Base::Routed, B> {
        auto const scratch = s.views.scratch.row_range(0, in.rows());
        if constexpr (HasIndexedRows<typename Base::Routed, B>)
            this->expert.recompute_grouped(q, weights, in, saved, scratch);
        else
            this->expert.recompute_grouped(q, weights, in.all, saved, scratch);
    }
    void combine(B& q, index_t c) {
        this->pass(2, c);
        auto const span = this->tracer.span(q, "combine backward", this->queue_name(q), c);
        auto const rows = s.by_row(s.views.d_rows, c);
        bool const local = this->exchange(c).is_local();
        auto const slots = local ? rows : s.by_slot(s.views.d_slots, c);
        this->exchange(c).to_tokens(q, rows, slots, s.views.exchange_staging);
        TokenBase<accumulate_t<T>, space_of<B>> base;
        if (s.has_base) base.rows = of_tokens(s.views.base, c);
        dispatch_backward(q, slots, this->slot_of(c), base, of_tokens(dx, c));
    }
};

} // namespace semoe::detail
