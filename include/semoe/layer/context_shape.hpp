#pragma once

#include "semoe/dispatch/exchange.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/layer/config.hpp"
#include "semoe/layer/context_views.hpp"
#include "semoe/routing/check_choices.hpp"
#include "semoe/routing/check_logits.hpp"
#include "semoe/routing/drop.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace semoe::detail {

/// Rows that this rank's experts can receive at most, all ranks sending as much as they may.
template <class G>
index_t most_rows(G const& gate, Capacity const& capacity, index_t all_tokens,
                  index_t local_experts) {
    index_t const E = index_t(gate.num_experts), K = slots_per_token(gate);
    index_t rows = all_tokens * std::min(K, local_experts);
    rows = std::min(rows, local_experts * max_rows_per_expert(gate, all_tokens));
    if (!capacity.dropless())
        rows = std::min(rows, local_experts * capacity_of(capacity, all_tokens, K, E));
    return rows;
}

/// What contexts of a layer have in common, whatever their number of tokens.
template <class B, class G, class X, class C, class Sch>
LayerShape layer_shape(B const& b, G const& gate, X const& expert, C const& comm,
                       Sch const& schedule, MoeConfig const& config, BlockLayout const& router,
                       BlockLayout const& shared) {
    auto const& routed = routed_part(expert);
    LayerShape n;
    n.hidden = index_t(expert.hidden);
    n.num_experts = index_t(gate.num_experts);
    n.num_slots = slots_per_token(gate);
    n.num_chunks = index_t(schedule.chunks);
    n.num_ranks = comm.size();
    n.capacity = config.capacity;
    n.recompute = config.recompute;
    n.indexed_rows = comm.size() == 1 && reads_indexed_rows(routed, b);

    bool const ranks = comm.size() > 1;
    bool const limited = !config.capacity.dropless();
    n.limits_capacity = limited;
    n.counts_choices = limited && config.capacity.drop == Drop::position;
    n.gathers_choices = limited && ranks && config.capacity.drop == Drop::probability;
    n.gathers_logits = ranks && needs_global_batch<G>();

    n.saved_columns = routed.saved_columns();
    n.scratch_columns = routed.scratch_columns();
    if constexpr (requires { routed.backward_scratch_columns(); })
        n.backward_scratch_columns = routed.backward_scratch_columns();
    n.router_elements = router.primary_elements();
    if constexpr (HasSharedExpert<X>) {
        n.shared = true;
        n.sigmoid_gate = expert.sigmoid_gate;
        n.shared_saved_columns = expert.shared.saved_columns();
        n.shared_scratch_columns = expert.shared.scratch_columns();
        if constexpr (requires { expert.shared.backward_scratch_columns(); })
            n.shared_backward_columns = expert.shared.backward_scratch_columns();
        n.shared_elements = shared.primary_elements();
    }
    return n;
}

/// Whether a gate needs no more of a context than there is.
template <class G>
bool fits_gate(ContextShape const& n, G const& gate) {
    index_t const tokens = n.gathers_logits ? n.largest_tokens * n.num_ranks : n.largest_tokens;
    return gate_scratch_bytes(gate, tokens) <= n.gate_scratch_bytes &&
           max_rows_per_expert(gate, n.all_tokens) <= n.max_expert_rows;
}

/// A property that all ranks must have alike, as a number to compare.
struct Agreed {
    char const* name;
    index_t value;
};
/// @param expert   the routed experts' layout
/// @param setting  the gate's own (gate_setting)
inline std::array<Agreed, 19> agreed_by_ranks(LayerShape const& n, BlockLayout const& expert,
                                              double setting, MoeConfig const& config, Mode mode) {
    index_t parameters = 0;
    for (Slice const& s : expert)
        if (!s.derived) parameters += s.rows * s.cols;
    auto const bits = [](double x) { return std::bit_cast<index_t>(x); };
    return {{{"the number of experts", n.num_experts},
             {"the number of choices a token", n.num_slots},
             {"hidden", n.hidden},
             {"the gate's setting", bits(setting)},
             {"the expert's size", n.saved_columns},
             {"the number of an expert's parameters", parameters},
             {"the router's size", n.router_elements},
             {"the shared expert's size", n.shared_elements},
             {"the number of chunks", n.num_chunks},
             {"MoeConfig::capacity.factor", bits(config.capacity.factor)},
             {"MoeConfig::capacity.minimum", config.capacity.minimum},
             {"MoeConfig::capacity.drop", index_t(config.capacity.drop)},
             {"MoeConfig::layer", index_t(config.layer)},
             {"MoeConfig::seed", index_t(config.seed)},
             {"MoeConfig::aux_loss_weight", bits(config.aux_loss_weight)},
             {"MoeConfig::z_loss_weight", bits(config.z_loss_weight)},
             {"MoeConfig::mutual_information_weight", bits(config.mutual_information_weight)},
             {"MoeConfig::skip_untouched", index_t(config.skip_untouched)},
             {"the context's mode", index_t(mode)}}};
}
/// Brings max_tokens of every rank to all, who compare what they must have alike.
/// @throws precondition_error, on every rank, naming a property and two ranks
template <class C, std::size_t N>
std::vector<index_t> tokens_of_ranks(C& comm, index_t max_tokens,
                                     std::array<Agreed, N> const& agreed) {
    auto const ranks = std::size_t(comm.size());
    if (ranks == 1) return {max_tokens};
    std::size_t const part = agreed.size() + 1;
    std::vector<index_t> sent, received(ranks * part), tokens;
    for (std::size_t r = 0; r < ranks; ++r) {
        sent.push_back(max_tokens);
        for (Agreed const& one : agreed) sent.push_back(one.value);
    }
    comm.exchange_counts(sent, received);
    for (std::size_t r = 0; r < ranks; ++r) {
        index_t const* const theirs = received.data() + r * part;
        tokens.push_back(theirs[0]);
        for (std::size_t i = 0; i < agreed.size(); ++i)
            expects(theirs[i + 1] == agreed[i].value,
                    "MoeLayer: {} differs between ranks {} and {}; a layer is the same on all",
                    agreed[i].name, comm.rank(), r);
    }
    return tokens;
}

/// How large a context for max_tokens tokens of this rank is. Collective with several ranks: every
/// rank says how many tokens it will bring at most.
/// @tparam T  element type of rows
template <class T, class B, class G, class C>
ContextShape context_shape(LayerShape const& layer, BlockLayout const& expert,
                           MoeConfig const& config, index_t max_tokens, Mode mode, G const& gate,
                           C& comm, Placement const& placement) {
    using Real = accumulate_t<T>;
    expects(max_tokens >= 0, "MoeLayer: max_tokens is {}, must not be negative", max_tokens);
    expects(max_tokens <= index_t(1) << 40, "MoeLayer: max_tokens is {}, 2^40 at most", max_tokens);
    ContextShape n{layer};
    n.training = mode == Mode::training;
    n.max_tokens = n.largest_tokens = max_tokens;

    index_t all_chunk = 0;
    auto const agreed = agreed_by_ranks(layer, expert, gate_setting(gate), config, mode);
    for (index_t tokens : tokens_of_ranks(comm, max_tokens, agreed)) {
        n.all_tokens += tokens;
        all_chunk += (tokens + n.num_chunks - 1) / n.num_chunks;
        n.largest_tokens = std::max(n.largest_tokens, tokens);
    }
    index_t const local = placement.num_local_experts(comm.rank());
    n.max_expert_rows = max_rows_per_expert(gate, n.all_tokens);
    n.max_rows = most_rows(gate, n.capacity, n.all_tokens, local);
    n.max_chunk_rows = std::min(n.max_rows, all_chunk * std::min(n.num_slots, local));
    n.max_slots = std::min(max_tokens * n.num_slots,
                           most_rows(gate, n.capacity, n.all_tokens, n.num_experts));

    bool const ranks = comm.size() > 1;
    index_t const gathered = n.largest_tokens * n.num_ranks;
    n.gate_scratch_bytes = gate_scratch_bytes(gate, n.gathers_logits ? gathered : n.largest_tokens);
    n.plan_scratch_bytes = make_plan_scratch_bytes(max_tokens, n.num_slots, n.num_experts);
    if (n.counts_choices)
        n.capacity_scratch_bytes =
            drop_by_position_scratch_bytes(max_tokens, n.num_slots, n.num_experts);
    else if (n.limits_capacity)
        n.capacity_scratch_bytes = drop_by_probability_scratch_bytes<B, Real>(
            ranks ? gathered : max_tokens, n.num_slots, n.num_experts);
    n.check_scratch_bytes =
        std::max(check_logits_scratch_bytes(max_tokens), check_choices_scratch_bytes(max_tokens));
    n.balance_scratch_bytes = router_statistics_scratch_bytes(max_tokens, n.num_experts);
    n.exchange_table_bytes = exchange_table_bytes(placement, comm.rank());
    n.exchange_staging_bytes = exchange_staging_bytes(
        placement, comm.rank(), n.max_slots, n.max_chunk_rows, n.hidden * index_t(sizeof(T)));
    return n;
}

} // namespace semoe::detail
