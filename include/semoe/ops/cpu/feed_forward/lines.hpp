#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/cpu/avx2/lines.hpp"
#include "semoe/ops/cpu/avx512/lines.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/lines.hpp"

#include <cstring>

namespace semoe::ops::cpu {

/// f(Lines{}) with what an instruction set has for lines and tiles.
/// @pre is_available(isa)
template <class F>
void with_lines(Isa isa, F const& f) {
    if (isa == Isa::portable) return f(portable::Lines<portable::Vectors>{});
#if SEMOE_X86
    isa == Isa::avx2 ? f(avx2::Lines{}) : f(avx512::Lines{});
#elif SEMOE_ARM
    f(portable::Lines<neon::Vectors>{});
#endif
}
/// f(Lines{}, S{}) for tiles of S, made of elements of T: of floats, where they are widened.
template <class T, class F>
void with_tiles(Isa isa, bool widened, F const& f) {
    with_lines(isa, [&](auto lines) { widened ? f(lines, float{}) : f(lines, T{}); });
}

/// f(), compiled for an instruction set as far as it is inlined.
/// @pre is_available(isa)
template <class F>
void call_for(Isa isa, F const& f) {
    with_kernels(isa, [&](auto kernels) { kernels.call(f); });
}

// Tiles are of the form TileForm::of<T>(isa), or as `form` says.

/// Tiles of rows [blocks of 16 rows][steps].
template <class T>
void tile_rows_of(TileForm form, HostRows<T> const& m, char* tiles) {
    with_tiles<T>(form.isa, form.widens_rows<T>(),
                  [&](auto lines, auto s) { lines.template tile_rows_of<decltype(s)>(m, tiles); });
}
/// Element k of a column to its place in narrow lines, rounded to T.
template <class T>
void put_narrow(TileForm form, index_t k, index_t column, T element, char* words) {
    index_t const at = k * narrow_columns + column;
    if (form.widens_words<T>())
        reinterpret_cast<float*>(words)[at] = float(element);
    else if constexpr (sizeof(T) == 4)
        reinterpret_cast<T*>(words)[at] = element;
    else // two elements a word
        reinterpret_cast<T*>(words)[(k / 2 * narrow_columns + column) * 2 + k % 2] = element;
}
/// The same rows as columns of a product: words [blocks of 16 rows][steps][widths].
template <class T>
void tile_words_of(TileForm form, HostRows<T> const& m, char* tiles) {
    if (form.is_narrow()) {
        std::memset(tiles, 0, std::size_t(form.block_bytes(m.cols)));
        for (index_t r = 0; r < m.rows; ++r)
            for (index_t k = 0; k < m.cols; ++k) put_narrow(form, k, r, m.row(r)[k], tiles);
        return;
    }
    with_tiles<T>(form.isa, form.widens_words<T>(), [&](auto lines, auto s) {
        using S = decltype(s);
        index_t const block = form.block_bytes(m.cols);
        index_t const used = (m.cols + step_depth<S> - 1) / step_depth<S> * tile_bytes;
        for (index_t r = 0; r < m.rows; r += tile_rows, tiles += block) {
            lines.template tile_words_of<S>(m.part(r, 0, min(m.rows - r, tile_rows), m.cols),
                                            tiles);
            std::memset(tiles + used, 0, std::size_t(block - used));
        }
    });
}
/// The rows of a product's left operand, one step after another.
template <class T>
void tile_left(TileForm form, HostRows<T> const& m, char* tiles) {
    form.lanes ? tile_words_of(form, m, tiles) : tile_rows_of(form, m, tiles);
}
/// A product's right operand whose depth runs over rows: tiles of words [blocks of 16 columns]
/// [steps].
/// @param fetch  asked for a line for every two that are read; where they are widened for each
template <class T>
void tile_by_columns(Isa isa, HostRows<T> const& m, char* tiles, Fetch& fetch) {
    with_lines(isa,
               [&](auto lines) { lines.tile_by_columns(TileForm::of<T>(isa), m, tiles, fetch); });
}
template <class T>
void tile_by_columns(Isa isa, HostRows<T> const& m, char* tiles) {
    Fetch nothing;
    tile_by_columns(isa, m, tiles, nothing);
}
/// The transposed matrix as a product's left operand [blocks of 16 columns][steps].
template <class T>
void tile_transposed(Isa isa, HostRows<T> const& m, char* tiles) {
    auto const form = TileForm::of<T>(isa);
    tile_by_columns(isa, m, tiles);
    if (form.lanes) return;
    index_t const n = blocks_of_16(m.cols) * form.steps(m.rows);
    with_lines(isa, [&](auto lines) { lines.transpose_tiles(tiles, n); });
}

// Tiles of results are aligned to 64 bytes; of one, rows are 16 floats that lie together.

/// Adds a bias to the first n rows of a tile.
template <class T>
void add_bias(Isa isa, T const* bias, index_t n, float* tile) {
    with_lines(isa, [&](auto lines) { lines.add_bias(bias, n, tile); });
}
/// Columns of one or two tiles, side by side, to rows: the first `rows` of 16 get `cols` elements.
template <int Tiles, class T>
void store_columns(Isa isa, float const* tiles, T* to, index_t ld, index_t rows, index_t cols) {
    with_lines(isa, [&](auto lines) {
        lines.template store_columns<T, Tiles>(tiles, to, ld, rows, cols);
    });
}
/// A tile of results, rounded to T, to the words of its columns: form.lines_of_16() lines, of
/// floats on all but AVX-512.
template <class T>
void words_of_results(TileForm form, float const* tile, char* to) {
    if (form.is_narrow()) {
        for (index_t k = 0; k < tile_rows; ++k)
            for (index_t c = 0; c < narrow_columns; ++c)
                put_narrow(form, k, c, T(tile[k * 16 + c]), to);
        return;
    }
    with_tiles<T>(form.isa, form.widens_words<T>(), [&](auto lines, auto s) {
        lines.template words_of_results<decltype(s), T>(tile, to);
    });
}
/// The first rows of a tile from up to 16 columns of a matrix, those past its end as zeros.
template <class T>
void load_rows(Isa isa, T const* from, index_t ld, index_t rows, index_t cols, float* tile) {
    with_lines(isa, [&](auto lines) { lines.load_rows(from, ld, rows, cols, tile); });
}
/// The first rows of a tile to up to 16 columns of a matrix.
template <class T>
void store_rows(Isa isa, float const* tile, T* to, index_t ld, index_t rows, index_t cols) {
    with_lines(isa, [&](auto lines) { lines.store_rows(tile, to, ld, rows, cols); });
}
/// The same to whole aligned columns, past the caches.
inline void stream_rows(Isa isa, float const* tile, float* to, index_t ld, index_t rows) {
    with_lines(isa, [&](auto lines) { lines.stream_rows(tile, to, ld, rows); });
}

} // namespace semoe::ops::cpu
