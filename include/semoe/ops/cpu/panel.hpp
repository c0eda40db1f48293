#pragma once

#include "semoe/core/types.hpp"

namespace semoe::ops::cpu {

/// Columns of one panel: the width of an AVX-512 register of floats.
inline constexpr int panel_columns = 16;

/// Some rows of a product with some panels of 16 columns, for j in [0,16):
///     c(r, p, j) = (add ? c(r, p, j) : 0) + sum over k of a(r, k) * b(p, k, j)
/// Every element is one chain of fused multiply-adds in order of k, whatever the instruction set
/// and whatever else is computed beside it, so results agree to the bit.
/// @tparam T  of b: float, or bf16 or f16 widened to float
template <class T>
struct PanelProduct {
    float const* a; ///< a(r, k) = a[r * a_row + k * a_k]
    index_t a_row, a_k;
    T const* b; ///< b(p, k, j) = b[p * b_panel + k * b_k + j]
    index_t b_k, b_panel;
    float* c; ///< c(r, p, j) = c[r * c_row + p * c_panel + j]
    index_t c_row, c_panel;
    index_t rows, panels, depth;
    bool add;

    /// The product from row `first` on.
    PanelProduct from_row(index_t first) const {
        PanelProduct rest = *this;
        rest.a += first * a_row, rest.c += first * c_row, rest.rows -= first;
        return rest;
    }
    /// The same product with other panels.
    template <class U>
    PanelProduct<U> with_panels(U const* other) const {
        return {a, a_row, a_k, other, b_k, b_panel, c, c_row, c_panel, rows, panels, depth, add};
    }
    PanelProduct from_panel(index_t first) const {
        PanelProduct rest = *this;
        rest.b += first * b_panel, rest.c += first * c_panel, rest.panels -= first;
        return rest;
    }
};

} // namespace semoe::ops::cpu
