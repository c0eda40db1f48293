#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/dispatch/count_exchange.hpp"
#include "semoe/dispatch/exchange.hpp"
#include "semoe/layer/config.hpp"
#include "semoe/layer/context_views.hpp"
#include "semoe/ops/group.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace semoe {

/// Unscaled losses of one forward over all its chunks and ranks; see routing/balance.hpp.
struct RouterLosses {
    double aux_loss = 0; ///< load balance, 1 at perfect balance
    double z_loss = 0;
    double mutual_information = 0; ///< of tokens and experts, negated: 0 to -ln E
};
/// What one forward did, over all its chunks and ranks.
struct LayerCounters {
    std::vector<index_t> tokens_per_expert; ///< [E], kept choices
    index_t num_tokens = 0;                 ///< unmasked
    index_t dropped = 0;                    ///< choices that capacity refused
    double entropy = 0;                     ///< mean over tokens of the routing entropy, nats
};

namespace detail {

/// Tells layers of one number apart; a layer that is moved keeps its own.
inline std::uint64_t next_layer_identity() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

/// All that one forward leaves behind. Sized when the context is made; a step only overwrites.
template <class B, class T, class C>
struct ContextState {
    using S = space_of<B>;
    using Real = accumulate_t<T>;

    ContextShape shape;
    Workspace<B> memory;
    ContextViews<B, T> views;
    std::optional<B> wire; // a queue for messages, where the schedule has chunks
    CountExchange<C> counts;
    std::vector<Exchange<B, C>> exchanges;  // one a chunk
    std::vector<index_t> slot_begin;        // [chunks+1], where a chunk's slots begin
    std::vector<index_t> row_begin;         // [chunks+1], where a chunk's expert rows begin
    std::vector<index_t> batch_send, batch; // [2P] tokens of every rank
    std::vector<double> balance;            // host copy of views.balance
    std::vector<BlockKey> upcoming;         // what the tier is told
    std::vector<index_t> expert_order;      // local experts with rows, chunk after chunk
    std::vector<char> expert_distance;      // how far from its slot each local expert's block is
    std::vector<std::size_t> order_end;     // [chunks], where a chunk's part of it ends
    std::vector<int> stages_run;            // [chunks], stages that the schedule has run
    std::array<index_t, 2> status = {};     // host copy of views.status

    MatrixView<T const, S> x;
    MatrixView<T const, S> dense_x; // what every token passes through: router, shared expert
    MatrixView<T, S> y;
    layer_id layer = 0; // whose forward this is
    std::uint64_t owner = 0;
    ForwardOptions<S> options;
    index_t num_tokens = 0, first_token = 0;
    bool routed_outside = false; // forward_routed
    bool has_base = false;       // backward: views.base holds gradients of router or shared
    bool complete = false;       // there is a forward for backward to follow

    ContextState(B& b, C& comm, Placement const& placement, ContextShape const& n)
      : shape(n)
      , memory(b, measure(n))
      , counts(comm, n.num_chunks, n.num_experts)
      , exchanges(std::size_t(n.num_chunks), Exchange<B, C>(comm, placement))
      , slot_begin(std::size_t(n.num_chunks) + 1)
      , row_begin(std::size_t(n.num_chunks) + 1)
      , batch_send(std::size_t(n.num_ranks))
      , batch(std::size_t(n.num_ranks))
      , balance(std::size_t(RouterStatistics{n.num_experts}.size()))
      , stages_run(std::size_t(n.num_chunks)) {
        auto arena = memory.arena();
        views.carve(arena, n);
        if (n.num_chunks > 1) wire.emplace(b.fork());
        // A chunk's weights and gradients, and once what an update acquires, of dense blocks, too.
        upcoming.reserve(
            std::size_t(n.num_chunks * n.num_experts * 2 + (n.num_experts + 2) * num_block_kinds));
        expert_order.reserve(std::size_t(n.num_chunks * n.num_experts));
        expert_distance.resize(std::size_t(n.num_experts));
        order_end.resize(std::size_t(n.num_chunks));
    }
    static index_t measure(ContextShape const& n) {
        Arena<S> counter;
        ContextViews<B, T>{}.carve(counter, n);
        return counter.used();
    }

    /// Starts a forward. Collective: with several ranks all learn each other's tokens.
    void begin(C& comm, MatrixView<T const, S> in, MatrixView<T, S> out,
               ForwardOptions<S> const& given, bool outside) {
        complete = false;
        x = dense_x = in;
        y = out;
        options = given;
        num_tokens = in.rows;
        first_token = 0;
        routed_outside = outside;
        if (comm.size() == 1) return;
        std::fill(batch_send.begin(), batch_send.end(), in.rows);
        comm.exchange_counts(batch_send, batch);
        for (int r = 0; r < comm.rank(); ++r) first_token += batch[std::size_t(r)];
    }
    /// Waits until nothing works on this context's memory or its caller's any more, after an error
    /// that is the one to tell of.
    void settle(B& b) noexcept {
        auto const drain = [](B& queue) {
            try {
                queue.synchronize();
            } catch (...) {
            }
        };
        drain(b);
        if (wire) drain(*wire);
    }
    /// How the next part of dx enters views.base.
    ops::Accumulate grow_base() {
        return std::exchange(has_base, true) ? ops::Accumulate::yes : ops::Accumulate::no;
    }
    /// This rank's routing, T rows of it.
    Assignment<B, Real> assignment() const {
        return {views.assignment.topk_ids.row_range(0, num_tokens),
                views.assignment.topk_weights.row_range(0, num_tokens)};
    }
    /// Tokens [first, first + count) of one chunk.
    struct Tokens {
        index_t first, count;
    };
    Tokens chunk_tokens(index_t chunk) const {
        index_t const n = (num_tokens + shape.num_chunks - 1) / shape.num_chunks;
        index_t const first = std::min(chunk * n, num_tokens);
        return {first, std::min(n, num_tokens - first)};
    }
    RoutingPlan<B> plan(index_t chunk) const {
        auto const [first, count] = chunk_tokens(chunk);
        index_t const E = shape.num_experts, K = shape.num_slots;
        return {{views.tokens_per_expert.row(chunk), E},
                {views.expert_offsets.row(chunk), E + 1},
                views.token_of_slot.part(first * K, count * K),
                views.slot_of.row_range(first, count)};
    }
    index_t num_slots(index_t chunk) const {
        return slot_begin[std::size_t(chunk) + 1] - slot_begin[std::size_t(chunk)];
    }
    index_t num_rows(index_t chunk) const {
        return row_begin[std::size_t(chunk) + 1] - row_begin[std::size_t(chunk)];
    }
    template <class E>
    MatrixView<E, S> by_slot(MatrixView<E, S> all, index_t chunk) const {
        return all.row_range(slot_begin[std::size_t(chunk)], num_slots(chunk));
    }
    template <class E>
    MatrixView<E, S> by_row(MatrixView<E, S> all, index_t chunk) const {
        return all.row_range(row_begin[std::size_t(chunk)], num_rows(chunk));
    }
};

} // namespace detail

/// The saved state of one forward, its losses and its counters. Made by MoeLayer::make_context,
/// used again and again; each of several concurrent forwards on one layer needs its own. Like x and
/// y it must live until what it was enqueued for is done (backend().synchronize()).
template <class B, class T, class C>
class MoeContext {
public:
    RouterLosses losses;
    LayerCounters counters;

    index_t max_tokens() const { return state_.shape.max_tokens; }
    Mode mode() const { return state_.shape.training ? Mode::training : Mode::inference; }
    index_t workspace_bytes() const { return state_.memory.size_bytes(); }
    /// [T,K], backend memory: what the gate, or the caller, chose in the last forward.
    Assignment<B, accumulate_t<T>> assignment() const { return state_.assignment(); }
    /// [T,K], backend memory: the choices of them that capacity kept, -1 for others.
    MatrixView<expert_id const, space_of<B>> kept_ids() const {
        return state_.views.kept_ids.row_range(0, state_.num_tokens);
    }
    /// Backend memory: RouterStatistics of the last forward, summed over ranks; what
    /// update_balance_bias takes.
    VectorView<double const, space_of<B>> statistics() const { return state_.views.balance; }
    /// [T,K], backend memory: after backward, the gradient of the routing weights.
    MatrixView<accumulate_t<T> const, space_of<B>> weight_gradients() const {
        return state_.views.d_weights.row_range(0, state_.num_tokens);
    }
    /// [T,E], backend memory: the router's logits of the last forward.
    MatrixView<accumulate_t<T> const, space_of<B>> logits() const {
        return state_.views.logits.row_range(0, state_.num_tokens);
    }

private:
    template <class, class, class, class, class, class, class>
    friend class MoeLayer;

    MoeContext(B& b, C& comm, Placement const& placement, ContextShape const& shape)
      : state_(b, comm, placement, shape) {
        counters.tokens_per_expert.resize(std::size_t(shape.num_experts));
    }

    void count() {
        auto const& s = state_;
        auto const summary =
            summarize_router(std::span<double const>(s.balance), s.shape.num_experts);
        losses = {summary.aux_loss, summary.z_loss, summary.mutual_information};
        auto const total = s.counts.total();
        std::copy(total.begin(), total.end(), counters.tokens_per_expert.begin());
        index_t kept = 0;
        for (index_t n : total) kept += n;
        counters.num_tokens = summary.num_tokens;
        counters.dropped = summary.num_choices - kept;
        counters.entropy = summary.entropy;
    }

    detail::ContextState<B, T, C> state_;
};

} // namespace semoe
