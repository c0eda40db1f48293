#pragma once

#include "semoe/ops/cpu/feed_forward/fetch.hpp"
#include "semoe/ops/cpu/portable/vectors.hpp"

#include <cstring>
#include <type_traits>

namespace semoe::ops::cpu::portable {

/// Sixteen rows of 16 words, `ld` bytes apart, to a tile whose lines are their columns.
template <class V>
SEMOE_INLINE void transpose_words(char const* from, index_t ld, char* tile) {
    for (index_t rows = 0; rows < 4; ++rows, from += 4 * ld, tile += 16)
        for (index_t words = 0; words < 4; ++words)
            V::transpose_four(from + 16 * words, ld, tile + 4 * words * line_bytes);
}

/// What ops/cpu/feed_forward/lines.hpp asks of an instruction set. Tiles are of floats, or of S.
/// @tparam V  Vectors, or an instruction set's own
template <class V>
struct Lines {
    template <class S, class T>
    static void tile_rows_of(HostRows<T> const& m, char* tiles) {
        index_t const steps = (m.cols + step_depth<S> - 1) / step_depth<S>;
        for (index_t r = 0; r < blocks_of_16(m.rows) * 16; ++r) {
            T const* const row = r < m.rows ? m.row(r) : nullptr;
            char* to = tiles + r / 16 * steps * tile_bytes + r % 16 * line_bytes;
            for (index_t c = 0; c < m.cols; c += step_depth<S>, to += tile_bytes)
                copy_line(row ? row + c : nullptr, m.cols - c, reinterpret_cast<S*>(to));
        }
    }
    template <class S, class T>
    static void tile_words_of(HostRows<T> const& m, char* tiles) {
        index_t const n = blocks_of_16(m.rows) * ((m.cols + step_depth<S> - 1) / step_depth<S>);
        tile_rows_of<S>(m, tiles);
        transpose_tiles(tiles, n);
    }
    template <class T>
    static void tile_by_columns(TileForm, HostRows<T> const& m, char* tiles, Fetch& fetch) {
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
    static void transpose_tiles(char* tiles, index_t n) {
        alignas(64) char rows[tile_bytes];
        for (; n > 0; --n, tiles += tile_bytes) {
            std::memcpy(rows, tiles, sizeof(rows));
            transpose_words<V>(rows, line_bytes, tiles);
        }
    }
    template <class T>
    static void add_bias(T const* bias, index_t n, float* tile) {
        for (index_t r = 0; r < n; ++r, tile += 16) {
            float const b = float(bias[r]);
            for (index_t c = 0; c < 16; ++c) tile[c] += b;
        }
    }
    template <class T, int Tiles>
    static void store_columns(float const* tiles, T* to, index_t ld, index_t rows, index_t cols) {
        alignas(64) float columns[tile_floats];
        for (index_t t = 0; t < Tiles && cols > 0; ++t, cols -= 16) {
            transpose_words<V>(reinterpret_cast<char const*>(tiles + t * tile_floats), line_bytes,
                               reinterpret_cast<char*>(columns));
            store_rows(columns, to + t * 16, ld, rows, cols);
        }
    }
    template <class, class T>
    static void words_of_results(float const* tile, char* to) {
        T row[16]; // rounded, where T is not float
        for (index_t r = 0; r < 16; ++r, tile += 16, to += line_bytes) {
            copy(tile, row);
            copy(row, reinterpret_cast<float*>(to));
        }
    }
    template <class T>
    static void load_rows(T const* from, index_t ld, index_t rows, index_t cols, float* tile) {
        for (index_t r = 0; r < rows; ++r, from += ld, tile += 16) {
            if (cols >= 16)
                copy(from, tile);
            else
                for (index_t c = 0; c < 16; ++c) tile[c] = c < cols ? float(from[c]) : 0.0f;
        }
    }
    template <class T>
    static void store_rows(float const* tile, T* to, index_t ld, index_t rows, index_t cols) {
        for (index_t r = 0; r < rows; ++r, to += ld, tile += 16) {
            if (cols >= 16)
                copy(tile, to);
            else
                for (index_t c = 0; c < cols; ++c) to[c] = T(tile[c]);
        }
    }
    /// By ordinary stores: cores see whole lines being written, and many read none of them first.
    static void stream_rows(float const* tile, float* to, index_t ld, index_t rows) {
        store_rows(tile, to, ld, rows, 16);
    }

private:
    /// Sixteen numbers.
    template <class From, class To>
    SEMOE_INLINE static void copy(From const* from, To* to) {
        for (index_t i = 0; i < 16; i += 4) V::store(to + i, V::load(from + i));
    }
    /// The first n elements to a line, and zeros; null: zeros alone.
    template <class S, class T>
    SEMOE_INLINE static void copy_line(T const* from, index_t n, S* to) {
        if (!from || n < step_depth<S>)
            for (index_t i = 0; i < step_depth<S>; ++i)
                to[i] = from && i < n ? S(from[i]) : S(0.0f);
        else if constexpr (std::is_same_v<S, T>)
            std::memcpy(to, from, line_bytes);
        else
            copy(from, to);
    }
};

} // namespace semoe::ops::cpu::portable
