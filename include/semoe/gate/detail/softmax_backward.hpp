#pragma once

#include "semoe/routing/log_sum_exp.hpp"

namespace semoe::gate::detail {

/// Gradient of one row whose weight i is softmax(row)[ids[i]]: written to all E of d_row.
/// @param ids  [K], -1 chooses nobody
template <class Real, class Row>
SEMOE_HD SEMOE_INLINE void softmax_backward(Row const& row, index_t num_experts,
                                            expert_id const* ids, Real const* d_weights, index_t k,
                                            Real* d_row) {
    LogSumExp<Real> const all = log_sum_exp<Real>(row, num_experts);
    for (index_t e = 0; e < num_experts; ++e) d_row[e] = 0;
    Real dot = 0;
    for (index_t i = 0; i < k; ++i) {
        if (ids[i] < 0) continue;
        d_row[ids[i]] = d_weights[i];
        dot += d_weights[i] * all.probability(row[ids[i]]);
    }
    constexpr index_t lanes = LogSumExp<Real>::lanes;
    Real const scale = Real(1) / all.sum;
    for (index_t first = 0; first < num_experts; first += lanes) {
        Real p[lanes], d[lanes];
        index_t const n = min(num_experts - first, lanes);
        all.exponentials(row, first, n, p);
        for (index_t j = 0; j < lanes; ++j) d[j] = j < n ? d_row[first + j] : Real(0);
        for (index_t j = 0; j < lanes; ++j) d[j] = p[j] * scale * (d[j] - dot);
        for (index_t j = 0; j < n; ++j) d_row[first + j] = d[j];
    }
}

} // namespace semoe::gate::detail
