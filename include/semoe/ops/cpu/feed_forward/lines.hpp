#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/cpu/feed_forward/fetch.hpp"

#if SEMOE_X86
#include <concepts>
#include <cstdint>
#include <immintrin.h>
#include <utility>

/// What the code around the kernels of an expert needs; the kernels may need more.
#define SEMOE_LINES SEMOE_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

namespace semoe::ops::cpu {

// Operands come in tiles of 16 lines of 64 bytes. A tile of rows holds one step of the depth of 16
// rows: 16 floats or 32 bf16 of each. A tile of words holds one step of 16 columns: word i of 4
// bytes of every column stands in line i, that is one float, or two bf16 that follow one another.
// A transpose of words turns one into the other.

inline constexpr index_t tile_rows = 16, line_bytes = 64, tile_bytes = 1024;
/// Floats of a tile of results, 16 x 16.
inline constexpr index_t tile_floats = 256;

/// Elements of the depth that a line of a row holds: what one step takes.
template <class T>
inline constexpr index_t step_depth = line_bytes / index_t(sizeof(T));
template <class T>
constexpr index_t steps_of(index_t depth) {
    return (depth + step_depth<T> - 1) / step_depth<T>;
}
constexpr index_t blocks_of_16(index_t n) { return (n + 15) / 16; }
/// Bytes of the tiles that hold `rows` rows of that depth.
template <class T>
constexpr index_t tiles_bytes(index_t rows, index_t depth) {
    return blocks_of_16(rows) * steps_of<T>(depth) * tile_bytes;
}

namespace lines {

/// The first n of 16 floats or 32 bf16; n may be more, or negative.
template <class T>
SEMOE_INLINE std::uint32_t first(index_t n) {
    index_t const all = step_depth<T>;
    std::uint32_t const full = all == 32 ? ~0u : 0xffffu;
    return n >= all ? full : n <= 0 ? 0u : (1u << n) - 1;
}

// Loads and shuffles with masks: g++ 12 warns of what lies inside the plain forms.
SEMOE_LINES SEMOE_INLINE __m512i load(float const* p, index_t n) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(__mmask16(first<float>(n)), p));
}
SEMOE_LINES SEMOE_INLINE __m512i load(bf16 const* p, index_t n) {
    return _mm512_maskz_loadu_epi16(first<bf16>(n), p);
}
SEMOE_LINES SEMOE_INLINE void store(float* p, index_t n, __m512i line) {
    _mm512_mask_storeu_ps(p, __mmask16(first<float>(n)), _mm512_castsi512_ps(line));
}
SEMOE_LINES SEMOE_INLINE void store(bf16* p, index_t n, __m512i line) {
    _mm512_mask_storeu_epi16(p, first<bf16>(n), line);
}

/// The first n of 16 numbers, as floats; the others are zero.
SEMOE_LINES SEMOE_INLINE __m512 load_16(float const* p, index_t n) {
    return _mm512_maskz_loadu_ps(__mmask16(first<float>(n)), p);
}
SEMOE_LINES SEMOE_INLINE __m512 load_16(bf16 const* p, index_t n) {
    __m256i const bits = _mm256_maskz_loadu_epi16(__mmask16(first<float>(n)), p);
    return _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}
/// Rounds to nearest, ties to even.
SEMOE_LINES SEMOE_INLINE __m256i narrow(__m512 x) {
    __m512i const u = _mm512_castps_si512(x);
    __m512i const upper = _mm512_maskz_srli_epi32(0xffff, u, 16);
    __m512i const odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i const rounded = _mm512_maskz_srli_epi32(
        0xffff, _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __m512i const quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    __mmask16 const nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_mask_blend_epi32(nan, rounded, quiet));
}
/// Two rows of 16 numbers to the line of their words.
SEMOE_LINES SEMOE_INLINE __m512i pair(__m512 even, __m512 odd) {
    return _mm512_or_si512(
        _mm512_maskz_cvtepu16_epi32(0xffff, narrow(even)),
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, narrow(odd)), 16));
}
SEMOE_LINES SEMOE_INLINE void store_16(float* p, index_t n, __m512 x) {
    _mm512_mask_storeu_ps(p, __mmask16(first<float>(n)), x);
}
SEMOE_LINES SEMOE_INLINE void store_16(bf16* p, index_t n, __m512 x) {
    _mm256_mask_storeu_epi16(p, __mmask16(first<float>(n)), narrow(x));
}

template <int... I>
SEMOE_LINES SEMOE_INLINE void transpose_words(__m512i (&x)[16], std::integer_sequence<int, I...>) {
    // Exchanges between lines 1, 2, 4 and 8 apart.
    __m512i t[16] = {};
    ((t[I] = I % 2 ? _mm512_maskz_unpackhi_epi32(0xffff, x[I & ~1], x[I | 1])
                   : _mm512_maskz_unpacklo_epi32(0xffff, x[I & ~1], x[I | 1])),
     ...);
    ((x[I] = I % 2 ? _mm512_maskz_unpackhi_epi64(0xff, t[(I & ~3) + I / 2 % 2],
                                                 t[(I & ~3) + I / 2 % 2 + 2])
                   : _mm512_maskz_unpacklo_epi64(0xff, t[(I & ~3) + I / 2 % 2],
                                                 t[(I & ~3) + I / 2 % 2 + 2])),
     ...);
    ((t[I] = _mm512_maskz_shuffle_i32x4(0xffff, x[(I & ~7) + I % 4], x[(I & ~7) + I % 4 + 4],
                                        I / 4 % 2 ? 0xdd : 0x88)),
     ...);
    ((x[I] = _mm512_maskz_shuffle_i32x4(0xffff, t[I % 8], t[I % 8 + 8], I / 8 % 2 ? 0xdd : 0x88)),
     ...);
}
SEMOE_LINES SEMOE_INLINE void transpose_words(__m512i (&x)[16]) {
    transpose_words(x, std::make_integer_sequence<int, 16>{});
}
/// A tile of rows becomes one of words, or the other way round.
SEMOE_LINES inline void transpose_tile(char* tile) {
    __m512i x[16];
    for (int r = 0; r < 16; ++r) x[r] = _mm512_load_si512(tile + r * line_bytes);
    transpose_words(x);
    for (int r = 0; r < 16; ++r) _mm512_store_si512(tile + r * line_bytes, x[r]);
}

/// Rows 2i and 2i + 1 of 32 bf16 to their words: columns 0 to 15 in low, 16 to 31 in high.
SEMOE_LINES SEMOE_INLINE void interleave(__m512i even, __m512i odd, __m512i& low, __m512i& high) {
    alignas(64) static constexpr std::uint16_t order[2][32] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    low = _mm512_permutex2var_epi16(even, _mm512_load_si512(order[0]), odd);
    high = _mm512_permutex2var_epi16(even, _mm512_load_si512(order[1]), odd);
}

/// Lines that 16 rows of results become: words of their columns, rounded to T.
template <class T>
inline constexpr int per_tile = sizeof(T) == 4 ? 16 : 8;

SEMOE_LINES SEMOE_INLINE void of_results(float const* tile, __m512i* to, float const*) {
    for (index_t i = 0; i < 16; ++i) to[i] = _mm512_loadu_si512(tile + i * 16);
}
SEMOE_LINES SEMOE_INLINE void of_results(float const* tile, __m512i* to, bf16 const*) {
    for (index_t i = 0; i < 8; ++i)
        to[i] = pair(_mm512_loadu_ps(tile + i * 32), _mm512_loadu_ps(tile + i * 32 + 16));
}

} // namespace lines

/// A matrix of rows in host memory; those past its end are read as zeros.
template <class T>
struct HostRows {
    T const* data;
    index_t ld, rows, cols;
    index_t const* index = nullptr; ///< where row r lies; null: it is row r of data

    T const* row(index_t r) const { return data + (index ? index[r] : r) * ld; }
    SEMOE_LINES SEMOE_INLINE __m512i line(index_t r, index_t c) const {
        return r < rows ? lines::load(row(r) + c, cols - c) : _mm512_setzero_si512();
    }
    HostRows part(index_t first, index_t col, index_t n, index_t m) const {
        return {data + (index ? 0 : first * ld) + col, ld, n, m, index ? index + first : nullptr};
    }
};

/// The rows that one step of a depth over rows takes; null past the end.
template <class T>
struct StepRows {
    T const* row[step_depth<T>];
    index_t cols;

    StepRows(HostRows<T> const& m, index_t first)
      : cols(m.cols) {
        for (index_t r = 0; r < step_depth<T>; ++r)
            row[r] = first + r < m.rows ? m.row(first + r) : nullptr;
    }
    bool is_whole() const { return row[step_depth<T> - 1] != nullptr; }
    SEMOE_LINES SEMOE_INLINE __m512i line(index_t r, index_t c) const {
        return row[r] ? lines::load(row[r] + c, cols - c) : _mm512_setzero_si512();
    }
};

/// Tiles of rows [blocks of 16 rows][steps].
template <class T>
SEMOE_LINES void tile_rows_of(HostRows<T> const& m, char* tiles) {
    for (index_t r = 0; r < m.rows; r += tile_rows)
        for (index_t c = 0; c < m.cols; c += step_depth<T>, tiles += tile_bytes)
            for (index_t i = 0; i < tile_rows; ++i)
                _mm512_store_si512(tiles + i * line_bytes, m.line(r + i, c));
}
/// The same rows as columns of a product: tiles of words [blocks of 16 rows][steps].
template <class T>
SEMOE_LINES void tile_words_of(HostRows<T> const& m, char* tiles) {
    for (index_t r = 0; r < m.rows; r += tile_rows)
        for (index_t c = 0; c < m.cols; c += step_depth<T>, tiles += tile_bytes) {
            __m512i x[16];
            for (int i = 0; i < 16; ++i) x[i] = m.line(r + i, c);
            lines::transpose_words(x);
            for (int i = 0; i < 16; ++i) _mm512_store_si512(tiles + i * line_bytes, x[i]);
        }
}
/// One step of a depth that runs over rows, for 32 columns: two tiles of words, side by side.
/// @param second  the tile of columns 16 to 31; left alone where there are none
/// @param fetch   asked for a line for every two that are read
/// @tparam Whole  whether all rows and columns exist
template <bool Whole>
SEMOE_LINES SEMOE_INLINE void tile_columns(StepRows<float> const& m, index_t col, char* first,
                                           char* second, Fetch& fetch) {
    int const fetched = fetch.wanted() ? 1 : 0;
    for (index_t r = 0; r < 16; ++r, first += line_bytes, second += line_bytes) {
        if constexpr (Whole) {
            _mm512_store_ps(first, _mm512_loadu_ps(m.row[r] + col));
            _mm512_store_ps(second, _mm512_loadu_ps(m.row[r] + col + 16));
        } else {
            _mm512_store_si512(first, m.line(r, col));
            if (col + 16 < m.cols) _mm512_store_si512(second, m.line(r, col + 16));
        }
        fetch.some(fetched);
    }
}
template <bool Whole>
SEMOE_LINES SEMOE_INLINE void tile_columns(StepRows<bf16> const& m, index_t col, char* first,
                                           char* second, Fetch& fetch) {
    int const fetched = fetch.wanted() ? 1 : 0;
    for (index_t r = 0; r < 32; r += 2, first += line_bytes, second += line_bytes) {
        __m512i low, high;
        if constexpr (Whole) {
            lines::interleave(_mm512_loadu_si512(m.row[r] + col),
                              _mm512_loadu_si512(m.row[r + 1] + col), low, high);
            _mm512_store_si512(first, low);
            _mm512_store_si512(second, high);
        } else {
            lines::interleave(m.line(r, col), m.line(r + 1, col), low, high);
            _mm512_store_si512(first, low);
            if (col + 16 < m.cols) _mm512_store_si512(second, high);
        }
        fetch.some(fetched);
    }
}
/// A product's right operand whose depth runs over rows: tiles of words [blocks of 16 columns]
/// [steps].
template <class T>
SEMOE_LINES void tile_by_columns(HostRows<T> const& m, char* tiles, Fetch& fetch) {
    index_t const steps = steps_of<T>(m.rows), block = steps * tile_bytes;
    for (index_t s = 0; s < steps; ++s) {
        StepRows<T> const rows(m, s * step_depth<T>);
        char* to = tiles + s * tile_bytes;
        for (index_t c = 0; c < m.cols; c += 32, to += 2 * block)
            if (rows.is_whole() && c + 32 <= m.cols)
                tile_columns<true>(rows, c, to, to + block, fetch);
            else
                tile_columns<false>(rows, c, to, to + block, fetch);
    }
}
template <class T>
void tile_by_columns(HostRows<T> const& m, char* tiles) {
    Fetch nothing;
    tile_by_columns(m, tiles, nothing);
}
/// The transposed matrix as tiles of rows [blocks of 16 columns][steps].
template <class T>
SEMOE_LINES void tile_transposed(HostRows<T> const& m, char* tiles) {
    tile_by_columns(m, tiles);
    for (index_t i = 0, n = blocks_of_16(m.cols) * steps_of<T>(m.rows); i < n; ++i)
        lines::transpose_tile(tiles + i * tile_bytes);
}

} // namespace semoe::ops::cpu
#endif
