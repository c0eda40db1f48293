#pragma once

#include "semoe/ops/scan.hpp"
#include "semoe/routing/detail/choice_blocks.hpp"
#include "semoe/routing/plan.hpp"

namespace semoe {

namespace detail {

template <class Space>
struct PlanScratch {
    MatrixView<index_t, Space> counts; // [blocks,E]
    VectorView<index_t, Space> scan;

    PlanScratch(Arena<Space>& arena, ChoiceBlocks blocks, index_t num_experts)
      : counts(arena.template take<index_t>(blocks.count, num_experts))
      , scan(arena.template take<index_t>(ops::scan_scratch(num_experts))) {}
};

template <class B>
struct PlaceChoices {
    MatrixView<expert_id const, space_of<B>> ids;
    index_t block_tokens;
    MatrixView<index_t, space_of<B>> counts; // [blocks,E], choices before this block
    RoutingPlan<B> out;
    SEMOE_HD void operator()(index_t i) const {
        index_t* const before = counts.row(i);
        index_t const end = min((i + 1) * block_tokens, ids.rows);
        for (index_t t = i * block_tokens; t < end; ++t)
            for (index_t k = 0; k < ids.cols; ++k) {
                index_t const e = ids(t, k);
                index_t slot = -1;
                if (e >= 0 && e < counts.cols) {
                    slot = out.expert_offsets[e] + before[e]++;
                    out.token_of_slot[slot] = t;
                }
                out.slot_of(t, k) = slot;
            }
    }
};

} // namespace detail

/// A plan for T tokens of K choices among E experts, carved from an arena.
template <class B>
RoutingPlan<B> take_plan(Arena<space_of<B>>& arena, index_t num_tokens, index_t top_k,
                         index_t num_experts) {
    RoutingPlan<B> plan;
    plan.tokens_per_expert = arena.template take<index_t>(num_experts);
    plan.expert_offsets = arena.template take<index_t>(num_experts + 1);
    plan.token_of_slot = arena.template take<index_t>(num_tokens * top_k);
    plan.slot_of = arena.template take<index_t>(num_tokens, top_k);
    return plan;
}

/// Scratch that make_plan needs, never more for fewer tokens.
inline index_t make_plan_scratch_bytes(index_t num_tokens, index_t top_k, index_t num_experts) {
    Arena<HostSpace> arena;
    detail::PlanScratch<HostSpace>(arena, {num_tokens, top_k, num_experts}, num_experts);
    return arena.used();
}

/// Groups the kept choices by expert: a stable counting sort.
/// @param ids      [T,K], backend memory; an id outside [0,E), -1 above all, is nobody's choice
/// @param out      overwritten; E is the size of tokens_per_expert; token_of_slot may be longer
///                 than T*K, and only its first expert_offsets[E] elements are written
/// @param scratch  make_plan_scratch_bytes(T, K, E) bytes of backend memory
/// @post slots are in order of expert, then token, then choice
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost O(T*K + E), no allocation, no atomics: the same plan with any number of threads
template <Backend B>
void make_plan(B& b, MatrixView<expert_id const, space_of<B>> ids, RoutingPlan<B> out,
               Bytes<space_of<B>> scratch) {
    using S = space_of<B>;
    index_t const T = ids.rows, K = ids.cols, E = out.tokens_per_expert.size;
    expects(E >= 1 && out.expert_offsets.size == E + 1 && out.token_of_slot.size >= T * K &&
                out.slot_of.rows == T && out.slot_of.cols == K,
            "make_plan: ids are [{},{}], the plan has {} experts, {} offsets, "
            "{} slots, slot_of [{},{}]",
            T, K, E, out.expert_offsets.size, out.token_of_slot.size, out.slot_of.rows,
            out.slot_of.cols);
    detail::expects_scratch("make_plan", scratch, make_plan_scratch_bytes(T, K, E));
    detail::ChoiceBlocks const blocks(T, K, E);
    Arena<S> arena(scratch);
    detail::PlanScratch<S> const s(arena, blocks, E);
    detail::count_blocks(b, ids, blocks, s.counts, out.tokens_per_expert);
    ops::exclusive_scan(b, out.tokens_per_expert, out.expert_offsets, s.scan);
    b.parallel_for(blocks.count, detail::PlaceChoices<B>{ids, blocks.tokens, s.counts, out});
}

} // namespace semoe
