#pragma once

#include "semoe/ops/cpu/avx2/kernels.hpp"
#include "semoe/ops/cpu/feed_forward/fetch.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#if SEMOE_X86
#include <cstring>
#include <type_traits>

namespace semoe::ops::cpu::avx2 {

SEMOE_AVX2 SEMOE_INLINE __m256i load_half(void const* p) {
    return _mm256_loadu_si256(static_cast<__m256i const*>(p));
}
SEMOE_AVX2 SEMOE_INLINE void store_half(void* p, __m256i half) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), half);
}
/// A word in all lanes.
SEMOE_AVX2 SEMOE_INLINE __m256i spread(char const* from) {
    int word;
    std::memcpy(&word, from, sizeof(word));
    return _mm256_set1_epi32(word);
}
SEMOE_AVX2 SEMOE_INLINE __m128 load_quarter(char const* p) {
    return _mm_loadu_ps(reinterpret_cast<float const*>(p));
}
/// Four words of two rows.
SEMOE_AVX2 SEMOE_INLINE __m256 load_two(char const* low, char const* high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(load_quarter(low)), load_quarter(high), 1);
}
/// Four words of eight rows, `ld` bytes apart, to halves of four lines.
SEMOE_AVX2 SEMOE_INLINE void transpose_four(char const* from, index_t ld, char* to) {
    char const* const fifth = from + 4 * ld;
    __m256 const a = load_two(from, fifth), b = load_two(from + ld, fifth + ld),
                 c = load_two(from + 2 * ld, fifth + 2 * ld),
                 d = load_two(from + 3 * ld, fifth + 3 * ld);
    __m256d const ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)),
                  cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)),
                  ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b)),
                  cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    store_half(to, _mm256_castpd_si256(_mm256_unpacklo_pd(ab, cd)));
    store_half(to + line_bytes, _mm256_castpd_si256(_mm256_unpackhi_pd(ab, cd)));
    store_half(to + 2 * line_bytes, _mm256_castpd_si256(_mm256_unpacklo_pd(ab_high, cd_high)));
    store_half(to + 3 * line_bytes, _mm256_castpd_si256(_mm256_unpackhi_pd(ab_high, cd_high)));
}
/// Sixteen rows of 16 words, `ld` bytes apart, to a tile whose lines are their columns.
SEMOE_AVX2 SEMOE_INLINE void transpose_words(char const* from, index_t ld, char* tile) {
    // Lines of rows are read whole: rows that are a page apart share few places in L1.
    for (index_t half = 0; half < 2; ++half, from += 8 * ld, tile += 32)
        for (index_t i = 0; i < 4; ++i)
            transpose_four(from + 16 * i, ld, tile + 4 * i * line_bytes);
}

/// What ops/cpu/feed_forward/lines.hpp asks of an instruction set. Tiles are of floats, or of S.
struct Lines {
    /// Row after row, as memory and its prefetch like it.
    template <class S, class T>
    SEMOE_AVX2 static void tile_rows_of(HostRows<T> const& m, char* tiles) {
        index_t const steps = (m.cols + step_depth<S> - 1) / step_depth<S>;
        for (index_t r = 0; r < blocks_of_16(m.rows) * 16; ++r) {
            T const* const row = r < m.rows ? m.row(r) : nullptr;
            char* to = tiles + r / 16 * steps * tile_bytes + r % 16 * line_bytes;
            for (index_t c = 0; c < m.cols; c += step_depth<S>, to += tile_bytes)
                copy_line(row ? row + c : nullptr, m.cols - c, reinterpret_cast<S*>(to));
        }
    }
    template <class S, class T>
    SEMOE_AVX2 static void tile_words_of(HostRows<T> const& m, char* tiles) {
        alignas(64) char rows[tile_bytes];
        for (index_t r = 0; r < m.rows; r += tile_rows)
            for (index_t c = 0; c < m.cols; c += step_depth<S>, tiles += tile_bytes) {
                for (index_t i = 0; i < tile_rows; ++i)
                    copy_line(r + i < m.rows ? m.row(r + i) + c : nullptr, m.cols - c,
                              reinterpret_cast<S*>(rows + i * line_bytes));
                transpose_words(rows, line_bytes, tiles);
            }
    }
    template <class T>
    SEMOE_AVX2 static void tile_by_columns(TileForm, HostRows<T> const& m, char* tiles,
                                           Fetch& fetch) {
        index_t const block = blocks_of_16(m.rows) * tile_bytes;
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < blocks_of_16(m.rows) * 16; ++r, tiles += line_bytes) {
            T const* const row = r < m.rows ? m.row(r) : nullptr;
            char* to = tiles;
            for (index_t c = 0; c < m.cols; c += 16, to += block) {
                copy_line(row ? row + c : nullptr, m.cols - c, reinterpret_cast<float*>(to));
                if (c % step_depth<T> == 0) fetch.some(fetched);
            }
        }
    }
    SEMOE_AVX2 static void transpose_tiles(char* tiles, index_t n) {
        alignas(64) char rows[tile_bytes];
        for (; n > 0; --n, tiles += tile_bytes) {
            std::memcpy(rows, tiles, sizeof(rows));
            transpose_words(rows, line_bytes, tiles);
        }
    }
    template <class T>
    SEMOE_AVX2 static void add_bias(T const* bias, index_t n, float* tile) {
        for (index_t r = 0; r < n; ++r, tile += 16) {
            __m256 const b = _mm256_set1_ps(float(bias[r]));
            _mm256_store_ps(tile, _mm256_add_ps(_mm256_load_ps(tile), b));
            _mm256_store_ps(tile + 8, _mm256_add_ps(_mm256_load_ps(tile + 8), b));
        }
    }
    template <class T, int Tiles>
    SEMOE_AVX2 static void store_columns(float const* tiles, T* to, index_t ld, index_t rows,
                                         index_t cols) {
        alignas(64) float columns[tile_floats];
        for (index_t t = 0; t < Tiles && cols > 0; ++t, cols -= 16) {
            transpose_words(reinterpret_cast<char const*>(tiles + t * tile_floats), line_bytes,
                            reinterpret_cast<char*>(columns));
            store_rows(columns, to + t * 16, ld, rows, cols);
        }
    }
    template <class, class T>
    SEMOE_AVX2 static void words_of_results(float const* tile, char* to) {
        if constexpr (std::is_same_v<T, float>)
            std::memcpy(to, tile, tile_bytes);
        else
            for (index_t i = 0; i < tile_floats; i += 8)
                store_half(to + i * 4,
                           upper_halves(Avx2Kernels::narrow_words(_mm256_load_ps(tile + i))));
    }
    template <class T>
    SEMOE_AVX2 static void load_rows(T const* from, index_t ld, index_t rows, index_t cols,
                                     float* tile) {
        for (index_t r = 0; r < rows; ++r, from += ld, tile += 16) {
            if (cols >= 16) {
                _mm256_store_ps(tile, Avx2Kernels::load(from));
                _mm256_store_ps(tile + 8, Avx2Kernels::load(from + 8));
            } else {
                for (index_t c = 0; c < 16; ++c) tile[c] = c < cols ? float(from[c]) : 0.0f;
            }
        }
    }
    template <class T>
    SEMOE_AVX2 static void store_rows(float const* tile, T* to, index_t ld, index_t rows,
                                      index_t cols) {
        for (index_t r = 0; r < rows; ++r, to += ld, tile += 16) {
            if (cols >= 16) {
                Avx2Kernels::store(to, _mm256_load_ps(tile));
                Avx2Kernels::store(to + 8, _mm256_load_ps(tile + 8));
            } else {
                for (index_t c = 0; c < cols; ++c) to[c] = T(tile[c]);
            }
        }
    }
    SEMOE_AVX2 static void stream_rows(float const* tile, float* to, index_t ld, index_t rows) {
        for (index_t r = 0; r < rows; ++r, to += ld, tile += 16) {
            _mm256_stream_ps(to, _mm256_load_ps(tile));
            _mm256_stream_ps(to + 8, _mm256_load_ps(tile + 8));
        }
    }

private:
    SEMOE_AVX2 SEMOE_INLINE static __m256i upper_halves(__m256i words) {
        return _mm256_slli_epi32(words, 16);
    }
    /// The first n elements to a line, and zeros; null: zeros alone.
    template <class S, class T>
    SEMOE_AVX2 SEMOE_INLINE static void copy_line(T const* from, index_t n, S* to) {
        if (!from || n < step_depth<S>) {
            for (index_t i = 0; i < step_depth<S>; ++i)
                to[i] = from && i < n ? S(from[i]) : S(0.0f);
        } else if constexpr (std::is_same_v<S, T>) {
            store_half(to, load_half(from));
            store_half(to + step_depth<S> / 2, load_half(from + step_depth<S> / 2));
        } else {
            _mm256_store_ps(to, Avx2Kernels::load(from));
            _mm256_store_ps(to + 8, Avx2Kernels::load(from + 8));
        }
    }
};

} // namespace semoe::ops::cpu::avx2
#endif
