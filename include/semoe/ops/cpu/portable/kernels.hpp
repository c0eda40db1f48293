#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"
#include "semoe/ops/cpu/rows.hpp"

#include <cmath>
#include <cstring>

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

    /// f(), compiled for this instruction set as far as it is inlined.
    template <class F>
    static auto call(F const& f) {
        return f();
    }
    template <class T, class Base>
    static void sum_rows(RowSum<T, Base> const& s) {
        for (index_t c = 0; c < s.cols; ++c) {
            float sum = s.base ? s.factor * float(s.base[c]) : 0.0f;
            for (index_t i = 0; i < s.count; ++i)
                if (s.slots[i] >= 0)
                    sum = std::fma(s.weights ? s.weights[i] : 1.0f,
                                   float(s.rows[s.slots[i] * s.ld + c]), sum);
            s.to[c] = T(sum);
        }
    }
    template <class T, class Row>
    static void weigh_row(RowWeight<T, Row> const& r) {
        float lanes[RowWeight<T, Row>::lanes] = {};
        for (index_t c = 0; c < r.cols; ++c) {
            float const d = float(r.dy[c]);
            float& lane = lanes[c % RowWeight<T, Row>::lanes];
            lane = std::fma(d, float(r.row[c]), lane);
            r.d_row[c] = Row(r.w * d);
        }
        *r.dot = fold(lanes);
    }
    template <class A, class W>
    static void dot_rows(RowDots<A, W> const& d) {
        for (index_t m = 0; m < d.rows; ++m)
            for (index_t n = 0; n < d.cols; ++n) {
                float lanes[RowDots<A, W>::lanes] = {};
                A const* a = d.a + m * d.a_ld;
                W const* w = d.w + n * d.w_ld;
                for (index_t k = 0; k < d.depth; ++k) {
                    float& lane = lanes[k % RowDots<A, W>::lanes];
                    lane = std::fma(float(a[k]), float(w[k]), lane);
                }
                d.c[m * d.c_ld + n] = fold(lanes);
            }
    }
    /// Copies a row; past: it will not be read soon, so it may go past the caches.
    static void copy_row(std::byte const* from, std::size_t bytes, std::byte* to, bool) {
        std::memcpy(to, from, bytes);
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
