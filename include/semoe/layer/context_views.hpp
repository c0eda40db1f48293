#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/routing/assignment.hpp"
#include "semoe/routing/capacity.hpp"
#include "semoe/routing/plan.hpp"
#include "semoe/routing/statistics.hpp"

namespace semoe {

/// What a context must know of its layer. Layers that agree in it may take turns with one context.
struct LayerShape {
    index_t hidden = 0, num_experts = 0, num_slots = 0, num_chunks = 0;
    int num_ranks = 1;
    Capacity capacity;
    bool recompute = false, shared = false, sigmoid_gate = false;
    bool indexed_rows = false;                            // experts read their rows from x
    bool limits_capacity = false, counts_choices = false; // capacity, by position
    bool gathers_choices = false, gathers_logits = false; // several ranks decide together
    index_t saved_columns = 0, scratch_columns = 0, backward_scratch_columns = 0;
    index_t shared_saved_columns = 0, shared_scratch_columns = 0, shared_backward_columns = 0;
    index_t shared_elements = 0, router_elements = 0;

    bool operator==(LayerShape const&) const = default;
};
/// How large a context is; fixed when it is made.
struct ContextShape : LayerShape {
    bool training = false;
    index_t max_tokens = 0;                   ///< of this rank
    index_t largest_tokens = 0;               ///< max_tokens of the largest rank
    index_t all_tokens = 0;                   ///< of all ranks
    index_t max_expert_rows = 0;              ///< of one expert, as the gate promises
    index_t max_slots = 0;                    ///< rows that this rank may send
    index_t max_rows = 0, max_chunk_rows = 0; ///< rows that experts here may receive
    index_t gate_scratch_bytes = 0, plan_scratch_bytes = 0, capacity_scratch_bytes = 0;
    index_t exchange_staging_bytes = 0, exchange_table_bytes = 0, check_scratch_bytes = 0;
    index_t balance_scratch_bytes = 0;
};

namespace detail {

/// Every buffer of one forward and backward. T rows of activations, Real logits and weights.
template <class B, class T>
struct ContextViews {
    using S = space_of<B>;
    using Real = accumulate_t<T>;

    MatrixView<Real, S> logits;                 // [T,E]
    Assignment<B, Real> assignment;             // [T,K], as the gate answered
    MatrixView<expert_id, S> kept_ids;          // [T,K], after capacity
    MatrixView<Real, S> all_logits;             // [P*Tmax,E], gates over the global batch
    VectorView<std::uint8_t, S> mask, all_mask; // [Tmax], [P*Tmax]
    Assignment<B, Real> all_assignment;         // [P*Tmax,K]
    VectorView<index_t, S> choices;             // [E], before capacity
    MatrixView<index_t, S> all_choices;         // [P,E]
    MatrixView<index_t, S> tokens_per_expert;   // [chunks,E]
    MatrixView<index_t, S> expert_offsets;      // [chunks,E+1]
    VectorView<index_t, S> token_of_slot;       // [T*K], chunk by chunk
    MatrixView<index_t, S> slot_of;             // [T,K], slots of the token's chunk
    VectorView<double, S> balance;              // RouterStatistics over all ranks
    VectorView<index_t, S> status;     // [2], what check_logits and check_choices have found
    MatrixView<T, S> send;             // [S,H], by slot, chunk by chunk
    MatrixView<T, S> rows;             // [R,H], expert inputs that were copied
    MatrixView<T, S> out_rows;         // [R,H], expert outputs
    MatrixView<T, S> slots;            // [S,H], expert outputs back by slot
    MatrixView<T, S> saved;            // [R,saved]
    MatrixView<T, S> scratch;          // [Rc,scratch]
    VectorView<Real, S> shared_factor; // [T], sigmoid gate of the shared expert
    MatrixView<T, S> shared_out, shared_saved, shared_scratch;
    VectorView<std::byte, S> gate_scratch, plan_scratch, capacity_scratch, check_scratch;
    VectorView<std::byte, S> exchange_staging, balance_scratch;
    MatrixView<std::byte, S> exchange_tables; // [chunks, a table]
    // backward
    VectorView<std::uint8_t, S> kept_mask;         // [T], of a forward that was masked
    MatrixView<T, S> kept_x;                       // [T,H], its tokens, padding zero
    MatrixView<Real, S> d_weights, d_logits, base; // [T,K], [T,E], [T,H]
    MatrixView<T, S> d_slots, d_out_rows, d_rows;  // [S,H], [R,H], [R,H]
    MatrixView<T, S> backward_scratch;             // [Rc,backward]
    MatrixView<T, S> d_shared, d_shared_in, shared_backward_scratch;
    VectorView<Real, S> d_shared_factor; // [T]
    VectorView<Real, S> reduced;         // router and shared gradients on their way over ranks

    /// Lays the views out; over a counting arena it only measures.
    void carve(Arena<S>& arena, ContextShape const& n) {
        index_t const tk = n.max_tokens * n.num_slots;
        bool const ranks = n.num_ranks > 1;
        // Parts that are gathered from all ranks are equally long: as the largest rank's.
        index_t const local = n.largest_tokens, all = n.largest_tokens * n.num_ranks;
        logits = arena.template take<Real>(local, n.num_experts);
        assignment.topk_ids = arena.template take<expert_id>(local, n.num_slots);
        assignment.topk_weights = arena.template take<Real>(local, n.num_slots);
        kept_ids = n.limits_capacity ? arena.template take<expert_id>(local, n.num_slots)
                                     : assignment.topk_ids;
        if (n.gathers_logits) {
            all_logits = arena.template take<Real>(all, n.num_experts);
            mask = arena.template take<std::uint8_t>(local);
            all_mask = arena.template take<std::uint8_t>(all);
            all_assignment.topk_ids = arena.template take<expert_id>(all, n.num_slots);
            all_assignment.topk_weights = arena.template take<Real>(all, n.num_slots);
        }
        if (n.gathers_choices) {
            all_assignment.topk_ids = arena.template take<expert_id>(all, n.num_slots);
            all_assignment.topk_weights = arena.template take<Real>(all, n.num_slots);
        }
        if (n.counts_choices) {
            choices = arena.template take<index_t>(n.num_experts);
            all_choices = arena.template take<index_t>(n.num_ranks, n.num_experts);
        }
        tokens_per_expert = arena.template take<index_t>(n.num_chunks, n.num_experts);
        expert_offsets = arena.template take<index_t>(n.num_chunks, n.num_experts + 1);
        token_of_slot = arena.template take<index_t>(tk);
        slot_of = arena.template take<index_t>(n.max_tokens, n.num_slots);
        balance = arena.template take<double>(RouterStatistics{n.num_experts}.size());
        status = arena.template take<index_t>(2);
        gate_scratch = arena.template take<std::byte>(n.gate_scratch_bytes);
        plan_scratch = arena.template take<std::byte>(n.plan_scratch_bytes);
        capacity_scratch = arena.template take<std::byte>(n.capacity_scratch_bytes);
        check_scratch = arena.template take<std::byte>(n.check_scratch_bytes);
        balance_scratch = arena.template take<std::byte>(n.balance_scratch_bytes);
        exchange_staging = arena.template take<std::byte>(n.exchange_staging_bytes);
        exchange_tables = arena.template take<std::byte>(n.num_chunks, n.exchange_table_bytes);

        rows = arena.template take<T>(n.indexed_rows ? 0 : n.max_rows, n.hidden);
        out_rows = arena.template take<T>(n.max_rows, n.hidden);
        send = ranks ? arena.template take<T>(n.max_slots, n.hidden) : rows;
        slots = ranks ? arena.template take<T>(n.max_slots, n.hidden) : out_rows;
        bool const saves = n.training && !n.recompute;
        saved = arena.template take<T>(saves ? n.max_rows : n.max_chunk_rows, n.saved_columns);
        scratch = arena.template take<T>(n.max_chunk_rows, n.scratch_columns);
        if (n.shared) {
            shared_out = arena.template take<T>(n.max_tokens, n.hidden);
            shared_saved = arena.template take<T>(n.max_tokens, n.shared_saved_columns);
            shared_scratch = arena.template take<T>(n.max_tokens, n.shared_scratch_columns);
            if (n.sigmoid_gate) shared_factor = arena.template take<Real>(n.max_tokens);
        }
        if (!n.training) return;
        kept_mask = arena.template take<std::uint8_t>(n.max_tokens);
        kept_x = arena.template take<T>(n.max_tokens, n.hidden);
        d_weights = arena.template take<Real>(n.max_tokens, n.num_slots);
        d_logits = arena.template take<Real>(n.max_tokens, n.num_experts);
        base = arena.template take<Real>(n.max_tokens, n.hidden);
        d_out_rows = out_rows; // forward's outputs are read first
        d_slots = slots;
        d_rows = arena.template take<T>(n.max_rows, n.hidden);
        backward_scratch = arena.template take<T>(n.max_chunk_rows, n.backward_scratch_columns);
        if (n.shared) {
            d_shared = arena.template take<T>(n.max_tokens, n.hidden);
            d_shared_in = arena.template take<T>(n.max_tokens, n.hidden);
            d_shared_factor = arena.template take<Real>(n.max_tokens);
            shared_backward_scratch =
                arena.template take<T>(n.max_tokens, n.shared_backward_columns);
        }
        if (ranks) reduced = arena.template take<Real>(n.router_elements + n.shared_elements);
    }
};

} // namespace detail
} // namespace semoe
