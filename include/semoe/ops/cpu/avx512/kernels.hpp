#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"
#include "semoe/ops/cpu/rows.hpp"

#if SEMOE_X86
#include <immintrin.h>
#include <utility>

#define SEMOE_AVX512 SEMOE_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

namespace semoe::ops::cpu {

/// Tiles of 8 rows by 2 panels: 16 chains in registers, so neither latency nor loads bind.
struct Avx512Kernels {
    template <class T>
    static void multiply(PanelProduct<T> const& product) {
        index_t p = 0;
        for (; p + 2 <= product.panels; p += 2) rows<T, true>(product.from_panel(p));
        if (p < product.panels) rows<T, false>(product.from_panel(p));
    }

    template <class T>
    SEMOE_AVX512 static void transpose(T const* from, index_t ld, int rows, index_t depth,
                                       float* out) {
        index_t k = 0;
        for (; k + 16 <= depth; k += 16)
            transpose_16(from + k, ld, rows, out + k * 16, std::make_integer_sequence<int, 16>{});
        for (; k < depth; ++k)
            for (int j = 0; j < 16; ++j)
                out[k * 16 + j] = j < rows ? float(from[j * ld + k]) : 0.0f;
    }

    template <class T>
    SEMOE_AVX512 static void widen(T const* from, index_t ld, index_t rows, index_t cols, float* to,
                                   index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 16 <= cols; i += 16) _mm512_storeu_ps(to + i, load(from + i));
            for (; i < cols; ++i) to[i] = float(from[i]);
        }
    }
    template <class T>
    SEMOE_AVX512 static void narrow(float const* from, index_t ld, index_t rows, index_t cols,
                                    T* to, index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 16 <= cols; i += 16) store(to + i, _mm512_loadu_ps(from + i));
            for (; i < cols; ++i) to[i] = T(from[i]);
        }
    }

    /// Applies an elementwise body (ops/detail/elementwise.hpp) to columns [first, last) of a
    /// place.
    template <class Body, class Place>
    SEMOE_AVX512 static void map(Body const& body, Place at, index_t first, index_t last) {
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
    SEMOE_AVX512 static auto call(F const& f) {
        return f();
    }
    template <class T, class Base>
    SEMOE_AVX512 static void sum_rows(RowSum<T, Base> const& s) {
        index_t c = 0;
        for (; c + 128 <= s.cols; c += 128) sum_block(s, c, std::make_integer_sequence<int, 8>{});
        for (; c + 16 <= s.cols; c += 16) sum_block(s, c, std::make_integer_sequence<int, 1>{});
        if (c < s.cols) PortableKernels::sum_rows(s.from_column(c));
    }
    template <class T, class Row>
    SEMOE_AVX512 static void weigh_row(RowWeight<T, Row> const& r) {
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                         _mm512_setzero_ps()};
        __m512 const w = _mm512_set1_ps(r.w);
        index_t c = 0;
        for (; c + 64 <= r.cols; c += 64) {
            for (int i = 0; i < 4; ++i) {
                __m512 const d = load(r.dy + c + i * 16);
                sum[i] = _mm512_fmadd_ps(d, load(r.row + c + i * 16), sum[i]);
                store(r.d_row + c + i * 16, _mm512_mul_ps(w, d));
            }
            prefetch(r.next + c, 64);
        }
        float lanes[64];
        for (index_t i = 0; i < 4; ++i) _mm512_storeu_ps(lanes + i * 16, sum[i]);
        for (int j = 0; c < r.cols; ++c, ++j) {
            float const d = float(r.dy[c]);
            lanes[j] = __builtin_fmaf(d, float(r.row[c]), lanes[j]);
            r.d_row[c] = Row(r.w * d);
        }
        *r.dot = fold(lanes);
    }
    template <class A, class W>
    static void dot_rows(RowDots<A, W> const& d) {
        index_t m = 0;
        for (; m + 4 <= d.rows; m += 4) dot_row_block<4, 6>(d, m);
        for (; m < d.rows; ++m) dot_row_block<1, 8>(d, m);
    }
    SEMOE_AVX512 static void copy_row(std::byte const* from, std::size_t bytes, std::byte* to,
                                      bool past) {
        if (!past || reinterpret_cast<std::uintptr_t>(to) % 64 != 0)
            return void(std::memcpy(to, from, bytes));
        std::size_t i = 0;
        for (; i + 64 <= bytes; i += 64)
            _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
        std::memcpy(to + i, from + i, bytes - i);
    }

private:
    SEMOE_AVX512 SEMOE_INLINE static __m512 load(float const* p) { return _mm512_loadu_ps(p); }
    SEMOE_AVX512 SEMOE_INLINE static __m512 load(bf16 const* p) {
        // The forms with a mask, here and below: g++ 12 warns of what lies inside the plain ones.
        __m256i const bits = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p));
        __m512i const wide = _mm512_maskz_cvtepu16_epi32(0xffff, bits);
        return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, wide, 16));
    }
    SEMOE_AVX512 SEMOE_INLINE static __m512 load(f16 const* p) {
        __m256i const bits = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p));
        return _mm512_maskz_cvtph_ps(0xffff, bits);
    }
    SEMOE_AVX512 SEMOE_INLINE static void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
    SEMOE_AVX512 SEMOE_INLINE static void store(bf16* p, __m512 x) {
        __m512i const u = _mm512_castps_si512(x);
        __m512i const upper = _mm512_maskz_srli_epi32(0xffff, u, 16);
        __m512i const odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        __m512i const rounded = _mm512_maskz_srli_epi32(
            0xffff, _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
        __m512i const quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
        __mmask16 const nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        __m512i const words = _mm512_mask_blend_epi32(nan, rounded, quiet);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_maskz_cvtepi32_epi16(0xffff, words));
    }
    SEMOE_AVX512 SEMOE_INLINE static void store(f16* p, __m512 x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
    }
    template <class T>
    SEMOE_AVX512 SEMOE_INLINE static void load_block(T const* from, index_t n, float (&to)[16]) {
        if (n == 16)
            _mm512_storeu_ps(to, load(from));
        else
            for (index_t j = 0; j < 16; ++j) to[j] = j < n ? float(from[j]) : 0.0f;
    }
    template <class T>
    SEMOE_AVX512 SEMOE_INLINE static void store_block(float const (&from)[16], index_t n, T* to) {
        if (n == 16)
            store(to, _mm512_loadu_ps(from));
        else
            for (index_t j = 0; j < n; ++j) to[j] = T(from[j]);
    }
    SEMOE_AVX512 static void load_block(double const* from, index_t n, double (&to)[16]) {
        for (index_t j = 0; j < 16; ++j) to[j] = j < n ? from[j] : 0.0;
    }
    SEMOE_AVX512 static void store_block(double const (&from)[16], index_t n, double* to) {
        for (index_t j = 0; j < n; ++j) to[j] = from[j];
    }

    template <class T, bool Pair>
    static void rows(PanelProduct<T> const& product) {
        index_t r = 0;
        for (; r + 8 <= product.rows; r += 8)
            tile<T, Pair>(product.from_row(r), std::make_integer_sequence<int, 8>{});
        if (r + 4 <= product.rows) {
            tile<T, Pair>(product.from_row(r), std::make_integer_sequence<int, 4>{});
            r += 4;
        }
        if (r + 2 <= product.rows) {
            tile<T, Pair>(product.from_row(r), std::make_integer_sequence<int, 2>{});
            r += 2;
        }
        if (r < product.rows)
            tile<T, Pair>(product.from_row(r), std::make_integer_sequence<int, 1>{});
    }

    template <class T, bool Pair, int... R>
    SEMOE_AVX512 static void tile(PanelProduct<T> const product, std::integer_sequence<int, R...>) {
        float* const c = product.c;
        index_t const c_row = product.c_row, c_panel = product.c_panel;
        __m512 first[sizeof...(R)], second[sizeof...(R)];
        if (product.add) {
            ((first[R] = _mm512_loadu_ps(c + R * c_row)), ...);
            if constexpr (Pair) ((second[R] = _mm512_loadu_ps(c + R * c_row + c_panel)), ...);
        } else {
            ((first[R] = _mm512_setzero_ps(), second[R] = _mm512_setzero_ps()), ...);
        }
        float const* a = product.a;
        T const* b = product.b;
        index_t const a_row = product.a_row, a_k = product.a_k, b_k = product.b_k;
        index_t const b_panel = Pair ? product.b_panel : 0;
        for (index_t k = product.depth; k > 0; --k, a += a_k, b += b_k) {
            __m512 const b0 = load(b);
            __m512 a_r;
            if constexpr (Pair) {
                __m512 const b1 = load(b + b_panel);
                ((a_r = _mm512_set1_ps(a[R * a_row]), first[R] = _mm512_fmadd_ps(a_r, b0, first[R]),
                  second[R] = _mm512_fmadd_ps(a_r, b1, second[R])),
                 ...);
            } else {
                ((a_r = _mm512_set1_ps(a[R * a_row]),
                  first[R] = _mm512_fmadd_ps(a_r, b0, first[R])),
                 ...);
            }
        }
        (_mm512_storeu_ps(c + R * c_row, first[R]), ...);
        if constexpr (Pair) (_mm512_storeu_ps(c + R * c_row + c_panel, second[R]), ...);
    }

    /// Rows lie anywhere, so the processor's own prefetch sees none of them coming.
    template <class T>
    SEMOE_AVX512 SEMOE_INLINE static void prefetch(T const* p, index_t n) {
        for (index_t i = 0; i < n; i += index_t(64 / sizeof(T))) _mm_prefetch(p + i, _MM_HINT_T1);
    }
    template <class T, class Base, int... I>
    SEMOE_AVX512 SEMOE_INLINE static void sum_block(RowSum<T, Base> const& s, index_t c,
                                                    std::integer_sequence<int, I...>) {
        __m512 sum[sizeof...(I)];
        if (s.base) {
            __m512 const factor = _mm512_set1_ps(s.factor);
            ((sum[I] = _mm512_mul_ps(factor, load(s.base + c + I * 16))), ...);
        } else {
            ((sum[I] = _mm512_setzero_ps()), ...);
        }
        for (index_t i = 0; i < s.count; ++i) {
            if (s.slots[i] < 0) continue;
            T const* const from = s.rows + s.slots[i] * s.ld + c;
            __m512 const w = _mm512_set1_ps(s.weights ? s.weights[i] : 1.0f);
            ((sum[I] = _mm512_fmadd_ps(w, load(from + I * 16), sum[I])), ...);
            if (s.next && s.next[i] >= 0)
                prefetch(s.rows + s.next[i] * s.ld + c, sizeof...(I) * 16);
        }
        (store(s.to + c + I * 16, sum[I]), ...);
    }
    /// Rows [m, m + M) of a with all of w, in tiles of N.
    template <int M, int N, class A, class W>
    static void dot_row_block(RowDots<A, W> const& d, index_t m) {
        index_t n = 0;
        for (; n + N <= d.cols; n += N)
            dot_tile<N>(d, m, n, std::make_integer_sequence<int, M * N>{});
        for (; n + 4 <= d.cols; n += 4)
            dot_tile<4>(d, m, n, std::make_integer_sequence<int, M * 4>{});
        for (; n < d.cols; ++n) dot_tile<1>(d, m, n, std::make_integer_sequence<int, M>{});
    }
    template <int N, class A, class W, int... I>
    SEMOE_AVX512 static void dot_tile(RowDots<A, W> const& d, index_t m, index_t n,
                                      std::integer_sequence<int, I...>) {
        constexpr int M = int(sizeof...(I)) / N;
        __m512 sum[M * N], x[M];
        ((sum[I] = _mm512_setzero_ps()), ...);
        A const* const a = d.a + m * d.a_ld;
        W const* const w = d.w + n * d.w_ld;
        index_t k = 0;
        for (; k + 16 <= d.depth; k += 16) {
            __m512 y = _mm512_setzero_ps();
            // In order of n, then m: one row of w at a time is in a register.
            ((I < M ? void(x[I % M] = load(a + I % M * d.a_ld + k)) : void()), ...);
            ((y = I % M == 0 ? load(w + I / M * d.w_ld + k) : y,
              sum[I] = _mm512_fmadd_ps(x[I % M], y, sum[I])),
             ...);
        }
        float lanes[M * N][16];
        (_mm512_storeu_ps(lanes[I], sum[I]), ...);
        for (int i = 0; i < M * N; ++i)
            d.c[(m + i % M) * d.c_ld + n + i / M] =
                finish_dot(lanes[i], a + i % M * d.a_ld, w + i / M * d.w_ld, k, d.depth);
    }
    /// The sum of lanes, once they hold the columns from k on, too.
    template <class A, class W>
    SEMOE_AVX512 SEMOE_INLINE static float finish_dot(float (&lanes)[16], A const* a, W const* w,
                                                      index_t k, index_t depth) {
        for (int j = 0; k < depth; ++k, ++j)
            lanes[j] = __builtin_fmaf(float(a[k]), float(w[k]), lanes[j]);
        __m256 const eight = _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8));
        __m128 const four =
            _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 const two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }

    /// Four rounds of exchanges between lines 1, 2, 4 and 8 apart.
    template <class T, int... I>
    SEMOE_AVX512 SEMOE_INLINE static void transpose_16(T const* from, index_t ld, int rows,
                                                       float* out,
                                                       std::integer_sequence<int, I...>) {
        __m512 x[16], t[16];
        ((x[I] = I < rows ? load(from + I * ld) : _mm512_setzero_ps()), ...);
        ((t[I] = exchange_1<I % 2 != 0>(x[I & ~1], x[I | 1])), ...);
        ((x[I] = exchange_2<I % 2 != 0>(t[(I & ~3) + I / 2 % 2], t[(I & ~3) + I / 2 % 2 + 2])),
         ...);
        ((t[I] = exchange_4<I / 4 % 2 != 0>(x[(I & ~7) + I % 4], x[(I & ~7) + I % 4 + 4])), ...);
        ((x[I] = exchange_4<I / 8 % 2 != 0>(t[I % 8], t[I % 8 + 8])), ...);
        (_mm512_storeu_ps(out + std::ptrdiff_t(I) * 16, x[I]), ...);
    }
    template <bool High>
    SEMOE_AVX512 SEMOE_INLINE static __m512 exchange_1(__m512 a, __m512 b) {
        return High ? _mm512_maskz_unpackhi_ps(0xffff, a, b)
                    : _mm512_maskz_unpacklo_ps(0xffff, a, b);
    }
    template <bool High>
    SEMOE_AVX512 SEMOE_INLINE static __m512 exchange_2(__m512 a, __m512 b) {
        __m512d const x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
        return _mm512_castpd_ps(High ? _mm512_maskz_unpackhi_pd(0xff, x, y)
                                     : _mm512_maskz_unpacklo_pd(0xff, x, y));
    }
    template <bool High>
    SEMOE_AVX512 SEMOE_INLINE static __m512 exchange_4(__m512 a, __m512 b) {
        return _mm512_maskz_shuffle_f32x4(0xffff, a, b, High ? 0xdd : 0x88);
    }
};

} // namespace semoe::ops::cpu
#endif
