#pragma once

#include "semoe/routing/log_sum_exp.hpp"

namespace semoe::gate::detail {

/// d_row[e] = softmax(row)[e] * (d_row[e] - dot)
template <class Real, class Row>
struct PullThroughSoftmax {
    LogSumExp<Real> all;
    Row row;
    index_t n;
    Real dot;
    Real* d_row;

    SEMOE_HD SEMOE_INLINE void operator()() const {
        constexpr index_t lanes = LogSumExp<Real>::lanes;
        Real const scale = Real(1) / all.sum;
        for (index_t first = 0; first < n; first += lanes) {
            Real p[lanes], d[lanes];
            index_t const left = min(n - first, lanes);
            all.exponentials(row, first, left, p);
            for (index_t j = 0; j < lanes; ++j) d[j] = j < left ? d_row[first + j] : Real(0);
            for (index_t j = 0; j < lanes; ++j) d[j] = p[j] * scale * (d[j] - dot);
            for (index_t j = 0; j < left; ++j) d_row[first + j] = d[j];
        }
    }
};

/// Gradient of one row whose weights[i] is factor * softmax(row)[ids[i]]: written to all E of
/// d_row.
/// @param ids  [K], -1 chooses nobody
template <class Real, class Row>
SEMOE_HD void softmax_backward(Row const& row, index_t num_experts, expert_id const* ids,
                               Real const* weights, Real const* d_weights, index_t k, Real factor,
                               Real* d_row) {
    for (index_t e = 0; e < num_experts; ++e) d_row[e] = 0;
    Real dot = 0;
    for (index_t i = 0; i < k; ++i) {
        if (ids[i] < 0) continue;
        d_row[ids[i]] = factor * d_weights[i];
        dot += d_weights[i] * weights[i];
    }
    ops::vectorised(PullThroughSoftmax<Real, Row>{log_sum_exp<Real>(row, num_experts), row,
                                                  num_experts, dot, d_row});
}

} // namespace semoe::gate::detail
