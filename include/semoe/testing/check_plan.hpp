#pragma once

#include "semoe/routing/plan.hpp"
#include "semoe/testing/contract.hpp"

#include <string>
#include <vector>

namespace semoe::testing {

namespace detail {

/// A host copy of a matrix's rows, without what lies past its columns. @sync waits
template <class B, class T>
std::vector<std::remove_const_t<T>> download_rows(B& b, MatrixView<T, space_of<B>> m) {
    std::vector<std::remove_const_t<T>> values(std::size_t(m.rows * m.cols));
    for (index_t r = 0; r < m.rows && m.cols > 0; ++r)
        b.copy(values.data() + r * m.cols, m.row(r), std::size_t(m.cols) * sizeof(T));
    b.synchronize();
    return values;
}
template <class B, class T>
std::vector<std::remove_const_t<T>> download_rows(B& b, VectorView<T, space_of<B>> v) {
    return download_rows(b, MatrixView<T, space_of<B>>{v.data, 1, v.size});
}

} // namespace detail

/// The invariants of a plan, in order of expert, then token, then choice: counts are the kept
/// choices, offsets their sums, and every slot leads to its token and back.
/// @param ids  [T,K], what the plan was made of
/// @throws contract_violation with the promise that is broken
/// @sync waits
template <Backend B>
void check_plan(B& b, MatrixView<expert_id const, space_of<B>> ids, RoutingPlan<B> const& plan) {
    require(plan.slot_of.rows == ids.rows && plan.slot_of.cols == ids.cols,
            "RoutingPlan: slot_of has an element for each choice");
    auto const id = detail::download_rows(b, ids);
    auto const slot_of = detail::download_rows(b, plan.slot_of);
    auto const counts = detail::download_rows(b, plan.tokens_per_expert);
    auto const offsets = detail::download_rows(b, plan.expert_offsets);
    auto const tokens = detail::download_rows(b, plan.token_of_slot);

    index_t const E = plan.tokens_per_expert.size;
    require(index_t(offsets.size()) == E + 1 && offsets[0] == 0,
            "RoutingPlan: expert_offsets has E+1 elements and starts at 0");
    index_t slot = 0;
    for (index_t e = 0; e < E; ++e) {
        std::string const which = " (expert " + std::to_string(e) + ")";
        require(offsets[std::size_t(e)] == slot,
                "RoutingPlan: an expert's slots begin where the one before it ends" + which);
        for (std::size_t i = 0; i < id.size(); ++i) {
            if (id[i] != e) continue;
            require(slot_of[i] == slot,
                    "RoutingPlan: slots are in order of expert, token, choice" + which);
            require(slot < index_t(tokens.size()),
                    "RoutingPlan: token_of_slot has an element for each slot" + which);
            require(tokens[std::size_t(slot)] == index_t(i) / ids.cols,
                    "RoutingPlan: a slot leads back to its token" + which);
            ++slot;
        }
        require(counts[std::size_t(e)] == slot - offsets[std::size_t(e)],
                "RoutingPlan: tokens_per_expert counts the kept choices" + which);
    }
    require(offsets[std::size_t(E)] == slot, "RoutingPlan: the last offset is the number of slots");
    for (std::size_t i = 0; i < id.size(); ++i)
        require((id[i] >= 0 && id[i] < E) || slot_of[i] == -1,
                "RoutingPlan: a dropped choice has slot -1");
}

} // namespace semoe::testing
