#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"
#include "semoe/ops/cpu/rows.hpp"

#if SEMOE_X86
#include <immintrin.h>
#include <utility>

#define SEMOE_AVX2 SEMOE_TARGET("avx2,fma,f16c")

namespace semoe::ops::cpu {

/// Tiles of 6 rows by one panel: 12 chains in 16 registers.
struct Avx2Kernels {
    template <class T>
    static void multiply(PanelProduct<T> const& product) {
        for (index_t p = 0; p < product.panels; ++p) rows(product.from_panel(p));
    }

    template <class T>
    SEMOE_AVX2 static void transpose(T const* from, index_t ld, int rows, index_t depth,
                                     float* out) {
        index_t k = 0;
        std::make_integer_sequence<int, 8> const lines;
        for (; k + 8 <= depth; k += 8) {
            transpose_8(from + k, ld, 0, rows, out + k * 16, lines);
            transpose_8(from + k, ld, 8, rows, out + k * 16 + 8, lines);
        }
        for (; k < depth; ++k)
            for (int j = 0; j < 16; ++j)
                out[k * 16 + j] = j < rows ? float(from[j * ld + k]) : 0.0f;
    }

    template <class T>
    SEMOE_AVX2 static void widen(T const* from, index_t ld, index_t rows, index_t cols, float* to,
                                 index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 8 <= cols; i += 8) _mm256_storeu_ps(to + i, load(from + i));
            for (; i < cols; ++i) to[i] = float(from[i]);
        }
    }
    template <class T>
    SEMOE_AVX2 static void narrow(float const* from, index_t ld, index_t rows, index_t cols, T* to,
                                  index_t to_ld) {
        for (; rows > 0; --rows, from += ld, to += to_ld) {
            index_t i = 0;
            for (; i + 8 <= cols; i += 8) store(to + i, _mm256_loadu_ps(from + i));
            for (; i < cols; ++i) to[i] = T(from[i]);
        }
    }

    /// Applies an elementwise body (ops/detail/elementwise.hpp) to columns [first, last) of a
    /// place.
    template <class Body, class Place>
    SEMOE_AVX2 static void map(Body const& body, Place at, index_t first, index_t last) {
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
    SEMOE_AVX2 static auto call(F const& f) {
        return f();
    }
    template <class T, class Base>
    SEMOE_AVX2 static void sum_rows(RowSum<T, Base> const& s) {
        index_t c = 0;
        for (; c + 64 <= s.cols; c += 64) sum_block(s, c, std::make_integer_sequence<int, 8>{});
        for (; c + 8 <= s.cols; c += 8) sum_block(s, c, std::make_integer_sequence<int, 1>{});
        if (c < s.cols) PortableKernels::sum_rows(s.from_column(c));
    }
    template <class T, class Row>
    SEMOE_AVX2 static void weigh_row(RowWeight<T, Row> const& r) {
        __m256 sum[8];
        for (int i = 0; i < 8; ++i) sum[i] = _mm256_setzero_ps();
        __m256 const w = _mm256_set1_ps(r.w);
        index_t c = 0;
        for (; c + 64 <= r.cols; c += 64) {
            for (int i = 0; i < 8; ++i) {
                __m256 const d = load(r.dy + c + i * 8);
                sum[i] = _mm256_fmadd_ps(d, load(r.row + c + i * 8), sum[i]);
                store(r.d_row + c + i * 8, _mm256_mul_ps(w, d));
            }
            prefetch(r.next + c, 64);
        }
        float lanes[64];
        for (index_t i = 0; i < 8; ++i) _mm256_storeu_ps(lanes + i * 8, sum[i]);
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
        for (; m + 2 <= d.rows; m += 2) dot_row_block<2, 2>(d, m);
        for (; m < d.rows; ++m) dot_row_block<1, 4>(d, m);
    }
    SEMOE_AVX2 static void copy_row(std::byte const* from, std::size_t bytes, std::byte* to,
                                    bool past) {
        if (!past || reinterpret_cast<std::uintptr_t>(to) % 32 != 0)
            return void(std::memcpy(to, from, bytes));
        std::size_t i = 0;
        for (; i + 32 <= bytes; i += 32)
            _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i),
                                _mm256_loadu_si256(reinterpret_cast<__m256i const*>(from + i)));
        std::memcpy(to + i, from + i, bytes - i);
    }

    /// Eight numbers from or to memory that need not be aligned.
    SEMOE_AVX2 SEMOE_INLINE static __m256 load(float const* p) { return _mm256_loadu_ps(p); }
    SEMOE_AVX2 SEMOE_INLINE static __m256 load(bf16 const* p) {
        __m128i const bits = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    SEMOE_AVX2 SEMOE_INLINE static __m256 load(f16 const* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)));
    }
    SEMOE_AVX2 SEMOE_INLINE static void store(float* p, __m256 x) { _mm256_storeu_ps(p, x); }
    SEMOE_AVX2 SEMOE_INLINE static void store(bf16* p, __m256 x) {
        __m256i const words = narrow_words(x);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(p),
            _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    SEMOE_AVX2 SEMOE_INLINE static void store(f16* p, __m256 x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    /// Eight numbers as bf16, each in the lower half of a word: to nearest, ties to even.
    SEMOE_AVX2 SEMOE_INLINE static __m256i narrow_words(__m256 x) {
        __m256i const u = _mm256_castps_si256(x);
        __m256i const upper = _mm256_srli_epi32(u, 16);
        __m256i const odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        __m256i const rounded = _mm256_srli_epi32(
            _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        __m256i const quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        __m256i const nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        return _mm256_blendv_epi8(rounded, quiet, nan);
    }

private:
    template <class T>
    SEMOE_AVX2 SEMOE_INLINE static void load_block(T const* from, index_t n, float (&to)[16]) {
        if (n == 16) {
            _mm256_storeu_ps(to, load(from));
            _mm256_storeu_ps(to + 8, load(from + 8));
        } else {
            for (index_t j = 0; j < 16; ++j) to[j] = j < n ? float(from[j]) : 0.0f;
        }
    }
    template <class T>
    SEMOE_AVX2 SEMOE_INLINE static void store_block(float const (&from)[16], index_t n, T* to) {
        if (n == 16) {
            store(to, _mm256_loadu_ps(from));
            store(to + 8, _mm256_loadu_ps(from + 8));
        } else {
            for (index_t j = 0; j < n; ++j) to[j] = T(from[j]);
        }
    }
    SEMOE_AVX2 static void load_block(double const* from, index_t n, double (&to)[16]) {
        for (index_t j = 0; j < 16; ++j) to[j] = j < n ? from[j] : 0.0;
    }
    SEMOE_AVX2 static void store_block(double const (&from)[16], index_t n, double* to) {
        for (index_t j = 0; j < n; ++j) to[j] = from[j];
    }

    template <class T>
    static void rows(PanelProduct<T> const& product) {
        index_t r = 0;
        // 8 rows that are left make two tiles of 4, not one of 6 and a slow one of 2.
        for (; r + 6 <= product.rows && r + 8 != product.rows; r += 6)
            tile(product.from_row(r), std::make_integer_sequence<int, 6>{});
        for (; r + 4 <= product.rows; r += 4)
            tile(product.from_row(r), std::make_integer_sequence<int, 4>{});
        if (r + 2 <= product.rows) {
            tile(product.from_row(r), std::make_integer_sequence<int, 2>{});
            r += 2;
        }
        if (r < product.rows) tile(product.from_row(r), std::make_integer_sequence<int, 1>{});
    }

    template <class T, int... R>
    SEMOE_AVX2 static void tile(PanelProduct<T> const product, std::integer_sequence<int, R...>) {
        float* const c = product.c;
        index_t const c_row = product.c_row;
        __m256 low[sizeof...(R)], high[sizeof...(R)];
        if (product.add)
            ((low[R] = _mm256_loadu_ps(c + R * c_row),
              high[R] = _mm256_loadu_ps(c + R * c_row + 8)),
             ...);
        else
            ((low[R] = _mm256_setzero_ps(), high[R] = _mm256_setzero_ps()), ...);
        float const* a = product.a;
        T const* b = product.b;
        index_t const a_row = product.a_row, a_k = product.a_k, b_k = product.b_k;
        for (index_t k = product.depth; k > 0; --k, a += a_k, b += b_k) {
            __m256 const b0 = load(b), b1 = load(b + 8);
            __m256 a_r;
            ((a_r = _mm256_set1_ps(a[R * a_row]), low[R] = _mm256_fmadd_ps(a_r, b0, low[R]),
              high[R] = _mm256_fmadd_ps(a_r, b1, high[R])),
             ...);
        }
        ((_mm256_storeu_ps(c + R * c_row, low[R]), _mm256_storeu_ps(c + R * c_row + 8, high[R])),
         ...);
    }

    /// Rows lie anywhere, so the processor's own prefetch sees none of them coming.
    template <class T>
    SEMOE_AVX2 SEMOE_INLINE static void prefetch(T const* p, index_t n) {
        for (index_t i = 0; i < n; i += index_t(64 / sizeof(T))) _mm_prefetch(p + i, _MM_HINT_T1);
    }
    template <class T, class Base, int... I>
    SEMOE_AVX2 SEMOE_INLINE static void sum_block(RowSum<T, Base> const& s, index_t c,
                                                  std::integer_sequence<int, I...>) {
        __m256 sum[sizeof...(I)];
        if (s.base) {
            __m256 const factor = _mm256_set1_ps(s.factor);
            ((sum[I] = _mm256_mul_ps(factor, load(s.base + c + I * 8))), ...);
        } else {
            ((sum[I] = _mm256_setzero_ps()), ...);
        }
        for (index_t i = 0; i < s.count; ++i) {
            if (s.slots[i] < 0) continue;
            T const* const from = s.rows + s.slots[i] * s.ld + c;
            __m256 const w = _mm256_set1_ps(s.weights ? s.weights[i] : 1.0f);
            ((sum[I] = _mm256_fmadd_ps(w, load(from + I * 8), sum[I])), ...);
            if (s.next && s.next[i] >= 0) prefetch(s.rows + s.next[i] * s.ld + c, sizeof...(I) * 8);
        }
        (store(s.to + c + I * 8, sum[I]), ...);
    }
    /// Rows [m, m + M) of a with all of w, in tiles of N.
    template <int M, int N, class A, class W>
    static void dot_row_block(RowDots<A, W> const& d, index_t m) {
        index_t n = 0;
        for (; n + N <= d.cols; n += N)
            dot_tile<N>(d, m, n, std::make_integer_sequence<int, M * N>{});
        for (; n < d.cols; ++n) dot_tile<1>(d, m, n, std::make_integer_sequence<int, M>{});
    }
    template <int N, class A, class W, int... I>
    SEMOE_AVX2 static void dot_tile(RowDots<A, W> const& d, index_t m, index_t n,
                                    std::integer_sequence<int, I...>) {
        constexpr int M = int(sizeof...(I)) / N;
        __m256 low[M * N], high[M * N];
        ((low[I] = _mm256_setzero_ps(), high[I] = _mm256_setzero_ps()), ...);
        A const* const a = d.a + m * d.a_ld;
        W const* const w = d.w + n * d.w_ld;
        index_t k = 0;
        for (; k + 16 <= d.depth; k += 16)
            ((low[I] = _mm256_fmadd_ps(load(a + I % M * d.a_ld + k), load(w + I / M * d.w_ld + k),
                                       low[I]),
              high[I] = _mm256_fmadd_ps(load(a + I % M * d.a_ld + k + 8),
                                        load(w + I / M * d.w_ld + k + 8), high[I])),
             ...);
        float lanes[M * N][16];
        ((_mm256_storeu_ps(lanes[I], low[I]), _mm256_storeu_ps(lanes[I] + 8, high[I])), ...);
        for (int i = 0; i < M * N; ++i)
            d.c[(m + i % M) * d.c_ld + n + i / M] =
                finish_dot(lanes[i], a + i % M * d.a_ld, w + i / M * d.w_ld, k, d.depth);
    }
    /// The sum of lanes, once they hold the columns from k on, too.
    template <class A, class W>
    SEMOE_AVX2 SEMOE_INLINE static float finish_dot(float (&lanes)[16], A const* a, W const* w,
                                                    index_t k, index_t depth) {
        for (int j = 0; k < depth; ++k, ++j)
            lanes[j] = __builtin_fmaf(float(a[k]), float(w[k]), lanes[j]);
        __m256 const eight = _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes + 8));
        __m128 const four =
            _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 const two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }

    /// Three rounds of exchanges between lines 1, 2 and 4 apart.
    template <class T, int... I>
    SEMOE_AVX2 SEMOE_INLINE static void transpose_8(T const* from, index_t ld, int first, int rows,
                                                    float* out, std::integer_sequence<int, I...>) {
        __m256 x[8], t[8];
        ((x[I] = first + I < rows ? load(from + (first + I) * ld) : _mm256_setzero_ps()), ...);
        ((t[I] = exchange_1<I % 2 != 0>(x[I & ~1], x[I | 1])), ...);
        ((x[I] = exchange_2<I % 2 != 0>(t[(I & ~3) + I / 2 % 2], t[(I & ~3) + I / 2 % 2 + 2])),
         ...);
        ((t[I] = _mm256_permute2f128_ps(x[I % 4], x[I % 4 + 4], I < 4 ? 0x20 : 0x31)), ...);
        (_mm256_storeu_ps(out + std::ptrdiff_t(I) * 16, t[I]), ...);
    }
    template <bool High>
    SEMOE_AVX2 SEMOE_INLINE static __m256 exchange_1(__m256 a, __m256 b) {
        return High ? _mm256_unpackhi_ps(a, b) : _mm256_unpacklo_ps(a, b);
    }
    template <bool High>
    SEMOE_AVX2 SEMOE_INLINE static __m256 exchange_2(__m256 a, __m256 b) {
        __m256d const x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
        return _mm256_castpd_ps(High ? _mm256_unpackhi_pd(x, y) : _mm256_unpacklo_pd(x, y));
    }
};

} // namespace semoe::ops::cpu
#endif
