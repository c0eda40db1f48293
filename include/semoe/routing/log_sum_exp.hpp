#pragma once

#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"
#include "semoe/ops/vectorised.hpp"

namespace semoe {

/// What a row's softmax needs besides the row: its largest element and the sum of e^(z - largest).
template <class Real>
struct LogSumExp {
    /// Rows are taken sixteen elements at a time, which vector units do at once.
    static constexpr index_t lanes = 16;

    Real largest, sum;

    SEMOE_HD Real value() const { return largest + log(sum); }
    SEMOE_HD SEMOE_INLINE Real probability(Real z) const { return exp(z - largest) / sum; }

    /// e[j] = e^(row[first + j] - largest), zero from the row's end on.
    /// @param left  elements from `first` to the row's end
    template <class Row>
    SEMOE_HD SEMOE_INLINE void exponentials(Row const& row, index_t first, index_t left,
                                            Real (&e)[lanes]) const {
        if (left >= lanes)
            for (index_t j = 0; j < lanes; ++j) e[j] = Real(row[first + j]);
        else
            for (index_t j = 0; j < lanes; ++j) e[j] = j < left ? Real(row[first + j]) : largest;
        for (index_t j = 0; j < lanes; ++j) e[j] = exp(e[j] - largest);
        for (index_t j = left; j < lanes; ++j) e[j] = 0;
    }
    /// to[i] = factor * softmax(row)[i] for i in [0,n); to may be the row.
    SEMOE_HD void probabilities(Real const* row, index_t n, Real factor, Real* to) const;
};

namespace detail {

template <class Real, class Row>
struct SumExponentials {
    Row row;
    index_t n;

    SEMOE_HD SEMOE_INLINE LogSumExp<Real> operator()() const {
        constexpr index_t lanes = LogSumExp<Real>::lanes;
        Real most[lanes], sums[lanes] = {}, e[lanes];
        for (index_t j = 0; j < lanes; ++j) most[j] = Real(row[0]);
        index_t i = 0;
        for (; i + lanes <= n; i += lanes)
            for (index_t j = 0; j < lanes; ++j) most[j] = max(Real(row[i + j]), most[j]);
        for (index_t j = 0; i + j < n; ++j) most[j] = max(Real(row[i + j]), most[j]);
        LogSumExp<Real> r{most[0], 0};
        for (index_t j = 1; j < lanes; ++j) r.largest = max(most[j], r.largest);
        for (i = 0; i < n; i += lanes) {
            r.exponentials(row, i, n - i, e);
            for (index_t j = 0; j < lanes; ++j) sums[j] += e[j];
        }
        for (index_t j = 0; j < lanes; ++j) r.sum += sums[j];
        return r;
    }
};
template <class Real>
struct Probabilities {
    LogSumExp<Real> all;
    Real const* row;
    index_t n;
    Real factor;
    Real* to;

    SEMOE_HD SEMOE_INLINE void operator()() const {
        constexpr index_t lanes = LogSumExp<Real>::lanes;
        Real const scale = factor / all.sum;
        for (index_t c = 0; c < n; c += lanes) {
            Real e[lanes];
            all.exponentials(row, c, n - c, e);
            for (index_t j = 0; j < lanes; ++j) e[j] *= scale;
            if (n - c >= lanes)
                for (index_t j = 0; j < lanes; ++j) to[c + j] = e[j];
            else
                for (index_t j = 0; c + j < n; ++j) to[c + j] = e[j];
        }
    }
};

} // namespace detail

template <class Real>
SEMOE_HD void LogSumExp<Real>::probabilities(Real const* row, index_t n, Real factor,
                                             Real* to) const {
    ops::vectorised(detail::Probabilities<Real>{*this, row, n, factor, to});
}

/// The sum runs in 16 lanes, which are then added in order.
/// @param row  row[i] for i in [0,n): a pointer, or an object that computes its elements
/// @pre n >= 1
template <class Real, class Row>
SEMOE_HD LogSumExp<Real> log_sum_exp(Row row, index_t n) {
    return ops::vectorised(detail::SumExponentials<Real, Row>{row, n});
}

} // namespace semoe
