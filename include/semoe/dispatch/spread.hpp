#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cost.hpp"
#include "semoe/core/error.hpp"
#include "semoe/ops/permute.hpp"

namespace semoe {

namespace detail {
/// One piece of one choice's row an index.
template <class T, class Space>
struct SpreadRows {
    MatrixView<T const, Space> x;
    MatrixView<index_t const, Space> slot_of;
    MatrixView<T, Space> rows;
    SEMOE_HD void operator()(index_t i) const {
        index_t const pieces = ops::detail::segments_of(x.cols), choice = i / pieces;
        index_t const t = choice / slot_of.cols, slot = slot_of(t, choice % slot_of.cols);
        if (slot < 0) return;
        index_t const begin = i % pieces * ops::detail::segment_length;
        index_t const end = ops::detail::segment_end(begin, x.cols);
        ops::detail::convert_run(x.row(t) + begin, end - begin, rows.row(slot) + begin);
    }
    /// As if no choice was dropped.
    Cost cost() const {
        return {0, double(x.rows * (1 + slot_of.cols)) * double(x.cols) * double(sizeof(T))};
    }
};
/// The same on a host's workers, one token an index: its row is read once.
template <class T>
struct HostSpreadRows {
    ops::detail::HostCopyRow copy;
    SpreadRows<T, HostSpace> all;
    void operator()(index_t t) const {
        for (index_t k = 0; k < all.slot_of.cols; ++k)
            if (index_t const slot = all.slot_of(t, k); slot >= 0)
                copy(all.x.row(t), all.x.cols, all.rows.row(slot));
        copy.finish();
    }
};
} // namespace detail

/// Gives every token's row to the slots of its choices: rows[slot_of(t,k)] = x[t].
/// @param x        [T,H], backend memory
/// @param slot_of  [T,K], distinct slots of rows; -1 where a choice was dropped
/// @param rows     [S,H], not overlapping x; rows that no slot names keep what they hold
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost reads T rows, writes T K; no allocation
template <Backend B, class T>
void spread_rows(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> x,
                 MatrixView<index_t const, space_of<B>> slot_of, MatrixView<T, space_of<B>> rows) {
    expects(x.rows == slot_of.rows && x.cols == rows.cols,
            "spread_rows: x is {}, slot_of {}, rows {}", x, slot_of, rows);
    if (x.cols == 0) return;
    detail::SpreadRows<T, space_of<B>> const all{x, slot_of, rows};
    if constexpr (HasWorkers<B>)
        b.parallel_for(x.rows, detail::HostSpreadRows<T>{
                                   ops::detail::HostCopyRow::of<T>(rows.rows * rows.cols), all});
    else
        b.parallel_for(x.rows * slot_of.cols * ops::detail::segments_of(x.cols), all);
}

} // namespace semoe
