#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"
#include "semoe/ops/cpu/rows.hpp"

#if SEMOE_ARM
#include <arm_neon.h>
#include <utility>

namespace semoe::ops::cpu {

/// Tiles of 5 rows by one panel: 20 chains in 32 registers, beside what they are made of. Needs
/// what every 64-bit ARM has, no extension, so 16-bit elements are widened; what is not here takes
/// the portable form.
struct NeonKernels : PortableKernels {
    template <class T>
    static void multiply(PanelProduct<T> const& product) {
        for (index_t p = 0; p < product.panels; ++p) rows(product.from_panel(p));
    }

    template <class T>
    static void transpose(T const* from, index_t ld, int rows, index_t depth, float* out) {
        index_t k = 0;
        std::make_integer_sequence<int, 4> const lines;
        for (; k + 4 <= depth; k += 4)
            for (int j = 0; j < 16; j += 4)
                transpose_4(from + k, ld, j, rows, out + k * 16 + j, lines);
        for (; k < depth; ++k)
            for (int j = 0; j < 16; ++j)
                out[k * 16 + j] = j < rows ? float(from[j * ld + k]) : 0.0f;
    }

    template <class T>
    static void widen(T const* from, index_t ld, index_t rows, index_t cols, float* to,
                      index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 4 <= cols; i += 4) store(to + i, load(from + i));
            for (; i < cols; ++i) to[i] = float(from[i]);
        }
    }
    template <class T>
    static void narrow(float const* from, index_t ld, index_t rows, index_t cols, T* to,
                       index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 4 <= cols; i += 4) store(to + i, load(from + i));
            for (; i < cols; ++i) to[i] = T(from[i]);
        }
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

    template <class T, class Base>
    static void sum_rows(RowSum<T, Base> const& s) {
        index_t c = 0;
        for (; c + 64 <= s.cols; c += 64) sum_block(s, c, std::make_integer_sequence<int, 16>{});
        for (; c + 4 <= s.cols; c += 4) sum_block(s, c, std::make_integer_sequence<int, 1>{});
        if (c < s.cols) PortableKernels::sum_rows(s.from_column(c));
    }
    template <class T, class Row>
    static void weigh_row(RowWeight<T, Row> const& r) {
        weigh(r, std::make_integer_sequence<int, RowWeight<T, Row>::lanes / 4>{});
    }
    template <class A, class W>
    static void dot_rows(RowDots<A, W> const& d) {
        index_t m = 0;
        for (; m + 2 <= d.rows; m += 2) dot_row_block<2, 2>(d, m);
        for (; m < d.rows; ++m) dot_row_block<1, 4>(d, m);
    }

    /// Four numbers from or to memory that need not be aligned.
    SEMOE_INLINE static float32x4_t load(float const* p) { return vld1q_f32(p); }
    SEMOE_INLINE static float32x4_t load(bf16 const* p) {
        return vreinterpretq_f32_u32(vshll_n_u16(load_bits(p), 16));
    }
    SEMOE_INLINE static float32x4_t load(f16 const* p) {
        return vcvt_f32_f16(vreinterpret_f16_u16(load_bits(p)));
    }
    SEMOE_INLINE static void store(float* p, float32x4_t x) { vst1q_f32(p, x); }
    SEMOE_INLINE static void store(bf16* p, float32x4_t x) {
        uint32x4_t const u = vreinterpretq_u32_f32(x);
        uint32x4_t const odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        uint32x4_t const rounded = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        uint32x4_t const quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
        store_bits(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
    }
    SEMOE_INLINE static void store(f16* p, float32x4_t x) {
        store_bits(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
    }

private:
    template <class T>
    SEMOE_INLINE static uint16x4_t load_bits(T const* p) {
        return vld1_u16(reinterpret_cast<std::uint16_t const*>(p));
    }
    template <class T>
    SEMOE_INLINE static void store_bits(T* p, uint16x4_t bits) {
        vst1_u16(reinterpret_cast<std::uint16_t*>(p), bits);
    }
    template <class T>
    SEMOE_INLINE static void load_block(T const* from, index_t n, float (&to)[16]) {
        if (n == 16)
            for (int j = 0; j < 16; j += 4) store(to + j, load(from + j));
        else
            for (index_t j = 0; j < 16; ++j) to[j] = j < n ? float(from[j]) : 0.0f;
    }
    template <class T>
    SEMOE_INLINE static void store_block(float const (&from)[16], index_t n, T* to) {
        if (n == 16)
            for (int j = 0; j < 16; j += 4) store(to + j, load(from + j));
        else
            for (index_t j = 0; j < n; ++j) to[j] = T(from[j]);
    }
    static void load_block(double const* from, index_t n, double (&to)[16]) {
        for (index_t j = 0; j < 16; ++j) to[j] = j < n ? from[j] : 0.0;
    }
    static void store_block(double const (&from)[16], index_t n, double* to) {
        for (index_t j = 0; j < n; ++j) to[j] = from[j];
    }

    template <class T>
    static void rows(PanelProduct<T> const& product) {
        for (index_t r = 0, height = 0; r < product.rows; r += height) {
            index_t const left = product.rows - r;
            // 6 to 8 rows make two tiles alike, not one of 5 and a slow one of few.
            height = left <= 5 ? left : left <= 8 ? (left + 1) / 2 : 5;
            PanelProduct<T> const part = product.from_row(r);
            switch (height) {
            case 5:
                tile(part, std::make_integer_sequence<int, 5>{});
                break;
            case 4:
                tile(part, std::make_integer_sequence<int, 4>{});
                break;
            case 3:
                tile(part, std::make_integer_sequence<int, 3>{});
                break;
            case 2:
                tile(part, std::make_integer_sequence<int, 2>{});
                break;
            default:
                tile(part, std::make_integer_sequence<int, 1>{});
            }
        }
    }

    template <class T, int... R>
    static void tile(PanelProduct<T> const product, std::integer_sequence<int, R...>) {
        float* const c = product.c;
        index_t const c_row = product.c_row;
        float32x4_t s0[sizeof...(R)], s1[sizeof...(R)], s2[sizeof...(R)], s3[sizeof...(R)];
        if (product.add)
            ((s0[R] = load(c + R * c_row), s1[R] = load(c + R * c_row + 4),
              s2[R] = load(c + R * c_row + 8), s3[R] = load(c + R * c_row + 12)),
             ...);
        else
            ((s0[R] = s1[R] = s2[R] = s3[R] = vdupq_n_f32(0)), ...);
        float const* a = product.a;
        T const* b = product.b;
        index_t const a_row = product.a_row, a_k = product.a_k, b_k = product.b_k;
        for (index_t k = product.depth; k > 0; --k, a += a_k, b += b_k) {
            float32x4_t const b0 = load(b), b1 = load(b + 4), b2 = load(b + 8), b3 = load(b + 12);
            float a_r;
            ((a_r = a[R * a_row], s0[R] = vfmaq_n_f32(s0[R], b0, a_r),
              s1[R] = vfmaq_n_f32(s1[R], b1, a_r), s2[R] = vfmaq_n_f32(s2[R], b2, a_r),
              s3[R] = vfmaq_n_f32(s3[R], b3, a_r)),
             ...);
        }
        ((store(c + R * c_row, s0[R]), store(c + R * c_row + 4, s1[R]),
          store(c + R * c_row + 8, s2[R]), store(c + R * c_row + 12, s3[R])),
         ...);
    }

    /// Rows lie anywhere, so the processor's own prefetch sees none of them coming.
    template <class T>
    SEMOE_INLINE static void prefetch(T const* p, index_t n) {
        for (index_t i = 0; i < n; i += index_t(64 / sizeof(T))) __builtin_prefetch(p + i, 0, 2);
    }
    template <class T, class Base, int... I>
    SEMOE_INLINE static void sum_block(RowSum<T, Base> const& s, index_t c,
                                       std::integer_sequence<int, I...>) {
        float32x4_t sum[sizeof...(I)];
        if (s.base)
            ((sum[I] = vmulq_n_f32(load(s.base + c + I * 4), s.factor)), ...);
        else
            ((sum[I] = vdupq_n_f32(0)), ...);
        for (index_t i = 0; i < s.count; ++i) {
            if (s.slots[i] < 0) continue;
            T const* const from = s.rows + s.slots[i] * s.ld + c;
            float const w = s.weights ? s.weights[i] : 1.0f;
            ((sum[I] = vfmaq_n_f32(sum[I], load(from + I * 4), w)), ...);
            if (s.next && s.next[i] >= 0) prefetch(s.rows + s.next[i] * s.ld + c, sizeof...(I) * 4);
        }
        (store(s.to + c + I * 4, sum[I]), ...);
    }
    template <class T, class Row, int... I>
    static void weigh(RowWeight<T, Row> const r, std::integer_sequence<int, I...>) {
        float32x4_t sum[sizeof...(I)], d;
        ((sum[I] = vdupq_n_f32(0)), ...);
        index_t c = 0;
        for (; c + r.lanes <= r.cols; c += r.lanes) {
            ((d = load(r.dy + c + I * 4), sum[I] = vfmaq_f32(sum[I], d, load(r.row + c + I * 4)),
              store(r.d_row + c + I * 4, vmulq_n_f32(d, r.w))),
             ...);
            prefetch(r.next + c, r.lanes);
        }
        float lanes[r.lanes];
        (store(lanes + I * 4, sum[I]), ...);
        for (int j = 0; c < r.cols; ++c, ++j) {
            float const last = float(r.dy[c]);
            lanes[j] = __builtin_fmaf(last, float(r.row[c]), lanes[j]);
            r.d_row[c] = Row(r.w * last);
        }
        *r.dot = fold(lanes);
    }
    /// Rows [m, m + M) of a with all of w, in tiles of N.
    template <int M, int N, class A, class W>
    static void dot_row_block(RowDots<A, W> const& d, index_t m) {
        index_t n = 0;
        for (; n + N <= d.cols; n += N)
            dot_tile<M, N>(d, m, n, std::make_integer_sequence<int, 4 * M * N>{});
        for (; n < d.cols; ++n) dot_tile<M, 1>(d, m, n, std::make_integer_sequence<int, 4 * M>{});
    }
    /// Four lanes at a time of each of M * N dots.
    template <int M, int N, class A, class W, int... I>
    static void dot_tile(RowDots<A, W> const& d, index_t m, index_t n,
                         std::integer_sequence<int, I...>) {
        constexpr int dots = M * N;
        float32x4_t sum[sizeof...(I)];
        ((sum[I] = vdupq_n_f32(0)), ...);
        A const* const a = d.a + m * d.a_ld;
        W const* const w = d.w + n * d.w_ld;
        index_t k = 0;
        for (; k + 16 <= d.depth; k += 16)
            ((sum[I] = vfmaq_f32(sum[I], load(a + I % M * d.a_ld + k + I / dots * 4),
                                 load(w + I % dots / M * d.w_ld + k + I / dots * 4))),
             ...);
        float lanes[dots][16];
        (store(lanes[I % dots] + I / dots * 4, sum[I]), ...);
        for (int i = 0; i < dots; ++i) {
            for (index_t j = 0; k + j < d.depth; ++j)
                lanes[i][j] = __builtin_fmaf(float(a[i % M * d.a_ld + k + j]),
                                             float(w[i / M * d.w_ld + k + j]), lanes[i][j]);
            d.c[(m + i % M) * d.c_ld + n + i / M] = fold(lanes[i]);
        }
    }

    /// Two rounds of exchanges between lines 1 and 2 apart.
    template <class T, int... I>
    SEMOE_INLINE static void transpose_4(T const* from, index_t ld, int first, int rows, float* out,
                                         std::integer_sequence<int, I...>) {
        float32x4_t x[4], t[4];
        ((x[I] = first + I < rows ? load(from + (first + I) * ld) : vdupq_n_f32(0)), ...);
        ((t[I] = exchange_1<I % 2 != 0>(x[I & ~1], x[I | 1])), ...);
        ((x[I] = exchange_2<(I >= 2)>(t[I % 2], t[I % 2 + 2])), ...);
        (store(out + std::ptrdiff_t(I) * 16, x[I]), ...);
    }
    template <bool High>
    SEMOE_INLINE static float32x4_t exchange_1(float32x4_t a, float32x4_t b) {
        return High ? vtrn2q_f32(a, b) : vtrn1q_f32(a, b);
    }
    template <bool High>
    SEMOE_INLINE static float32x4_t exchange_2(float32x4_t a, float32x4_t b) {
        float64x2_t const x = vreinterpretq_f64_f32(a), y = vreinterpretq_f64_f32(b);
        return vreinterpretq_f32_f64(High ? vtrn2q_f64(x, y) : vtrn1q_f64(x, y));
    }
};

} // namespace semoe::ops::cpu
#endif
