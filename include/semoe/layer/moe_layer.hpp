#pragma once

#include "semoe/comm/self.hpp"
#include "semoe/core/trace.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/layer/context.hpp"
#include "semoe/layer/context_shape.hpp"
#include "semoe/layer/dense.hpp"
#include "semoe/layer/gradient_norm.hpp"
#include "semoe/layer/route.hpp"
#include "semoe/layer/stages.hpp"
#include "semoe/layer/update.hpp"
#include "semoe/ops/activation.hpp"
#include "semoe/ops/row_dots.hpp"
#include "semoe/ops/worker_scratch.hpp"
#include "semoe/optim/concept.hpp"
#include "semoe/routing/placement.hpp"
#include "semoe/schedule/sequential.hpp"
#include "semoe/tier/resident.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

namespace semoe {

/// A Mixture-of-Experts layer, y[t] = sum over the chosen experts e of weight[t,e] * expert_e(x[t])
/// plus, where there is one, a shared expert: composed at compile time from a backend, a gate, an
/// expert, a communicator, a memory tier, a schedule and a tracer.
///
/// The layer owns its gate and expert; backend, communicator and tier are shared handles. Its
/// parameters are blocks of the tier. Everything that a forward leaves for backward lies in a
/// context, so on one rank several host threads may run inference on one layer, each with its own
/// context. With several ranks every call below is collective unless it says otherwise.
///
/// Element type T of x and y is X::value_type; logits, weights, gradients and the router are
/// Real = accumulate_t<T>.
template <class B, class G, class X, class C = comm::Self, class M = tier::Resident<B>,
          class Sch = schedule::Sequential, class Tr = trace::Null>
class MoeLayer {
    static_assert(HasMemory<B>,
                  "MoeLayer: Backend lacks allocate/deallocate/copy (see backend/concept.hpp)");
    static_assert(HasQueue<B>,
                  "MoeLayer: Backend lacks record/wait/synchronize/fork (see backend/concept.hpp)");
    static_assert(HasParallelFor<B>,
                  "MoeLayer: Backend lacks parallel_for(n, functor) (see backend/concept.hpp)");
    static_assert(
        HasExpertShape<X>,
        "MoeLayer: Expert lacks hidden, or a value_type that is double, float, f16 or bf16 "
        "(see expert/concept.hpp)");
    static_assert(HasExpertLayout<X, B>, "MoeLayer: Expert lacks layout(backend), saved_columns() "
                                         "or scratch_columns() (see expert/concept.hpp)");
    static_assert(HasForwardGrouped<X, B>, "MoeLayer: Expert lacks forward_grouped(backend, "
                                           "weights, rows) (see expert/concept.hpp)");
    static_assert(HasNumExperts<G>,
                  "MoeLayer: Gate lacks the member num_experts (see gate/concept.hpp)");
    static_assert(HasSlotsPerToken<G>, "MoeLayer: Gate lacks the member top_k or "
                                       "slots_per_token() (see gate/concept.hpp)");
    static_assert(HasGateForward<G, B, accumulate_t<typename X::value_type>>,
                  "MoeLayer: Gate lacks forward(backend, RouteInput, Assignment) for the layer's "
                  "type of logits (see gate/concept.hpp)");
    static_assert(HasRanks<C>,
                  "MoeLayer: Communicator lacks rank/size/topology (see comm/concept.hpp)");
    static_assert(
        HasExchangeCounts<C>,
        "MoeLayer: Communicator lacks exchange_counts(send, recv) (see comm/concept.hpp)");
    static_assert(HasAllToAll<C, B>, "MoeLayer: Communicator lacks all_to_all_rows returning a "
                                     "Ticket (see comm/concept.hpp)");
    static_assert(HasReductions<C, B>, "MoeLayer: Communicator lacks all_gather, all_reduce_sum or "
                                       "reduce_scatter_sum (see comm/concept.hpp)");
    static_assert(HasBlocks<M, B>, "MoeLayer: MemoryTier lacks declare/contains/info/resident/"
                                   "max_pinned/counters (see tier/concept.hpp)");
    static_assert(HasAcquire<M, B>, "MoeLayer: MemoryTier lacks acquire(backend, key, access) "
                                    "returning a Lease (see tier/concept.hpp)");
    static_assert(HasPrefetch<M, B>, "MoeLayer: MemoryTier lacks a noexcept prefetch(backend, "
                                     "upcoming) (see tier/concept.hpp)");
    static_assert(HasFlush<M, B>,
                  "MoeLayer: MemoryTier lacks flush(backend) (see tier/concept.hpp)");
    static_assert(
        Schedule<Sch>,
        "MoeLayer: Schedule lacks chunks or run(stages) const (see schedule/concept.hpp)");
    static_assert(trace::Tracer<Tr>,
                  "MoeLayer: Tracer lacks span(name, queue) or span(backend, name, queue, chunk) "
                  "(see core/trace.hpp)");

    using State = detail::ContextState<B, typename X::value_type, C>;
    static constexpr bool trainable_gate =
        DifferentiableGate<G, B, accumulate_t<typename X::value_type>> && gate_trains<G>();
    static constexpr bool trainable_experts = DifferentiableExpert<X, B> && [] {
        if constexpr (HasSharedExpert<X>)
            return DifferentiableExpert<std::remove_cvref_t<decltype(std::declval<X>().shared)>, B>;
        else
            return true;
    }();

public:
    using value_type = typename X::value_type;
    using T = value_type;
    using Real = accumulate_t<T>;
    using space = space_of<B>;
    using Context = MoeContext<B, T, C>;
    static constexpr bool trainable = trainable_gate && trainable_experts;

    /// @throws precondition_error naming a value that is out of range, store_error when the tier
    ///         holds blocks of another size or layout
    /// @cost declares 1 + local experts (+ 1 shared) blocks
    MoeLayer(B backend, G gate, X expert, C comm, M tier, Sch schedule, MoeConfig config = {},
             Tr tracer = {})
      : backend_(std::move(backend))
      , gate_(checked(std::move(gate)))
      , expert_(checked_expert(std::move(expert)))
      , comm_(std::move(comm))
      , schedule_(checked_schedule(schedule))
      , tracer_(std::move(tracer))
      , config_(checked_config(config))
      , placement_(Placement::contiguous(index_t(gate_.num_experts), comm_.size()))
      , blocks_(backend_, expert_, std::move(tier), config_.layer, index_t(gate_.num_experts),
                local_of(placement_, comm_.rank()))
      , shape_(detail::layer_shape(backend_, gate_, expert_, comm_, schedule_, config_,
                                   blocks_.layout(router_block), blocks_.layout(shared_block)))
      , norm_(backend_, index_t(gate_.num_experts), blocks_.largest_primary()) {}
    MoeLayer(B backend, G gate, X expert, C comm, M tier, MoeConfig config = {})
      : MoeLayer(backend, std::move(gate), std::move(expert), std::move(comm), std::move(tier),
                 Sch{}, config) {}
    MoeLayer(B backend, G gate, X expert, C comm, MoeConfig config = {})
      : MoeLayer(backend, std::move(gate), std::move(expert), std::move(comm), M{backend}, Sch{},
                 config) {}
    MoeLayer(B backend, G gate, X expert, MoeConfig config = {})
      : MoeLayer(backend, std::move(gate), std::move(expert), C{}, M{backend}, Sch{}, config) {}

    B& backend() { return backend_; }
    G const& gate() const { return gate_; }
    X const& expert() const { return expert_; }
    C& comm() { return comm_; }
    M& tier() { return blocks_.tier(); }
    Tr& tracer() { return tracer_; }
    MoeConfig const& config() const { return config_; }
    index_t hidden() const { return index_t(expert_.hidden); }
    index_t num_experts() const { return index_t(gate_.num_experts); }
    /// Expert numbers of this rank, rising.
    std::vector<expert_id> const& local_experts() const { return blocks_.local_experts(); }

    /// Backend memory that make_context would take for this many tokens. Collective.
    /// @cost one exchange of counts with several ranks
    index_t workspace_bytes(index_t max_tokens, Mode mode = Mode::inference) {
        return State::measure(shape_of(max_tokens, mode));
    }
    /// A context for forwards of at most max_tokens tokens on this rank. Collective. Layers of one
    /// gate, expert, capacity and schedule may take turns with it.
    /// @throws precondition_error for negative max_tokens, for training with a gate or expert that
    ///         has no backward, and on every rank where gate, expert, schedule or configuration
    ///         differ between ranks, naming what does
    /// @cost workspace_bytes(max_tokens, mode) bytes and a few host arrays: the only allocations
    Context make_context(index_t max_tokens, Mode mode = Mode::inference) {
        if (mode == Mode::training) {
            expects(detail::has_float_weights<X>,
                    "MoeLayer: quantised experts are for inference: train a layer of floats and "
                    "quantise it (see layer/quantize.hpp)");
            expects(trainable_gate, "MoeLayer: the gate lacks backward or says that it does not "
                                    "train, so a training context cannot be made (see "
                                    "DifferentiableGate, gate_trains)");
            expects(trainable_experts, "MoeLayer: the expert, or the shared one beside it, lacks "
                                       "backward, so a training context cannot be made (see "
                                       "DifferentiableExpert)");
            blocks_.declare_gradients(backend_);
        }
        ops::reserve_worker_scratch(backend_, worker_scratch_bytes());
        return Context(backend_, comm_, placement_, shape_of(max_tokens, mode));
    }

    /// y = the layer of x.
    /// @param x  [T,H] backend memory, ld free, T <= the context's max_tokens; in training x must
    ///           stay as it is until backward
    /// @param y  [T,H] backend memory, overwritten; masked rows become 0
    /// @post context.losses and context.counters cover this forward on all ranks
    /// @throws precondition_error on shapes; data_error on every rank, naming rank and token, when
    ///         a logit is not finite, or the gate's choices are out of range, repeated, of masked
    ///         tokens or have a weight that is not finite; comm_error; store_error. Nothing works
    ///         on x and y any more then
    /// @sync waits once on the host for the counts; y is complete when the queue gets there
    /// @cost 2*T*H*E flops of router, the expert's flops for each kept choice, no allocation; with
    ///       several ranks two exchanges of counts, two all-to-alls a chunk, one all-reduce
    void forward(MatrixView<T const, space> x, MatrixView<T, space> y, Context& context,
                 ForwardOptions<space> options = {}) {
        expect_memory("y", y);
        auto& s = begin(x, y, context, options, false);
        settled(s, [&] {
            route(x, s, dense().acquire_router());
            finish_forward(context);
        });
    }
    /// Asks the router ahead of time which experts tokens will choose, so that a tier that takes
    /// guesses (Sequenced) has their blocks under way when this layer begins: call it with the
    /// hidden state that an earlier layer is about to work on. Changes no result. Collective.
    /// @param x        [T,H] backend memory, T <= the context's max_tokens
    /// @param context  holds no forward afterwards
    /// @throws as forward
    /// @sync waits once on the host for the counts @cost the routing part of forward
    void predict(MatrixView<T const, space> x, Context& context,
                 ForwardOptions<space> options = {}) {
        static_assert(HasPrediction<M, B>,
                      "MoeLayer::predict: MemoryTier lacks acquire_aside or a noexcept "
                      "predict(layer, blocks); wrap it in Sequenced "
                      "(see layer/sequence.hpp)");
        auto& s = begin(x, {nullptr, x.rows, x.cols}, context, options, false);
        settled(s, [&] {
            auto const key = blocks_.key(router_block, BlockKind::weight);
            route(x, s, blocks_.tier().acquire_aside(backend_, key, Access::read));
            detail::make_plans(backend_, s);
        });
        detail::ExpertGroups<B, X, M, T, C>{blocks_, s}.predict();
    }

    /// As forward, for those with a router of their own; gate and router take no part.
    /// @param topk_ids      [T,K] backend memory, K = slots_per_token(gate), distinct in a row, -1
    ///                      chooses nobody
    /// @param topk_weights  [T,K] backend memory, finite where the id is not -1
    /// @throws as forward: data_error for an id that is out of range or repeated, and for a weight
    ///         that is not finite; precondition_error for more rows of an expert than the gate
    ///         promises (max_rows_per_expert)
    /// @sync as forward @cost as forward, without the router
    /// @post context.counters covers this forward on all ranks; its entropy and context.losses,
    ///       which are of a gate, are zero; after backward, context.weight_gradients() is [T,K]
    void forward_routed(MatrixView<T const, space> x, MatrixView<expert_id const, space> topk_ids,
                        MatrixView<Real const, space> topk_weights, MatrixView<T, space> y,
                        Context& context, ForwardOptions<space> options = {}) {
        expect_choices("topk_ids", topk_ids, x.rows);
        expect_choices("topk_weights", topk_weights, x.rows);
        expect_memory("y", y);
        auto& s = begin(x, y, context, options, true);
        settled(s, [&] {
            ops::fill(backend_, s.views.status.part(0, 1), index_t(-1));
            check_routing(topk_ids, topk_weights, Masked::anything, s);
            backend_.parallel_for(
                s.num_tokens, detail::AdoptRow<Real, space>{topk_ids, topk_weights, options.mask,
                                                            s.assignment().topk_ids,
                                                            s.assignment().topk_weights});
            detail::gather_statistics<G>(backend_, comm_, nullptr, s);
            detail::limit_capacity(backend_, comm_, config_, s);
            finish_forward(context);
        });
    }

    /// Gradients of the forward that `context` holds.
    /// @param dy  [T,H] backend memory
    /// @param dx  [T,H] backend memory, overwritten
    /// @post parameter gradients have been added to; those of router and shared expert are summed
    ///       over ranks
    /// @throws precondition_error without a forward in a training context; after any error
    ///         midway the layer refuses further use until reset_after_error() or initialize()
    /// @sync enqueues; with several ranks it communicates
    /// @cost twice forward's flops, no allocation; with several ranks two all-to-alls a chunk and
    ///       one all-reduce of router and shared gradients
    void backward(MatrixView<T const, space> dy, MatrixView<T, space> dx, Context& context,
                  BackwardOptions options = {}) {
        run_backward(dy, dx, context, options, nullptr, [](auto&) {});
    }
    /// backward and update with step.zero_grad in one, with the same bits: an expert is updated as
    /// soon as its gradient is complete. With one chunk no more experts have gradients at a time
    /// than are computed together, so that a tier needs few slots for them and stores none; between
    /// chunks an expert that has rows in both keeps its own. Experts that HandsOverGradients are
    /// updated where these are computed, so they never go to memory. There is no global norm to
    /// clip by, since it would need all gradients first, and nothing is accumulated.
    /// @param dy, dx, context, options  as for backward
    /// @param optimizer, step           as for update; step.zero_grad counts as set
    /// @post no block has a gradient
    /// @throws as backward and update; precondition_error when a block has a gradient already
    /// @sync enqueues, as backward @cost that of both
    template <class O>
    void backward_and_update(MatrixView<T const, space> dy, MatrixView<T, space> dx,
                             Context& context, O const& optimizer, UpdateStep step,
                             BackwardOptions options = {}) {
        require_optimizer<O>();
        expect_usable();
        for (expert_id id : blocks_.ids())
            expects(!blocks_.has_gradient(id), [&] {
                return "MoeLayer::backward_and_update: there is a gradient already in " +
                       to_string(blocks_.key(id, BlockKind::gradient)) +
                       "; to accumulate, call backward, then update";
            });
        step.zero_grad = true;
        expect_step(optimizer, step);
        blocks_.template declare_states<O>(backend_, true);
        auto const one = update_with(optimizer, step);
        detail::UpdateInBackward updates(one);
        run_backward(dy, dx, context, options, &updates,
                     [&](auto& groups) { groups.for_each_other(one); });
    }

    /// Draws every weight from (seed, layer, expert, slice, element), whatever the ranks; no block
    /// has a gradient afterwards, and moments are zero.
    /// @throws as overwrite_weights @sync enqueues
    void initialize(std::uint64_t seed) {
        overwrite_weights([&] {
            for (expert_id id : blocks_.ids()) initialize_block(id, seed);
            blocks_.clear_moments(backend_);
        });
    }
    /// write(), which sets every weight through the tier, then weights_changed(); gradients are
    /// forgotten.
    /// @throws what write throws; the layer is then as after a step that failed midway
    template <class F>
    void overwrite_weights(F&& write) {
        unusable_ = true;
        write();
        weights_changed();
    }
    /// Lets the layer be used again after a step that failed midway. Parameters are whatever that
    /// step left, so load them anew first; no block has a gradient.
    void reset_after_error() {
        if (unusable_) zero_grad();
        unusable_ = false;
    }
    /// @throws precondition_error after a step, or a writing for_each_parameter, that failed midway
    void expect_usable() const {
        expects(!unusable_, "MoeLayer: an earlier step failed midway; load the parameters again, "
                            "then call reset_after_error()");
    }

    /// Calls f(name, view, shape) for every parameter on this rank, in a fixed order; view is a
    /// MatrixView in backend memory: T for weights of experts, Real for the router and for every
    /// other kind. Names: "router.weight", "experts.3.gate_proj", "shared.up_proj"; of moments,
    /// with ".0", ".1" behind, or "experts.3.packed" [1, numbers] where an optimizer packs them.
    /// @param access  write: f may change values through the queue (then call weights_changed())
    /// @throws what f throws; where it was to write other than gradients, the layer is then as
    ///         after a step that failed midway
    /// @sync enqueues what f enqueues; with a tier of few slots it moves blocks
    template <class F>
    void for_each_parameter(F&& f, BlockKind kind = BlockKind::weight,
                            Access access = Access::read) {
        auto const visit = [&] {
            for (expert_id id : blocks_.ids()) {
                if (kind == BlockKind::gradient) materialise_gradient(id);
                blocks_.visit_block(backend_, id, kind, access, f);
                if (kind == BlockKind::gradient && access != Access::read)
                    blocks_.set_gradient(id, true);
            }
        };
        if (access == Access::read || kind == BlockKind::gradient)
            visit();
        else
            guarded(visit);
    }
    /// The blocks of a kind on this rank, in the order in which forward needs them first. States
    /// exist once an optimizer has stepped.
    std::vector<BlockKey> block_keys(BlockKind kind = BlockKind::weight) const {
        std::vector<BlockKey> keys;
        for (expert_id id : blocks_.ids())
            if (kind != BlockKind::master || blocks_.has_master(id))
                keys.push_back(blocks_.key(id, kind));
        return keys;
    }
    /// After weights were set from outside: renews derived slices and masters. Moments stay; so do
    /// gradients, but after a step that failed midway.
    /// @param masters_too  false when the masters were set as well
    /// @throws what the tier does; the layer is then as after a step that failed midway
    void weights_changed(bool masters_too = true) {
        if (unusable_) zero_grad();
        unusable_ = true;
        for (expert_id id : blocks_.ids()) detail::rebuild_derived(backend_, blocks_, expert_, id);
        if (masters_too) blocks_.refresh_masters(backend_);
        unusable_ = false;
    }

    /// Forgets all gradients. @cost no memory traffic: the next gradient is written, not added
    void zero_grad() { blocks_.clear_gradients(); }

    /// The squared Euclidean norm of all gradients, those of all ranks' experts and, once, of
    /// router and shared expert. The same bits on every rank.
    /// @sync waits on the host; with several ranks one all-reduce of E doubles
    double grad_norm_squared() { return norm_.squared(backend_, blocks_, comm_); }

    /// One optimizer step over every block of this rank. Experts without a gradient are updated
    /// with zeros unless config().skip_untouched. The first call declares masters and moments. With
    /// step.zero_grad no block has a gradient afterwards, else all keep theirs.
    /// @throws precondition_error after a failed step, or for an optimizer with other moments than
    ///         before, in number or form
    /// @sync enqueues @cost reads and writes each block once; allocates at the first call alone
    template <class O>
    void update(O const& optimizer, UpdateStep step) {
        require_optimizer<O>();
        expect_usable();
        expect_step(optimizer, step);
        blocks_.template declare_states<O>(backend_, true);
        guarded([&] {
            blocks_.announce_update(backend_);
            auto const update_one = update_with(optimizer, step);
            for (expert_id id : blocks_.ids()) update_one(id);
        });
    }
    /// Declares masters and moments now, so that the first update allocates nothing.
    /// @param fresh  false: masters are as the tier's store has them from an earlier process; else
    ///               they are made from the weights. Moments are as the store has them; zero where
    ///               it has none, and after initialize()
    /// @pre  fresh, or an earlier process flushed masters to that store: where it has none they are
    ///       zeros, which the first update makes the weights
    template <class O>
    void prepare(O const&, bool fresh = true) {
        require_optimizer<O>();
        blocks_.template declare_states<O>(backend_, fresh);
    }
    /// Moments in a block per parameter; 0 before the first update.
    int moments_per_element() const { return blocks_.moments_per_element(); }
    /// Whether moments are in the optimizer's own form: see HasPackedMoments.
    bool has_packed_moments() const { return blocks_.has_packed_moments(); }
    bool has_masters() const { return needs_master<T> && blocks_.has_states(); }

private:
    /// False where the activation is why the expert has no backward; one that trains may have a
    /// member of that name, whatever it is.
    static constexpr bool activation_trains = [] {
        using Routed = detail::RoutedPart<X>;
        constexpr bool has_one = requires(Routed const& x) { x.activation; };
        if constexpr (!DifferentiableExpert<Routed, B> && has_one)
            return DifferentiableActivation<decltype(Routed::activation)>;
        else
            return true;
    }();

    static G checked(G gate) {
        validate_gate(gate);
        return gate;
    }
    static X checked_expert(X expert) {
        expects(index_t(expert.hidden) >= 1, "MoeLayer: the expert's hidden must be at least 1");
        if constexpr (requires { expert.validate(); }) expert.validate();
        return expert;
    }
    static Sch checked_schedule(Sch schedule) {
        if constexpr (requires { schedule.validate(); }) schedule.validate();
        index_t const chunks = schedule.chunks;
        expects(chunks >= 1, "MoeLayer: the schedule's chunks is {}, must be at least 1", chunks);
        return schedule;
    }
    static MoeConfig checked_config(MoeConfig config) {
        config.validate();
        if constexpr (!RecomputableExpert<detail::RoutedPart<X>, B>)
            expects(!config.recompute, "MoeConfig: recompute needs an expert with "
                                       "recompute_grouped (see RecomputableExpert)");
        return config;
    }
    static std::vector<expert_id> local_of(Placement const& placement, int rank) {
        auto const own = placement.experts_of(rank);
        return {own.begin(), own.end()};
    }

    ContextShape shape_of(index_t max_tokens, Mode mode) {
        return detail::context_shape<T, B>(shape_, blocks_.layout(0), config_, max_tokens, mode,
                                           gate_, comm_, placement_);
    }
    /// @throws precondition_error when another layer's context would not do for this one
    void expect_own(ContextShape const& n) const {
        bool const fits =
            static_cast<LayerShape const&>(n) == shape_ && detail::fits_gate(n, gate_);
        expects(fits, [&] {
            return message("MoeLayer: the context was made by another layer, of {} experts, {} "
                           "choices a token and {} numbers a token, this one has {}, {} and {}; "
                           "layers may share one if expert, gate, capacity, chunks and ranks are "
                           "the same, too",
                           n.num_experts, n.num_slots, n.hidden, shape_.num_experts,
                           shape_.num_slots, shape_.hidden);
        });
    }

    std::size_t worker_scratch_bytes() const {
        auto const wanted = [&](auto const& x) -> std::size_t {
            if constexpr (HasWorkerScratch<std::remove_cvref_t<decltype(x)>, B>)
                return x.worker_scratch_bytes(backend_);
            else
                return 0;
        };
        std::size_t bytes = wanted(detail::routed_part(expert_));
        if constexpr (HasSharedExpert<X>) bytes = std::max(bytes, wanted(expert_.shared));
        return bytes;
    }
    template <class E>
    void expect_shape(char const* name, MatrixView<E, space> m, index_t rows) const {
        expects(m.rows >= 0, "MoeLayer: {} has {} rows, must not be negative", name, m.rows);
        expects(m.rows == rows && m.cols == hidden() && m.ld >= m.cols,
                "MoeLayer: {} must be [{},{}] with an ld of at least {}, is {} with ld {}", name,
                rows, hidden(), hidden(), m, m.ld);
    }
    template <class E>
    static void expect_memory(char const* name, MatrixView<E, space> m) {
        expects(m.data || m.rows == 0, "MoeLayer: {} is {} without an address", name, m);
    }
    template <class E>
    void expect_choices(char const* name, MatrixView<E, space> m, index_t rows) const {
        index_t const K = slots_per_token(gate_);
        expects(m.rows == rows && m.cols == K && m.ld >= K,
                "MoeLayer::forward_routed: {} must be [{},{}] with an ld of at least {}, is {} "
                "with ld {}",
                name, rows, K, K, m, m.ld);
        expect_memory(name, m);
    }
    void initialize_block(expert_id id, std::uint64_t seed) {
        auto lease = blocks_.acquire(backend_, id, BlockKind::weight, Access::overwrite);
        BlockKey const key = blocks_.key(id, BlockKind::weight);
        if constexpr (has_own_weights<detail::RoutedPart<X>>)
            if (id >= 0)
                return detail::routed_part(expert_).initialize(backend_, seed, key, lease.bytes());
        if constexpr (detail::shared_has_own_weights<X>)
            if (id == shared_block)
                return expert_.shared.initialize(backend_, seed, key, lease.bytes());
        if (blocks_.is_real(id))
            expert::initialize<Real>(backend_, blocks_.layout(id), seed, key, lease.bytes());
        else
            expert::initialize<T>(backend_, blocks_.layout(id), seed, key, lease.bytes());
    }
    /// Work that leaves the layer unusable when it fails midway.
    template <class F>
    void guarded(F&& work) {
        bool const before = std::exchange(unusable_, true);
        work();
        unusable_ = before;
    }

    State& begin(MatrixView<T const, space> x, MatrixView<T, space> y, Context& context,
                 ForwardOptions<space> const& options, bool routed_outside) {
        auto& s = context.state_;
        expect_usable();
        expect_own(s.shape);
        expect_shape("x", x, x.rows);
        expect_memory("x", x);
        expect_shape("y", y, x.rows);
        expects(x.rows <= s.shape.max_tokens, "MoeLayer: {} tokens in a context made for {}",
                x.rows, s.shape.max_tokens);
        expects(options.mask.empty() || options.mask.size == x.rows,
                "MoeLayer: a mask of {} for {} tokens", options.mask.size, x.rows);
        expects(options.mask.empty() || options.mask.data,
                "MoeLayer: a mask of {} without an address", options.mask.size);
        expects(options.token_ids.empty() || options.token_ids.size == x.rows,
                "MoeLayer: token_ids of {} for {} tokens", options.token_ids.size, x.rows);
        expects(options.token_ids.empty() || options.token_ids.data,
                "MoeLayer: token_ids of {} without an address", options.token_ids.size);
        s.begin(comm_, x, y, options, routed_outside);
        s.layer = config_.layer;
        s.owner = identity_;
        detail::keep_masked(backend_, s);
        return s;
    }
    /// @param router  held until the logits are there
    template <class Lease>
    void route(MatrixView<T const, space> x, State& s, Lease router) {
        auto const span = tracer_.span(backend_, "route", "compute");
        auto const logits = s.views.logits.row_range(0, s.num_tokens);
        ops::row_dots(backend_, x, dense().router(router), logits);
        { Lease const done = std::move(router); }
        check_logits(backend_, logits, s.options.mask, s.views.status.part(0, 1),
                     s.views.check_scratch);
        detail::run_gate(backend_, gate_, comm_, config_, s);
        check_routing(s.assignment().topk_ids, s.assignment().topk_weights, Masked::nobody, s);
        detail::gather_statistics<G>(backend_, comm_, logits.data, s);
        detail::limit_capacity(backend_, comm_, config_, s);
    }
    void check_routing(MatrixView<expert_id const, space> ids,
                       MatrixView<Real const, space> weights, Masked masked, State& s) {
        check_choices(backend_, ids, weights, num_experts(), s.views.status.part(1, 1),
                      s.views.check_scratch, s.options.mask, masked);
    }
    /// Work on the caller's matrices, of which nothing goes on after an error.
    template <class F>
    void settled(State& s, F&& work) {
        try {
            work();
        } catch (...) {
            s.settle(backend_);
            throw;
        }
    }
    void finish_forward(Context& context) {
        auto& s = context.state_;
        detail::make_plans(backend_, s);
        context.count();
        if constexpr (HasSharedExpert<X>) dense().forward_shared(s);
        detail::ForwardStages<B, X, M, T, C, Tr> stages{
            {backend_, detail::routed_part(expert_), {blocks_, s}, s, tracer_}};
        stages.groups.announce(backend_, false);
        stages.begin();
        schedule_.run(stages);
        stages.expect_all();
        s.complete = true;
    }

    detail::DenseParts<B, X, M, C> dense() {
        return {backend_, expert_, comm_, blocks_, num_experts()};
    }
    template <class O>
    detail::LayerUpdate<B, X, M, O> update_with(O const& optimizer, UpdateStep const& step) {
        return {backend_, blocks_, expert_, optimizer, step, config_.skip_untouched};
    }
    template <class O>
    static void require_optimizer() {
        static_assert(Optimizer<O, B>,
                      "MoeLayer::update: Optimizer lacks moments_per_element or "
                      "update(backend, block, step) const (see optim/concept.hpp)");
        static_assert(detail::has_float_weights<X>,
                      "MoeLayer::update: quantised experts are for inference: train a "
                      "layer of floats and quantise it (see layer/quantize.hpp)");
    }
    /// What an optimizer refuses, it refuses before anything has changed.
    template <class O>
    static void expect_step(O const& optimizer, UpdateStep const& step) {
        if constexpr (requires { optimizer.validate(step); }) optimizer.validate(step);
    }
    /// @param user      of the experts' gradients; or null
    /// @param finish    called at last with the groups of experts
    template <class F>
    void run_backward(MatrixView<T const, space> dy, MatrixView<T, space> dx, Context& context,
                      BackwardOptions const& options, detail::GradientUser<B, T>* user,
                      F const& finish) {
        static_assert(DifferentiableGate<G, B, Real>,
                      "MoeLayer::backward: Gate lacks backward(backend, input, chosen, d_weights, "
                      "d_logits) (see gate/concept.hpp)");
        static_assert(gate_trains<G>(),
                      "MoeLayer::backward: Gate says that it does not train, by trainable; in "
                      "gate::TopK Score lacks d_weight (see gate/concept.hpp)");
        static_assert(detail::has_float_weights<X>,
                      "MoeLayer::backward: quantised experts are for inference: train a "
                      "layer of floats and quantise it (see layer/quantize.hpp)");
        static_assert(activation_trains,
                      "MoeLayer::backward: the expert's activation lacks float derivative(float) "
                      "const (see ops/activation.hpp)");
        // What is at fault, above.
        constexpr bool named =
            !trainable_gate || !detail::has_float_weights<X> || !activation_trains;
        static_assert(trainable || named,
                      "MoeLayer::backward: Expert, or the shared expert beside it, lacks "
                      "backward_grouped(backend, weights, gradients, accumulate, rows) or "
                      "backward_scratch_columns() (see expert/concept.hpp)");
        auto& s = context.state_;
        expect_usable();
        expect_own(s.shape);
        expects(s.shape.training, "MoeLayer::backward: the context was made for inference; give "
                                  "make_context Mode::training");
        expects(s.complete, "MoeLayer::backward: the context holds no forward");
        expects(s.owner == identity_,
                "MoeLayer::backward: the context holds a forward of layer {}, this is {} {}",
                s.layer, s.layer == config_.layer ? "another of the number" : "layer",
                config_.layer);
        expects(std::isfinite(options.loss_scale),
                "MoeLayer::backward: loss_scale is {}, must be finite", options.loss_scale);
        expect_shape("dy", dy, s.num_tokens);
        expect_memory("dy", dy);
        expect_shape("dx", dx, s.num_tokens);
        expect_memory("dx", dx);
        blocks_.declare_gradients(backend_); // the context may be another layer's
        s.complete = false;
        guarded([&] {
            settled(s, [&] {
                detail::split_gradient(backend_, dy, s);
                s.has_base = false;
                auto const parts = dense();
                if constexpr (HasSharedExpert<X>) parts.backward_shared(dy, s);
                if (!s.routed_outside)
                    detail::logit_gradient(backend_, gate_, config_, options.loss_scale, s);
                if (!s.routed_outside || parts.sigmoid_gate()) parts.backward_router(s);
                detail::BackwardStages<B, X, M, T, C, Tr> stages{
                    {backend_, detail::routed_part(expert_), {blocks_, s}, s, tracer_}, dx, user};
                stages.groups.announce(backend_, true, user != nullptr);
                stages.begin();
                schedule_.run(stages);
                stages.expect_all();
                finish(stages.groups);
            });
        });
    }
    /// Zeros in a gradient block where none was computed; the block still counts as without one.
    void materialise_gradient(expert_id id) {
        blocks_.declare_gradients(backend_);
        if (blocks_.has_gradient(id)) return;
        auto lease = blocks_.acquire_gradient(backend_, id);
        ops::fill(backend_, view_as<Real>(lease.bytes()), Real(0));
    }
    B backend_;
    G gate_;
    X expert_;
    C comm_;
    Sch schedule_;
    Tr tracer_;
    MoeConfig config_;
    std::uint64_t identity_ = detail::next_layer_identity();
    Placement placement_;
    detail::LayerBlocks<B, X, M> blocks_;
    LayerShape shape_;
    detail::GradientNorm<B> norm_;
    bool unusable_ = false;
};

/// One optimizer step over a layer's blocks; see MoeLayer::update.
template <class L, class O>
void train_step(L& layer, O const& optimizer, UpdateStep step) {
    layer.update(optimizer, step);
}

} // namespace semoe
