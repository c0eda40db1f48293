#pragma once

#include "semoe/ops/cpu/avx512/kernels.hpp"
#include "semoe/ops/cpu/feed_forward/fetch.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#if SEMOE_X86
#include <cstdint>
#include <cstring>

namespace semoe::ops::cpu::avx512 {

/// The first n of 16 floats or 32 bf16; n may be more, or negative.
template <class T>
SEMOE_INLINE std::uint32_t first(index_t n) {
    index_t const all = step_depth<T>;
    std::uint32_t const full = all == 32 ? ~0u : 0xffffu;
    return n >= all ? full : n <= 0 ? 0u : (1u << n) - 1;
}

// Loads and shuffles with masks: g++ 12 warns of what lies inside the plain forms.
SEMOE_AVX512 SEMOE_INLINE __m512i load(float const* p, index_t n) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(__mmask16(first<float>(n)), p));
}
SEMOE_AVX512 SEMOE_INLINE __m512i load(bf16 const* p, index_t n) {
    return _mm512_maskz_loadu_epi16(first<bf16>(n), p);
}
SEMOE_AVX512 SEMOE_INLINE void store(float* p, index_t n, __m512i line) {
    _mm512_mask_storeu_ps(p, __mmask16(first<float>(n)), _mm512_castsi512_ps(line));
}
SEMOE_AVX512 SEMOE_INLINE void store(bf16* p, index_t n, __m512i line) {
    _mm512_mask_storeu_epi16(p, first<bf16>(n), line);
}

SEMOE_AVX512 SEMOE_INLINE __m512 widen(__m256i bits) {
    return _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}

/// A word in all lanes.
SEMOE_AVX512 SEMOE_INLINE __m512i spread(char const* from) {
    int word;
    std::memcpy(&word, from, sizeof(word));
    return _mm512_set1_epi32(word);
}

/// Of two bf16 in each word, as floats.
SEMOE_AVX512 SEMOE_INLINE __m512i even_floats(__m512i words) {
    return _mm512_maskz_slli_epi32(0xffff, words, 16);
}
SEMOE_AVX512 SEMOE_INLINE __m512i odd_floats(__m512i words) {
    return _mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000u)));
}

/// The first n of 16 numbers, as floats; the others are zero.
SEMOE_AVX512 SEMOE_INLINE __m512 load_16(float const* p, index_t n) {
    return _mm512_maskz_loadu_ps(__mmask16(first<float>(n)), p);
}
SEMOE_AVX512 SEMOE_INLINE __m512 load_16(bf16 const* p, index_t n) {
    return widen(_mm256_maskz_loadu_epi16(__mmask16(first<float>(n)), p));
}
/// Rounds to nearest, ties to even.
SEMOE_AVX512 SEMOE_INLINE __m256i narrow(__m512 x) {
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
SEMOE_AVX512 SEMOE_INLINE __m512i pair(__m512 even, __m512 odd) {
    return _mm512_or_si512(
        _mm512_maskz_cvtepu16_epi32(0xffff, narrow(even)),
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, narrow(odd)), 16));
}
SEMOE_AVX512 SEMOE_INLINE void store_16(float* p, index_t n, __m512 x) {
    _mm512_mask_storeu_ps(p, __mmask16(first<float>(n)), x);
}
SEMOE_AVX512 SEMOE_INLINE void store_16(bf16* p, index_t n, __m512 x) {
    _mm256_mask_storeu_epi16(p, __mmask16(first<float>(n)), narrow(x));
}

template <int... I>
SEMOE_AVX512 SEMOE_INLINE void transpose_words(__m512i (&x)[16], std::integer_sequence<int, I...>) {
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
    // Both results of two lines one after another, so that no more than 17 are in registers.
    ((t[I / 8 * 8 + I / 2 % 4 + I % 2 * 4] = _mm512_maskz_shuffle_i32x4(
          0xffff, x[I / 8 * 8 + I / 2 % 4], x[I / 8 * 8 + I / 2 % 4 + 4], I % 2 ? 0xdd : 0x88)),
     ...);
    ((x[I / 2 + I % 2 * 8] =
          _mm512_maskz_shuffle_i32x4(0xffff, t[I / 2], t[I / 2 + 8], I % 2 ? 0xdd : 0x88)),
     ...);
}
SEMOE_AVX512 SEMOE_INLINE void transpose_words(__m512i (&x)[16]) {
    transpose_words(x, std::make_integer_sequence<int, 16>{});
}
/// Rows 2i and 2i + 1 of 32 bf16 to their words: columns 0 to 15 in low, 16 to 31 in high.
SEMOE_AVX512 SEMOE_INLINE void interleave(__m512i even, __m512i odd, __m512i& low, __m512i& high) {
    alignas(64) static constexpr std::uint16_t order[2][32] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    low = _mm512_permutex2var_epi16(even, _mm512_load_si512(order[0]), odd);
    high = _mm512_permutex2var_epi16(even, _mm512_load_si512(order[1]), odd);
}

/// The rows that one step of a depth over rows takes in tiles of S, 16 of floats; null past the
/// end.
template <class S, class T>
struct StepRows {
    T const* row[step_depth<S>];
    index_t cols;

    StepRows(HostRows<T> const& m, index_t first)
      : cols(m.cols) {
        for (index_t r = 0; r < step_depth<S>; ++r)
            row[r] = first + r < m.rows ? m.row(first + r) : nullptr;
    }
    bool is_whole() const { return row[step_depth<S> - 1] != nullptr; }
};

/// Lines that 16 rows of results become: words of their columns, rounded to T.
template <class T>
inline constexpr index_t lines_of_16 = sizeof(T) == 4 ? 16 : 8;

/// What ops/cpu/feed_forward/lines.hpp asks of an instruction set. Tiles are of T, or of floats.
struct Lines {
    template <class S, class T>
    SEMOE_AVX512 static void tile_rows_of(HostRows<T> const& m, char* tiles) {
        for (index_t r = 0; r < m.rows; r += tile_rows)
            for (index_t c = 0; c < m.cols; c += step_depth<S>, tiles += tile_bytes)
                for (index_t i = 0; i < tile_rows; ++i)
                    _mm512_store_si512(tiles + i * line_bytes, line<S>(m, r + i, c));
    }
    template <class S, class T>
    SEMOE_AVX512 static void tile_words_of(HostRows<T> const& m, char* tiles) {
        for (index_t r = 0; r < m.rows; r += tile_rows) {
            StepRows<float, T> const rows(m, r);
            for (index_t c = 0; c < m.cols; c += step_depth<T>) {
                __m512i x[16] = {};
                load_words(rows, c, x, std::make_integer_sequence<int, 16>{});
                transpose_words(x);
                tiles = store_words<S, T>(x, m.cols - c, tiles,
                                          std::make_integer_sequence<index_t, 16>{});
            }
        }
    }
    template <class T>
    static void tile_by_columns(TileForm form, HostRows<T> const& m, char* tiles, Fetch& fetch) {
        form.widens_rows<T>() ? tile_by_columns<float>(m, tiles, fetch)
                              : tile_by_columns<T>(m, tiles, fetch);
    }
    SEMOE_AVX512 static void transpose_tiles(char* tiles, index_t n) {
        for (; n > 0; --n, tiles += tile_bytes) {
            __m512i x[16];
            for (int r = 0; r < 16; ++r) x[r] = _mm512_load_si512(tiles + r * line_bytes);
            transpose_words(x);
            for (int r = 0; r < 16; ++r) _mm512_store_si512(tiles + r * line_bytes, x[r]);
        }
    }
    template <class T>
    SEMOE_AVX512 static void add_bias(T const* bias, index_t n, float* tile) {
        for (index_t r = 0; r < n; ++r)
            _mm512_store_ps(tile + r * 16, _mm512_add_ps(_mm512_load_ps(tile + r * 16),
                                                         _mm512_set1_ps(float(bias[r]))));
    }
    template <class T, int Tiles>
    SEMOE_AVX512 static void store_columns(float const* tiles, T* to, index_t ld, index_t rows,
                                           index_t cols) {
        if constexpr (lines_of_16<T> * Tiles > 16) {
            for (index_t t = 0; t < Tiles; ++t)
                store_columns<T, 1>(tiles + t * tile_floats, to + t * 16, ld, rows, cols - t * 16);
        } else {
            __m512i words[16] = {};
            for (index_t t = 0; t < Tiles; ++t)
                of_results(tiles + t * tile_floats, words + t * lines_of_16<T>,
                           static_cast<T const*>(nullptr));
            transpose_words(words);
            index_t const width = min(cols, index_t(Tiles * 16));
            for (index_t r = 0; r < rows; ++r) store(to + r * ld, width, words[r]);
        }
    }
    template <class S, class T>
    SEMOE_AVX512 static void words_of_results(float const* tile, char* to) {
        if constexpr (sizeof(S) == sizeof(T)) {
            __m512i line[lines_of_16<T>];
            of_results(tile, line, static_cast<T const*>(nullptr));
            for (index_t i = 0; i < lines_of_16<T>; ++i)
                _mm512_store_si512(to + i * line_bytes, line[i]);
        } else {
            for (index_t i = 0; i < 16; ++i)
                _mm512_store_ps(to + i * line_bytes, widen(narrow(_mm512_load_ps(tile + i * 16))));
        }
    }
    template <class T>
    SEMOE_AVX512 static void load_rows(T const* from, index_t ld, index_t rows, index_t cols,
                                       float* tile) {
        for (index_t r = 0; r < rows; ++r)
            _mm512_store_ps(tile + r * 16, load_16(from + r * ld, cols));
    }
    template <class T>
    SEMOE_AVX512 static void store_rows(float const* tile, T* to, index_t ld, index_t rows,
                                        index_t cols) {
        for (index_t r = 0; r < rows; ++r)
            store_16(to + r * ld, cols, _mm512_load_ps(tile + r * 16));
    }
    SEMOE_AVX512 static void stream_rows(float const* tile, float* to, index_t ld, index_t rows) {
        for (index_t r = 0; r < rows; ++r)
            _mm512_stream_ps(to + r * ld, _mm512_load_ps(tile + r * 16));
    }

private:
    template <class S, class T>
    SEMOE_AVX512 static void tile_by_columns(HostRows<T> const& m, char* tiles, Fetch& fetch) {
        index_t const steps = (m.rows + step_depth<S> - 1) / step_depth<S>,
                      block = steps * tile_bytes;
        for (index_t s = 0; s < steps; ++s) {
            StepRows<S, T> const rows(m, s * step_depth<S>);
            char* to = tiles + s * tile_bytes;
            for (index_t c = 0; c < m.cols; c += 32, to += 2 * block)
                if (rows.is_whole() && c + 32 <= m.cols)
                    tile_columns<true>(rows, c, to, to + block, fetch);
                else
                    tile_columns<false>(rows, c, to, to + block, fetch);
        }
    }
    template <class S, class T>
    SEMOE_AVX512 SEMOE_INLINE static __m512i load_line(T const* p, index_t n) {
        if constexpr (sizeof(S) == sizeof(T))
            return load(p, n);
        else
            return _mm512_castps_si512(load_16(p, n));
    }
    template <class S, class T>
    SEMOE_AVX512 SEMOE_INLINE static __m512i line(HostRows<T> const& m, index_t r, index_t c) {
        return r < m.rows ? load_line<S>(m.row(r) + c, m.cols - c) : _mm512_setzero_si512();
    }
    template <class S, class T>
    SEMOE_AVX512 SEMOE_INLINE static __m512i line(StepRows<S, T> const& m, index_t r, index_t c) {
        return m.row[r] ? load_line<S>(m.row[r] + c, m.cols - c) : _mm512_setzero_si512();
    }
    /// One step of 16 rows.
    template <class T, int... I>
    SEMOE_AVX512 SEMOE_INLINE static void load_words(StepRows<float, T> const& rows, index_t c,
                                                     __m512i (&x)[16],
                                                     std::integer_sequence<int, I...>) {
        if (rows.is_whole() && c + step_depth<T> <= rows.cols)
            ((x[I] = _mm512_loadu_si512(rows.row[I] + c)), ...);
        else
            ((x[I] = rows.row[I] ? load(rows.row[I] + c, rows.cols - c) : _mm512_setzero_si512()),
             ...);
    }
    /// The words of n elements of a depth: one tile, or up to two where each holds two floats.
    /// Returns where the next ones go.
    template <class S, class T, index_t... I>
    SEMOE_AVX512 SEMOE_INLINE static char* store_words(__m512i const (&words)[16], index_t n,
                                                       char* tiles,
                                                       std::integer_sequence<index_t, I...>) {
        if constexpr (sizeof(S) == sizeof(T)) {
            (_mm512_store_si512(tiles + I * line_bytes, words[I]), ...);
            return tiles + tile_bytes;
        } else {
            bool const two = n > 16;
            ((I < 8 || two ? store_floats(tiles + 2 * I * line_bytes, words[I]) : void()), ...);
            return tiles + (two ? 2 : 1) * tile_bytes;
        }
    }
    SEMOE_AVX512 SEMOE_INLINE static void store_floats(char* lines, __m512i words) {
        _mm512_store_si512(lines, even_floats(words));
        _mm512_store_si512(lines + line_bytes, odd_floats(words));
    }
    SEMOE_AVX512 SEMOE_INLINE static void of_results(float const* tile, __m512i* to, float const*) {
        for (index_t i = 0; i < 16; ++i) to[i] = _mm512_loadu_si512(tile + i * 16);
    }
    SEMOE_AVX512 SEMOE_INLINE static void of_results(float const* tile, __m512i* to, bf16 const*) {
        for (index_t i = 0; i < 8; ++i)
            to[i] = pair(_mm512_loadu_ps(tile + i * 32), _mm512_loadu_ps(tile + i * 32 + 16));
    }
    /// One step of a depth that runs over rows, for 32 columns: two tiles of words, side by side.
    /// @param second  the tile of columns 16 to 31; left alone where there are none
    /// @param fetch   asked for a line for every two that are read
    /// @tparam Whole  whether all rows and columns exist
    template <bool Whole, class T>
    SEMOE_AVX512 SEMOE_INLINE static void tile_columns(StepRows<float, T> const& m, index_t col,
                                                       char* first, char* second, Fetch& fetch) {
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < 16; ++r, first += line_bytes, second += line_bytes) {
            if constexpr (Whole) {
                _mm512_store_ps(first, load_16(m.row[r] + col, 16));
                _mm512_store_ps(second, load_16(m.row[r] + col + 16, 16));
            } else {
                _mm512_store_si512(first, line(m, r, col));
                if (col + 16 < m.cols) _mm512_store_si512(second, line(m, r, col + 16));
            }
            fetch.some(fetched);
        }
    }
    template <bool Whole>
    SEMOE_AVX512 SEMOE_INLINE static void tile_columns(StepRows<bf16, bf16> const& m, index_t col,
                                                       char* first, char* second, Fetch& fetch) {
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < 32; r += 2, first += line_bytes, second += line_bytes) {
            __m512i low, high;
            if constexpr (Whole) {
                interleave(_mm512_loadu_si512(m.row[r] + col),
                           _mm512_loadu_si512(m.row[r + 1] + col), low, high);
                _mm512_store_si512(first, low);
                _mm512_store_si512(second, high);
            } else {
                interleave(line(m, r, col), line(m, r + 1, col), low, high);
                _mm512_store_si512(first, low);
                if (col + 16 < m.cols) _mm512_store_si512(second, high);
            }
            fetch.some(fetched);
        }
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
