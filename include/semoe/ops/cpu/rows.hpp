#pragma once

#include "semoe/core/types.hpp"

namespace semoe::ops::cpu {

/// Work on whole rows of floats, or of bf16 or f16 widened to float. Sums are chains of fused
/// multiply-adds in the order given here, so every instruction set gives the same bits.

/// to[c] = factor * base[c] + sum over i of weights[i] * rows[slots[i]][c], added in order of i.
template <class T, class Base>
struct RowSum {
    Base const* base; ///< null: from zero
    float factor;
    T const* rows;
    index_t ld;
    index_t const* slots; ///< negative: nothing is added
    index_t const* next;  ///< slots that will be wanted next, for a prefetch; null: not known
    float const* weights; ///< null: all one
    index_t count;
    T* to;
    index_t cols;

    /// The sum of the columns from `first` on.
    RowSum from_column(index_t first) const {
        RowSum rest = *this;
        if (base) rest.base += first;
        if (rows) rest.rows += first;
        rest.to += first, rest.cols -= first;
        return rest;
    }
};

/// d_row[c] = w * dy[c] and *dot = <dy, row>. The sum runs in `lanes` chains, column c in chain
/// c % lanes, folded by halves.
template <class T, class Row>
struct RowWeight {
    static constexpr int lanes = 64;
    T const* dy;
    Row const* row; ///< may be d_row
    float w;
    Row* d_row;
    index_t cols;
    float* dot;
    Row const* next; ///< row that will be wanted next, for a prefetch; may be row
};

/// c(m, n) = <a row m, w row n>. The sum runs in 16 chains, as RowWeight's.
template <class A, class W>
struct RowDots {
    static constexpr int lanes = 16;
    A const* a;
    index_t a_ld;
    W const* w;
    index_t w_ld;
    float* c;
    index_t c_ld;
    index_t rows, cols, depth;
};

/// Adds lanes up: each half to the other until one is left.
template <int N>
float fold(float (&lanes)[N]) {
    for (int half = N / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    return lanes[0];
}

} // namespace semoe::ops::cpu
