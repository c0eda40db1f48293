#pragma once

#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"

namespace semoe {

/// What a row's softmax needs besides the row: its largest element and the sum of e^(z - largest).
template <class Real>
struct LogSumExp {
    Real largest, sum;

    SEMOE_HD Real value() const { return largest + log(sum); }
    SEMOE_HD Real probability(Real z) const { return exp(z - largest) / sum; }
};

/// @param row  row[i] for i in [0,n): an array, or an object that computes its elements
/// @pre n >= 1
template <class Real, class Row>
SEMOE_HD LogSumExp<Real> log_sum_exp(Row const& row, index_t n) {
    LogSumExp<Real> r{row[0], 0};
    for (index_t i = 1; i < n; ++i) r.largest = max(Real(row[i]), r.largest);
    for (index_t i = 0; i < n; ++i) r.sum += exp(row[i] - r.largest);
    return r;
}

} // namespace semoe
