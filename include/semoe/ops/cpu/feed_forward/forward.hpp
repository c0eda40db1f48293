#pragma once

#include "semoe/core/view.hpp"
#include "semoe/ops/cpu/feed_forward/by_rows.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu {

/// The rows that one expert works on, and its weights: out = unit(in w_in^T + b_in) w_down^T +
/// b_down.
/// @tparam Unit  ops::unit, what lies between the products
template <class T, class Unit>
struct FeedForward {
    Unit unit;
    index_t hidden, intermediate;
    T const *w_in, *b_in;     ///< [Unit::inputs * I, H]; [Unit::inputs * I], null without bias
    T const *w_down, *b_down; ///< [H, I]; [H]
    IndexedRows<T const, HostSpace> in;
    MatrixView<T, HostSpace> saved; ///< [R, Unit::inputs * I]; without data: nobody reads it
    MatrixView<T, HostSpace> act;   ///< [R, I], where the products are computed apart; or no data
    MatrixView<T, HostSpace> out;

    WeightRows<T> in_rows() const {
        return Unit::inputs == 2 ? WeightRows<T>::of_two(w_in, intermediate, hidden)
                                 : WeightRows<T>::of(w_in, intermediate, hidden);
    }
    WeightRows<T> down_rows() const { return WeightRows<T>::of(w_down, hidden, intermediate); }
};

/// Parts of a worker's scratch, handed out in order.
class Parts {
public:
    explicit Parts(char* at)
      : at_(at) {}
    char* take(index_t bytes) {
        char* const part = at_;
        at_ += bytes;
        return part;
    }
    char* rest() const { return at_; }

private:
    char* at_;
};

namespace detail {

template <class T>
HostRows<T> host_rows(MatrixView<T const, HostSpace> m, index_t first, index_t rows) {
    return {m.row(first), m.ld, rows, m.cols};
}
template <class T>
HostRows<T> host_rows(IndexedRows<T const, HostSpace> const& m, index_t first, index_t rows) {
    if (!m.index.data) return host_rows(m.all, first, rows);
    return {m.all.data, m.all.ld, rows, m.all.cols, m.index.data + first};
}
inline int rows_of_block(index_t rows, index_t block) {
    return int(min(rows - block * 16, tile_rows));
}
/// Adds a bias to the first n of the 16 rows of a tile.
template <class T>
SEMOE_LINES void add_bias(T const* bias, index_t n, float* tile) {
    for (index_t r = 0; r < n; ++r)
        _mm512_store_ps(tile + r * 16, _mm512_add_ps(_mm512_load_ps(tile + r * 16),
                                                     _mm512_set1_ps(float(bias[r]))));
}
/// Columns of one or two tiles to rows: the first `rows` of 16 get `cols` elements.
template <class T, int Tiles>
SEMOE_LINES SEMOE_INLINE void store_columns(float const* tiles, T* to, index_t ld, int rows,
                                            index_t cols) {
    constexpr index_t per_tile = lines::per_tile<T>;
    if constexpr (per_tile * Tiles > 16) {
        for (index_t t = 0; t < Tiles; ++t)
            store_columns<T, 1>(tiles + t * tile_floats, to + t * 16, ld, rows, cols - t * 16);
    } else {
        __m512i words[16] = {};
        for (index_t t = 0; t < Tiles; ++t)
            lines::of_results(tiles + t * tile_floats, words + t * per_tile,
                              static_cast<T const*>(nullptr));
        lines::transpose_words(words);
        index_t const width = min(cols, index_t(Tiles * 16));
        for (int r = 0; r < rows; ++r) lines::store(to + r * ld, width, words[r]);
    }
}

/// What the first product leaves: the activation, as words for the second product or as rows.
template <class T, class Unit>
struct FinishIn {
    FeedForward<T, Unit> const& f;
    WeightRows<T> const& w;
    index_t first_row, rows; ///< of the expert's
    char* words;             ///< [blocks of 16 rows][steps], or null: to f.act

    SEMOE_LINES void operator()(index_t panel, index_t block, index_t blocks,
                                float* results) const {
        constexpr int units = Unit::inputs == 2 ? 1 : 2; // tiles of activations
        index_t const first = panel * w.advance, left = f.intermediate - first;
        for (index_t b = 0; b < blocks; ++b, results += 2 * tile_floats) {
            int const count = rows_of_block(rows, block + b);
            index_t const row = first_row + (block + b) * 16;
            if (f.b_in)
                for (int s = 0; s < 2; ++s)
                    add_bias(f.b_in + first + s * (units == 1 ? f.intermediate : tile_rows),
                             w.panel_rows(s, panel), results + s * tile_floats);
            if (f.saved.data) save(results, f.saved.row(row) + first, count, left);
            if (!words && !f.act.data) continue;
            alignas(64) float act[units * tile_floats];
            for (int u = 0; u < units; ++u)
                for (index_t r = 0; r < 16; ++r) {
                    float* const to = act + u * tile_floats + r * 16;
                    // Beyond the last row of weights the second product must find zeros.
                    if (r < w.panel_rows(u, panel))
                        activate(results + u * tile_floats + r * 16, to);
                    else
                        _mm512_store_ps(to, _mm512_setzero_ps());
                }
            if (!words) {
                store_columns<T, units>(act, f.act.row(row) + first, f.act.ld, count, left);
                continue;
            }
            char* const to = words + (block + b) * steps_of<T>(f.intermediate) * tile_bytes +
                             first * index_t(sizeof(T)) / 4 * line_bytes;
            constexpr index_t per_tile = lines::per_tile<T>;
            __m512i line[16];
            for (int u = 0; u < units; ++u) {
                lines::of_results(act + u * tile_floats, line, static_cast<T const*>(nullptr));
                for (int i = 0; i < per_tile; ++i)
                    _mm512_store_si512(to + (u * per_tile + i) * line_bytes, line[i]);
            }
            if (panel + 1 == w.panels())
                clear_lines(to + units * per_tile * line_bytes,
                            words + (block + b + 1) * steps_of<T>(f.intermediate) * tile_bytes);
        }
    }

private:
    SEMOE_LINES static void clear_lines(char* at, char const* end) {
        for (; at < end; at += line_bytes) _mm512_store_si512(at, _mm512_setzero_si512());
    }
    SEMOE_LINES void save(float const* results, T* to, int count, index_t left) const {
        if constexpr (Unit::inputs == 1) {
            store_columns<T, 2>(results, to, f.saved.ld, count, left);
        } else {
            for (int i = 0; i < 2; ++i)
                store_columns<T, 1>(results + i * tile_floats, to + i * f.intermediate, f.saved.ld,
                                    count, min(left, tile_rows));
        }
    }
    SEMOE_LINES SEMOE_INLINE void activate(float const* results, float* act) const {
        float x[Unit::inputs][16], y[16];
        for (int i = 0; i < Unit::inputs; ++i)
            _mm512_storeu_ps(x[i], _mm512_loadu_ps(results + i * tile_floats));
        f.unit.forward(x, y);
        _mm512_store_ps(act, _mm512_loadu_ps(y));
    }
};

/// Rows that come out of a product with WeightRows::of.
template <class T>
struct FinishRows {
    WeightRows<T> const& w;
    T const* bias;
    MatrixView<T, HostSpace> out;

    SEMOE_LINES void operator()(index_t panel, index_t block, index_t blocks,
                                float* results) const {
        index_t const first = panel * w.advance;
        for (index_t b = 0; b < blocks; ++b, results += 2 * tile_floats) {
            if (bias)
                for (int s = 0; s < 2; ++s)
                    add_bias(bias + first + s * tile_rows, w.panel_rows(s, panel),
                             results + s * tile_floats);
            store_columns<T, 2>(results, out.row((block + b) * 16) + first, out.ld,
                                rows_of_block(out.rows, block + b), out.cols - first);
        }
    }
};

} // namespace detail

/// Scratch of a forward task of that many rows.
template <class T>
constexpr index_t forward_scratch_bytes(index_t hidden, index_t intermediate, index_t rows) {
    return tiles_bytes<T>(rows, hidden) + tiles_bytes<T>(rows, intermediate) +
           by_rows_scratch_bytes<T>(max(hidden, intermediate));
}

/// Rows [first, first + rows) of the expert, both products: the activation never leaves L2.
/// @param next     weights that this worker will want next
/// @param scratch  forward_scratch_bytes(H, I, rows), aligned to 64 bytes
template <class T, class Unit>
void forward(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
             WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const x = parts.take(tiles_bytes<T>(rows, f.hidden));
    char* const act = parts.take(tiles_bytes<T>(rows, f.intermediate));
    auto const in = f.in_rows(), down = f.down_rows();
    tile_words_of(detail::host_rows(f.in, first, rows), x);
    multiply_by_rows(kernel, in, 0, in.panels(), x, rows, down, parts.rest(),
                     detail::FinishIn<T, Unit>{f, in, first, rows, act});
    multiply_by_rows(kernel, down, 0, down.panels(), act, rows, next, parts.rest(),
                     detail::FinishRows<T>{down, f.b_down, f.out.row_range(first, rows)});
}
/// Panels [begin, end) of the first product alone; the activation goes to f.act.
template <class T, class Unit>
void forward_in(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
                index_t begin, index_t end, WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const x = parts.take(tiles_bytes<T>(rows, f.hidden));
    auto const in = f.in_rows();
    tile_words_of(detail::host_rows(f.in, first, rows), x);
    multiply_by_rows(kernel, in, begin, end, x, rows, next, parts.rest(),
                     detail::FinishIn<T, Unit>{f, in, first, rows, nullptr});
}
/// Panels [begin, end) of the second product, from f.act.
template <class T, class Unit>
void forward_down(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
                  index_t begin, index_t end, WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const act = parts.take(tiles_bytes<T>(rows, f.intermediate));
    auto const down = f.down_rows();
    tile_words_of(detail::host_rows(MatrixView<T const, HostSpace>(f.act), first, rows), act);
    multiply_by_rows(kernel, down, begin, end, act, rows, next, parts.rest(),
                     detail::FinishRows<T>{down, f.b_down, f.out.row_range(first, rows)});
}

} // namespace semoe::ops::cpu
#endif
