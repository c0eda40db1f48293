#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"

#include <cmath>

namespace semoe::ops::cpu {

/// The definition of what the tuned kernels compute. Where the compiler knows no instruction for
/// it, std::fma is a call, and on processors without one it is slow: for old machines and tests.
struct PortableKernels {
    template <class T>
    static void multiply(PanelProduct<T> const& product) {
        for (index_t p = 0; p < product.panels; ++p)
            for (index_t r = 0; r < product.rows; ++r) row(product.from_panel(p).from_row(r));
    }

    /// out[k][j] = from[j * ld + k] for j < rows; zero for the other j of 16.
    template <class T>
    static void transpose(T const* from, index_t ld, int rows, index_t depth, float* out) {
        for (index_t k = 0; k < depth; ++k)
            for (int j = 0; j < panel_columns; ++j)
                out[k * panel_columns + j] = j < rows ? float(from[j * ld + k]) : 0.0f;
    }

    template <class T>
    static void widen(T const* from, index_t ld, index_t rows, index_t cols, float* to,
                      index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld)
            for (index_t i = 0; i < cols; ++i) to[i] = float(from[i]);
    }
    template <class T>
    static void narrow(float const* from, index_t ld, index_t rows, index_t cols, T* to,
                       index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld)
            for (index_t i = 0; i < cols; ++i) to[i] = T(from[i]);
    }

    /// Applies an elementwise body (ops/detail/elementwise.hpp) to columns [first, last) of a
    /// place.
    template <class Body, class Place>
    static void map(Body const& body, Place at, index_t first, index_t last) {
        typename Body::Real x[Body::inputs][16], y[Body::outputs][16];
        for (; first < last; first += 16) {
            index_t const n = last - first < 16 ? last - first : 16;
            for (int i = 0; i < Body::inputs; ++i) load_block(body.in(i, at) + first, n, x[i]);
            body.compute(x, y);
            for (int i = 0; i < Body::outputs; ++i) store_block(y[i], n, body.out(i, at) + first);
        }
    }

private:
    template <class T>
    static void load_block(T const* from, index_t n, float (&to)[16]) {
        for (index_t j = 0; j < 16; ++j) to[j] = j < n ? float(from[j]) : 0.0f;
    }
    template <class T>
    static void store_block(float const (&from)[16], index_t n, T* to) {
        for (index_t j = 0; j < n; ++j) to[j] = T(from[j]);
    }
    static void load_block(double const* from, index_t n, double (&to)[16]) {
        for (index_t j = 0; j < 16; ++j) to[j] = j < n ? from[j] : 0.0;
    }
    static void store_block(double const (&from)[16], index_t n, double* to) {
        for (index_t j = 0; j < n; ++j) to[j] = from[j];
    }

    template <class T>
    static void row(PanelProduct<T> const& product) {
        float sum[panel_columns] = {};
        if (product.add)
            for (int j = 0; j < panel_columns; ++j) sum[j] = product.c[j];
        for (index_t k = 0; k < product.depth; ++k) {
            float const a = product.a[k * product.a_k];
            T const* b = product.b + k * product.b_k;
            for (int j = 0; j < panel_columns; ++j) sum[j] = std::fma(a, float(b[j]), sum[j]);
        }
        for (int j = 0; j < panel_columns; ++j) product.c[j] = sum[j];
    }
};

} // namespace semoe::ops::cpu
