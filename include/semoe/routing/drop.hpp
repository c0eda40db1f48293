#pragma once

#include "semoe/ops/topk.hpp"
#include "semoe/routing/capacity.hpp"
#include "semoe/routing/make_plan.hpp"

namespace semoe {

namespace detail {

template <class Space>
struct DropScratch {
    MatrixView<index_t, Space> counts;                 // [blocks,E]
    VectorView<index_t, Space> own, all, lower, limit; // [E]

    DropScratch(Arena<Space>& arena, ChoiceBlocks blocks, index_t num_experts)
      : counts(arena.template take<index_t>(blocks.count, num_experts))
      , own(arena.template take<index_t>(num_experts))
      , all(arena.template take<index_t>(num_experts))
      , lower(arena.template take<index_t>(num_experts))
      , limit(arena.template take<index_t>(num_experts)) {}
};
template <class B, class Real>
struct DropByProbabilityScratch {
    RoutingPlan<B> plan;
    VectorView<Real, space_of<B>> weights;   // [T*K], by slot
    VectorView<index_t, space_of<B>> best;   // [T*K], by slot
    VectorView<Real, space_of<B>> best_keys; // [T*K]
    VectorView<index_t, space_of<B>> last;   // [E]
    index_t plan_bytes;
    Bytes<space_of<B>> plan_scratch;

    DropByProbabilityScratch(Arena<space_of<B>>& arena, index_t tokens, index_t top_k,
                             index_t num_experts)
      : plan(take_plan<B>(arena, tokens, top_k, num_experts))
      , weights(arena.template take<Real>(tokens * top_k))
      , best(arena.template take<index_t>(tokens * top_k))
      , best_keys(arena.template take<Real>(tokens * top_k))
      , last(arena.template take<index_t>(num_experts))
      , plan_bytes(make_plan_scratch_bytes(tokens, top_k, num_experts))
      , plan_scratch(arena.template take<std::byte>(plan_bytes)) {}
};

template <class Space>
struct SumRanks {
    MatrixView<index_t const, Space> rank_counts; // [P,E]
    index_t rank;
    VectorView<index_t, Space> all, lower; // [E]
    SEMOE_HD void operator()(index_t e) const {
        index_t sum = 0;
        for (index_t r = 0; r < rank_counts.rows; ++r) {
            if (r == rank) lower[e] = sum;
            sum += rank_counts(r, e);
        }
        all[e] = sum;
    }
};
/// limit[e]: choices that this rank may keep.
template <class Space>
struct LimitRank {
    Capacity capacity;
    VectorView<index_t const, Space> all, lower;
    VectorView<index_t, Space> limit;
    SEMOE_HD void operator()(index_t) const {
        index_t choices = 0;
        for (index_t e = 0; e < all.size; ++e) choices += all[e];
        index_t const rows = capacity_of(capacity, choices, all.size);
        for (index_t e = 0; e < all.size; ++e) limit[e] = max(rows - lower[e], index_t(0));
    }
};
template <class Space>
struct KeepFirst {
    MatrixView<expert_id const, Space> ids;
    index_t block_tokens;
    MatrixView<index_t, Space> counts; // [blocks,E], choices before this block
    VectorView<index_t const, Space> limit;
    MatrixView<expert_id, Space> kept;
    SEMOE_HD void operator()(index_t i) const {
        index_t* const before = counts.row(i);
        index_t const end = min((i + 1) * block_tokens, ids.rows);
        for (index_t t = i * block_tokens; t < end; ++t)
            for (index_t k = 0; k < ids.cols; ++k) {
                expert_id const e = ids(t, k);
                bool const keep = e >= 0 && e < counts.cols && before[e]++ < limit[e];
                kept(t, k) = keep ? e : dropped_expert;
            }
    }
};

template <class B, class Real>
struct WeightOfSlot {
    MatrixView<index_t const, space_of<B>> slot_of;
    MatrixView<Real const, space_of<B>> weights;
    VectorView<Real, space_of<B>> out;
    SEMOE_HD void operator()(index_t t) const {
        for (index_t k = 0; k < slot_of.cols; ++k)
            if (slot_of(t, k) >= 0) out[slot_of(t, k)] = weights(t, k);
    }
};
/// last[e]: the slot that ranks last among those that expert e keeps; -1 when it keeps none.
template <class B, class Real>
struct LastKept {
    Capacity capacity;
    VectorView<index_t const, space_of<B>> expert_offsets;
    VectorView<Real const, space_of<B>> weights; // by slot
    VectorView<index_t, space_of<B>> best;
    VectorView<Real, space_of<B>> best_keys;
    VectorView<index_t, space_of<B>> last;
    SEMOE_HD void operator()(index_t e) const {
        index_t const first = expert_offsets[e], rows = expert_offsets[e + 1] - first;
        index_t const keep = min(rows, capacity_of(capacity, expert_offsets[last.size], last.size));
        last[e] = -1;
        if (keep == 0) return;
        // Slots of an expert are in order of token, so the lower slot is the lower token.
        ops::select_topk(ops::RowKey<Real>{weights.data + first}, rows, keep, best.data + first,
                         best_keys.data + first);
        last[e] = first + best[first + keep - 1];
    }
};
template <class B, class Real>
struct KeepBest {
    MatrixView<expert_id const, space_of<B>> ids;   // this rank's
    MatrixView<index_t const, space_of<B>> slot_of; // this rank's
    VectorView<Real const, space_of<B>> weights;    // by slot
    VectorView<index_t const, space_of<B>> last;
    MatrixView<expert_id, space_of<B>> kept;
    SEMOE_HD void operator()(index_t t) const {
        for (index_t k = 0; k < ids.cols; ++k) {
            index_t const slot = slot_of(t, k);
            bool keep = false;
            if (slot >= 0) {
                index_t const worst = last[ids(t, k)];
                keep = worst >= 0 && !ops::ranks_before(weights[worst], worst, weights[slot], slot);
            }
            kept(t, k) = keep ? ids(t, k) : dropped_expert;
        }
    }
};

} // namespace detail

/// Scratch that count_choices and drop_by_position need, never more for fewer tokens.
inline index_t drop_by_position_scratch_bytes(index_t num_tokens, index_t top_k,
                                              index_t num_experts) {
    Arena<HostSpace> arena;
    detail::DropScratch<HostSpace>(arena, {num_tokens, top_k, num_experts}, num_experts);
    return arena.used();
}

/// counts[e] = choices of expert e among this rank's tokens, before anything is dropped.
/// @param ids      [T,K], backend memory; ids outside [0,E) are not counted
/// @param counts   [E], backend memory, overwritten
/// @param scratch  drop_by_position_scratch_bytes(T, K, E) bytes of backend memory
/// @sync enqueues
/// @cost O(T*K + E), no allocation
template <Backend B>
void count_choices(B& b, MatrixView<expert_id const, space_of<B>> ids,
                   VectorView<index_t, space_of<B>> counts, Bytes<space_of<B>> scratch) {
    using S = space_of<B>;
    index_t const E = counts.size;
    detail::expects_scratch("count_choices", scratch,
                            drop_by_position_scratch_bytes(ids.rows, ids.cols, E));
    detail::ChoiceBlocks const blocks(ids.rows, ids.cols, E);
    Arena<S> arena(scratch);
    detail::DropScratch<S> const s(arena, blocks, E);
    detail::count_blocks(b, ids, blocks, s.counts, counts);
}

/// Keeps what comes first: over all ranks, in order of rank, token, choice, an expert keeps its
/// first capacity_of(capacity, all choices, E) choices. The gate's weights are left as they are:
/// what remains is not normalised again.
/// @param ids          [T,K], this rank's, backend memory; read only, losses go on using it
/// @param rank_counts  [P,E], what count_choices gave on every rank, backend memory
/// @param rank         this rank's row of rank_counts
/// @param kept         [T,K], backend memory, overwritten: ids, with -1 where dropped; may be ids
/// @param scratch      drop_by_position_scratch_bytes(T, K, E) bytes of backend memory
/// @pre !capacity.dropless()
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost O(T*K + P*E), no allocation, no atomics
template <Backend B>
void drop_by_position(B& b, Capacity const& capacity, MatrixView<expert_id const, space_of<B>> ids,
                      MatrixView<index_t const, space_of<B>> rank_counts, index_t rank,
                      MatrixView<expert_id, space_of<B>> kept, Bytes<space_of<B>> scratch) {
    using S = space_of<B>;
    index_t const T = ids.rows, K = ids.cols, E = rank_counts.cols;
    expects(kept.rows == T && kept.cols == K && rank >= 0 && rank < rank_counts.rows,
            "drop_by_position: ids are [{},{}], kept [{},{}], rank {} of {}", T, K, kept.rows,
            kept.cols, rank, rank_counts.rows);
    detail::expects_scratch("drop_by_position", scratch, drop_by_position_scratch_bytes(T, K, E));
    detail::ChoiceBlocks const blocks(T, K, E);
    Arena<S> arena(scratch);
    detail::DropScratch<S> const s(arena, blocks, E);
    detail::count_blocks(b, ids, blocks, s.counts, s.own);
    b.parallel_for(E, detail::SumRanks<S>{rank_counts, rank, s.all, s.lower});
    b.parallel_for(1, detail::LimitRank<S>{capacity, s.all, s.lower, s.limit});
    b.parallel_for(blocks.count, detail::KeepFirst<S>{ids, blocks.tokens, s.counts, s.limit, kept});
}

/// Scratch that drop_by_probability needs for the tokens of all ranks.
template <Backend B, class Real>
index_t drop_by_probability_scratch_bytes(index_t all_tokens, index_t top_k, index_t num_experts) {
    Arena<space_of<B>> arena;
    detail::DropByProbabilityScratch<B, Real>(arena, all_tokens, top_k, num_experts);
    return arena.used();
}

/// Keeps what weighs most: over all ranks an expert keeps its capacity_of(capacity, all choices, E)
/// largest weights; equal weights keep the lower token, a NaN weighs least.
/// @param ids        [Tall,K], all ranks' in rank order, backend memory; rows of -1 may pad it
/// @param weights    [Tall,K], theirs
/// @param first_row  this rank's first row
/// @param kept       [T,K], backend memory, overwritten: this rank's ids, with -1 where dropped
/// @param scratch    drop_by_probability_scratch_bytes<B, Real>(Tall, K, E) bytes of backend memory
/// @pre !capacity.dropless()
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost O(n log C) for an expert of n choices, one thread an expert; no allocation, no atomics
template <Backend B, class Real>
void drop_by_probability(B& b, Capacity const& capacity, index_t num_experts,
                         MatrixView<expert_id const, space_of<B>> ids,
                         MatrixView<Real, space_of<B>> weights, index_t first_row,
                         MatrixView<expert_id, space_of<B>> kept, Bytes<space_of<B>> scratch) {
    using R = std::remove_const_t<Real>;
    index_t const T = ids.rows, K = ids.cols;
    expects(weights.rows == T && weights.cols == K && kept.cols == K && first_row >= 0 &&
                first_row + kept.rows <= T,
            "drop_by_probability: ids are [{},{}], weights [{},{}], kept "
            "[{},{}] from row {}",
            T, K, weights.rows, weights.cols, kept.rows, kept.cols, first_row);
    detail::expects_scratch("drop_by_probability", scratch,
                            drop_by_probability_scratch_bytes<B, R>(T, K, num_experts));
    Arena<space_of<B>> arena(scratch);
    detail::DropByProbabilityScratch<B, R> const s(arena, T, K, num_experts);
    make_plan(b, ids, s.plan, s.plan_scratch);
    b.parallel_for(T, detail::WeightOfSlot<B, R>{s.plan.slot_of, weights, s.weights});
    b.parallel_for(num_experts, detail::LastKept<B, R>{capacity, s.plan.expert_offsets, s.weights,
                                                       s.best, s.best_keys, s.last});
    b.parallel_for(kept.rows, detail::KeepBest<B, R>{ids.row_range(first_row, kept.rows),
                                                     s.plan.slot_of.row_range(first_row, kept.rows),
                                                     s.weights, s.last, kept});
}

} // namespace semoe
