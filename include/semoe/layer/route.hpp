#pragma once

#include "semoe/core/message.hpp"
#include "semoe/dispatch/combine.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/layer/context.hpp"
#include "semoe/ops/fill.hpp"
#include "semoe/ops/gemm.hpp"
#include "semoe/routing/balance.hpp"
#include "semoe/routing/check_choices.hpp"
#include "semoe/routing/check_logits.hpp"
#include "semoe/routing/drop.hpp"
#include "semoe/routing/make_plan.hpp"

namespace semoe::detail {

/// Tokens to kept choices and statistics: what a forward decides before any row moves. Everything
/// is enqueued; several ranks communicate.

/// A mask of exactly T rows, ones where the caller gave none: what gathered batches carry.
template <class Space>
struct CopyMask {
    VectorView<std::uint8_t const, Space> from;
    index_t tokens;
    VectorView<std::uint8_t, Space> to; // rows past `tokens` are padding
    SEMOE_HD void operator()(index_t t) const {
        to[t] = t < tokens && (from.empty() || from[t] != 0) ? 1 : 0;
    }
};
/// Masked tokens and rows past the batch choose nobody.
template <class Real, class Space>
struct AdoptRow {
    MatrixView<expert_id const, Space> ids;
    MatrixView<Real const, Space> weights;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<expert_id, Space> out_ids;
    MatrixView<Real, Space> out_weights;
    SEMOE_HD void operator()(index_t t) const {
        bool const real = t < ids.rows && (mask.empty() || mask[t] != 0);
        for (index_t k = 0; k < out_ids.cols; ++k) {
            expert_id const e = real ? ids(t, k) : dropped_expert;
            out_ids(t, k) = e;
            out_weights(t, k) = e < 0 ? Real(0) : weights(t, k);
        }
    }
};

/// Rows as they are where the mask has ones, zeros elsewhere.
template <class T, class Space>
struct CopyUnmasked {
    MatrixView<T const, Space> in;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<T, Space> out;
    SEMOE_HD void operator()(index_t i) const {
        index_t const pieces = ops::detail::segments_of(in.cols), t = i / pieces;
        index_t const begin = i % pieces * ops::detail::segment_length;
        index_t const end = ops::detail::segment_end(begin, in.cols);
        T const zero{};
        T const* const from = in.row(t);
        T* const to = out.row(t);
        // Two loops without a choice in them, so that both are vector code.
        if (mask[t] != 0) {
            SEMOE_INDEPENDENT
            for (index_t c = begin; c < end; ++c) to[c] = from[c];
        } else {
            for (index_t c = begin; c < end; ++c) to[c] = zero;
        }
    }
};
/// What backward reads of a masked forward: the mask, whose memory is the caller's again, and the
/// tokens with zeros for padding, which may hold anything, NaN too, and would enter sums over
/// tokens as 0 * NaN. Only router and shared expert take sums over all tokens.
template <class B, class T, class C>
void keep_masked(B& b, ContextState<B, T, C>& s) {
    if (s.options.mask.empty() || !s.shape.training) return;
    auto const mask = s.views.kept_mask.part(0, s.num_tokens);
    b.copy(mask.data, s.options.mask.data, std::size_t(s.num_tokens));
    s.options.mask = mask;
    if (s.routed_outside && !s.shape.shared) return;
    auto const kept = s.views.kept_x.row_range(0, s.num_tokens);
    b.parallel_for(s.num_tokens * ops::detail::segments_of(kept.cols),
                   CopyUnmasked<T, space_of<B>>{s.x, mask, kept});
    s.dense_x = kept;
}

template <class B, class T, class C>
RouteInput<B, accumulate_t<T>> route_input(ContextState<B, T, C>& s, MoeConfig const& config) {
    RouteInput<B, accumulate_t<T>> input;
    input.logits = s.views.logits.row_range(0, s.num_tokens);
    input.mask = s.options.mask;
    input.token_ids = s.options.token_ids;
    input.rng = {config.seed, s.options.step, std::uint32_t(config.layer)};
    input.first_token = s.first_token;
    input.training = s.shape.training;
    input.scratch = s.views.gate_scratch;
    return input;
}

/// The gate over this rank's tokens, or over all ranks' where it must see them together.
template <class B, class G, class T, class C>
void run_gate(B& b, G const& gate, C& comm, MoeConfig const& config, ContextState<B, T, C>& s) {
    auto& v = s.views;
    auto input = route_input(s, config);
    if (!s.shape.gathers_logits) {
        gate.forward(b, input, s.assignment());
        return;
    }
    index_t const part = s.shape.largest_tokens;
    b.parallel_for(part, CopyMask<space_of<B>>{s.options.mask, s.num_tokens, v.mask});
    comm.all_gather(b, as_bytes(v.mask), as_writable_bytes(v.all_mask));
    comm.all_gather(b, as_bytes(flat(v.logits)), as_writable_bytes(flat(v.all_logits)));
    input.logits = v.all_logits;
    input.mask = v.all_mask;
    input.token_ids = {};
    input.first_token = 0;
    gate.forward(b, input, v.all_assignment);
    index_t const first = part * comm.rank();
    b.parallel_for(s.num_tokens, AdoptRow<accumulate_t<T>, space_of<B>>{
                                     v.all_assignment.topk_ids.row_range(first, s.num_tokens),
                                     v.all_assignment.topk_weights.row_range(first, s.num_tokens),
                                     {},
                                     s.assignment().topk_ids,
                                     s.assignment().topk_weights});
}

/// kept_ids from the gate's ids: capacity over the global batch.
template <class B, class T, class C>
void limit_capacity(B& b, C& comm, MoeConfig const& config, ContextState<B, T, C>& s) {
    using S = space_of<B>;
    using Real = accumulate_t<T>;
    if (config.capacity.dropless()) return;
    auto& v = s.views;
    index_t const E = s.shape.num_experts;
    auto const chosen = s.assignment();
    auto const kept = v.kept_ids.row_range(0, s.num_tokens);
    if (config.capacity.drop == Drop::position) {
        count_choices(b, chosen.topk_ids, v.choices, v.capacity_scratch);
        comm.all_gather(b, as_bytes(v.choices), as_writable_bytes(flat(v.all_choices)));
        drop_by_position(b, config.capacity, MatrixView<expert_id const, S>(chosen.topk_ids),
                         MatrixView<index_t const, S>(v.all_choices), comm.rank(), kept,
                         v.capacity_scratch);
        return;
    }
    if (!s.shape.gathers_choices) {
        drop_by_probability(b, config.capacity, E, MatrixView<expert_id const, S>(chosen.topk_ids),
                            chosen.topk_weights, 0, kept, v.capacity_scratch);
        return;
    }
    // Equal parts travel: rows past this rank's tokens choose nobody.
    b.parallel_for(s.shape.largest_tokens, AdoptRow<Real, S>{chosen.topk_ids,
                                                             chosen.topk_weights,
                                                             {},
                                                             v.assignment.topk_ids,
                                                             v.assignment.topk_weights});
    comm.all_gather(b, as_bytes(flat(v.assignment.topk_ids)),
                    as_writable_bytes(flat(v.all_assignment.topk_ids)));
    comm.all_gather(b, as_bytes(flat(v.assignment.topk_weights)),
                    as_writable_bytes(flat(v.all_assignment.topk_weights)));
    drop_by_probability(b, config.capacity, E,
                        MatrixView<expert_id const, S>(v.all_assignment.topk_ids),
                        v.all_assignment.topk_weights, s.shape.largest_tokens * comm.rank(), kept,
                        v.capacity_scratch);
}

/// Losses and metrics of the choices before capacity, over all ranks.
/// @param logits  of the gate; null where it took no part: choices and tokens are counted
template <class G, class B, class T, class C>
void gather_statistics(B& b, C& comm, accumulate_t<T> const* logits, ContextState<B, T, C>& s) {
    using S = space_of<B>;
    auto& v = s.views;
    router_statistics(
        b, MatrixView<accumulate_t<T> const, S>(logits, s.num_tokens, s.shape.num_experts),
        s.options.mask, MatrixView<expert_id const, S>(s.assignment().topk_ids),
        router_probability<G>(), v.balance, v.balance_scratch);
    if (comm.size() > 1) comm.all_reduce_sum(b, v.balance);
}

/// The plan of every chunk, and on the host the counts of all ranks: the one wait of a forward.
/// @throws data_error on every rank when router, gate or caller gave nonsense to one of them;
///         precondition_error on every rank for more rows than max_rows_per_expert allows
template <class B, class T, class C>
void make_plans(B& b, ContextState<B, T, C>& s) {
    constexpr char const* nonsense[] = {
        "an expert number that is out of range, repeated or of a masked token",
        "a routing weight that is not finite", "a logit that is not finite"};
    auto& v = s.views;
    index_t const chunks = s.shape.num_chunks;
    s.counts.begin(chunks);
    s.counts.set_tokens(s.num_tokens);
    for (index_t c = 0; c < chunks; ++c) {
        auto const [first, count] = s.chunk_tokens(c);
        auto const plan = s.plan(c);
        make_plan(b, MatrixView<expert_id const, space_of<B>>(v.kept_ids.row_range(first, count)),
                  plan, v.plan_scratch);
        b.copy(s.counts.mine(c).data(), plan.tokens_per_expert.data,
               std::size_t(s.shape.num_experts) * sizeof(index_t));
    }
    b.copy(s.status.data(), v.status.data, sizeof s.status);
    b.copy(s.balance.data(), v.balance.data, s.balance.size() * sizeof(double));
    b.synchronize();
    // Three times the token, and which nonsense it is; 0 is none.
    if (index_t const choice = s.status[1]; choice >= 0)
        *s.counts.status_word() = 3 * (choice / 2) + choice % 2 + 1;
    if (index_t const token = s.status[0]; token >= 0) *s.counts.status_word() = 3 * token + 2 + 1;
    s.counts.run();
    if (int const failed = s.counts.first_failed_rank(); failed >= 0) {
        index_t const word = s.counts.status(failed) - 1;
        throw data_error(
            message("MoeLayer: {}, token {} of rank {}", nonsense[word % 3], word / 3, failed));
    }
    // Of all ranks' experts, so that all ranks refuse alike.
    for (std::size_t e = 0; e < s.counts.total().size(); ++e)
        expects(s.counts.total()[e] <= s.shape.max_expert_rows,
                "MoeLayer: expert {} gets {} rows, the gate's max_rows_per_expert allows {}", e,
                s.counts.total()[e], s.shape.max_expert_rows);
    for (index_t c = 0; c < chunks; ++c) {
        auto& exchange = s.exchanges[std::size_t(c)];
        exchange.assign(b, s.counts, c, {v.exchange_tables.row(c), v.exchange_tables.cols});
        s.slot_begin[std::size_t(c) + 1] = s.slot_begin[std::size_t(c)] + exchange.num_slots();
        s.row_begin[std::size_t(c) + 1] = s.row_begin[std::size_t(c)] + exchange.num_rows();
    }
}

/// Backward of combine: d_weights, and d_slots = weight * dy.
template <class B, class T, class C>
void split_gradient(B& b, MatrixView<T const, space_of<B>> dy, ContextState<B, T, C>& s) {
    auto& v = s.views;
    for (index_t c = 0; c < s.shape.num_chunks; ++c) {
        auto const [first, count] = s.chunk_tokens(c);
        combine_backward(b, dy.row_range(first, count), s.by_slot(v.slots, c),
                         MatrixView<index_t const, space_of<B>>(s.plan(c).slot_of),
                         v.assignment.topk_weights.row_range(first, count), {},
                         s.by_slot(v.d_slots, c), v.d_weights.row_range(first, count));
    }
}

/// d_logits from d_weights, and from the losses.
template <class B, class G, class T, class C>
void logit_gradient(B& b, G const& gate, MoeConfig const& config, double loss_scale,
                    ContextState<B, T, C>& s) {
    using Real = accumulate_t<T>;
    auto& v = s.views;
    auto const d_logits = v.d_logits.row_range(0, s.num_tokens);
    gate.backward(b, route_input(s, config), s.assignment(),
                  MatrixView<Real const, space_of<B>>(v.d_weights.row_range(0, s.num_tokens)),
                  d_logits);
    RouterLossWeights const weights{config.aux_loss_weight * loss_scale,
                                    config.z_loss_weight * loss_scale,
                                    config.mutual_information_weight * loss_scale};
    if (weights.aux_loss != 0 || weights.z_loss != 0 || weights.mutual_information != 0)
        add_router_gradient(b, v.logits.row_range(0, s.num_tokens), s.options.mask, v.balance,
                            router_probability<G>(), weights, d_logits);
}

/// to (+)= from.
template <class Real>
struct AddOrCopy {
    Real const* from;
    bool add;
    Real* to;
    SEMOE_HD void operator()(index_t i) const { to[i] = add ? to[i] + from[i] : from[i]; }
};

} // namespace semoe::detail
