#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/ops/cpu/panel.hpp"

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
