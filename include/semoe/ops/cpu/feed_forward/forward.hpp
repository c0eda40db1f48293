#pragma once

#include "semoe/core/view.hpp"
#include "semoe/ops/cpu/feed_forward/by_rows.hpp"

#include <cstring>

namespace semoe::ops::cpu {

/// The rows that one expert works on, and its weights: out = unit(in w_in^T + b_in) w_down^T +
/// b_down.
/// @tparam Unit  ops::unit, what lies between the products
template <class T, class Unit>
struct FeedForward {
    TileForm form;
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
inline index_t rows_of_block(index_t rows, index_t block) {
    return min(rows - block * 16, tile_rows);
}
/// The unit of a tile of results.
template <class Unit>
struct UnitTile {
    Unit const& unit;
    float const* in[Unit::inputs]; ///< tiles of results
    index_t rows;                  ///< of 16; the others become zeros
    float* out;

    /// Of inputs in tiles that follow one another.
    static UnitTile of(Unit const& unit, float const* in, index_t rows, float* out) {
        UnitTile tile{unit, {}, rows, out};
        for (int i = 0; i < Unit::inputs; ++i) tile.in[i] = in + i * tile_floats;
        return tile;
    }
    /// Inputs are read where they lie: see "unit" in include/semoe/README.md.
    SEMOE_INLINE void operator()() const {
        for (index_t r = 0; r < tile_rows; ++r) {
            float y[16] = {};
            if (r < rows)
                for (int j = 0; j < 16; ++j) {
                    float x[Unit::inputs];
                    for (int i = 0; i < Unit::inputs; ++i) x[i] = in[i][r * 16 + j];
                    y[j] = unit.forward(x);
                }
            for (int j = 0; j < 16; ++j) out[r * 16 + j] = y[j];
        }
    }
};
/// What the first product leaves: the activation, as words for the second product or as rows.
template <class T, class Unit>
struct FinishIn {
    FeedForward<T, Unit> const& f;
    WeightRows<T> const& w;
    index_t first_row, rows; ///< of the expert's
    char* words;             ///< [blocks of 16 rows][steps], or null: to f.act

    void operator()(index_t panel, index_t block, index_t blocks, float* results) const {
        index_t const first = panel * w.advance, left = f.intermediate - first;
        for (index_t b = 0; b < blocks; ++b, results += 2 * tile_floats) {
            index_t const count = rows_of_block(rows, block + b);
            index_t const row = first_row + (block + b) * 16;
            if (f.b_in)
                for (int s = 0; s < 2; ++s)
                    add_bias(f.form.isa,
                             f.b_in + first + s * (units == 1 ? f.intermediate : tile_rows),
                             w.panel_rows(s, panel), results + s * tile_floats);
            if (f.saved.data) save(results, f.saved.row(row) + first, count, left);
            if (!words && !f.act.data) continue;
            alignas(64) float act[units * tile_floats];
            // Beyond the last row of weights the second product must find zeros.
            for (int u = 0; u < units; ++u)
                call_for(f.form.isa,
                         UnitTile<Unit>::of(f.unit, results + u * tile_floats,
                                            w.panel_rows(u, panel), act + u * tile_floats));
            if (words)
                to_words(panel, block + b, act);
            else
                store_columns<units>(f.form.isa, act, f.act.row(row) + first, f.act.ld, count,
                                     left);
        }
    }

private:
    static constexpr int units = Unit::inputs == 2 ? 1 : 2; ///< tiles of activations

    void to_words(index_t panel, index_t block, float const* act) const {
        index_t const all = f.form.block_bytes(f.intermediate);
        index_t const bytes = f.form.lines_of_16() * f.form.word_line_bytes();
        char* to = words + block * all + panel * w.advance / 16 * bytes;
        for (int u = 0; u < units && w.panel_rows(u, panel) > 0; ++u, to += bytes)
            words_of_results<T>(f.form, act + u * tile_floats, to);
        char* const end = words + (block + 1) * all;
        if (panel + 1 == w.panels() && to < end) std::memset(to, 0, std::size_t(end - to));
    }
    void save(float const* results, T* to, index_t count, index_t left) const {
        if constexpr (Unit::inputs == 1)
            store_columns<2>(f.form.isa, results, to, f.saved.ld, count, left);
        else
            for (int i = 0; i < 2; ++i)
                store_columns<1>(f.form.isa, results + i * tile_floats, to + i * f.intermediate,
                                 f.saved.ld, count, min(left, tile_rows));
    }
};

/// Rows that come out of a product with WeightRows::of.
template <class T>
struct FinishRows {
    Isa isa;
    WeightRows<T> const& w;
    T const* bias;
    MatrixView<T, HostSpace> out;

    void operator()(index_t panel, index_t block, index_t blocks, float* results) const {
        index_t const first = panel * w.advance;
        for (index_t b = 0; b < blocks; ++b, results += 2 * tile_floats) {
            if (bias)
                for (int s = 0; s < 2; ++s)
                    add_bias(isa, bias + first + s * tile_rows, w.panel_rows(s, panel),
                             results + s * tile_floats);
            store_columns<2>(isa, results, out.row((block + b) * 16) + first, out.ld,
                             rows_of_block(out.rows, block + b), out.cols - first);
        }
    }
};

} // namespace detail

/// Scratch of a forward task of that many rows.
template <class T>
constexpr index_t forward_scratch_bytes(Isa isa, index_t hidden, index_t intermediate,
                                        index_t rows) {
    auto const form = TileForm::of<T>(isa, rows);
    return form.bytes(rows, hidden) + form.bytes(rows, intermediate) +
           by_rows_scratch_bytes<T>(form, max(hidden, intermediate), rows);
}

/// Rows [first, first + rows) of the expert, both products: the activation never leaves L2.
/// @param next     weights that this worker will want next
/// @param scratch  forward_scratch_bytes(isa, H, I, rows), aligned to 64 bytes
template <class T, class Unit>
void forward(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
             WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const x = parts.take(f.form.bytes(rows, f.hidden));
    char* const act = parts.take(f.form.bytes(rows, f.intermediate));
    auto const in = f.in_rows(), down = f.down_rows();
    tile_words_of(f.form, detail::host_rows(f.in, first, rows), x);
    multiply_by_rows(f.form, kernel, in, 0, in.panels(), x, rows, down, parts.rest(),
                     detail::FinishIn<T, Unit>{f, in, first, rows, act});
    multiply_by_rows(
        f.form, kernel, down, 0, down.panels(), act, rows, next, parts.rest(),
        detail::FinishRows<T>{f.form.isa, down, f.b_down, f.out.row_range(first, rows)});
}
/// Panels [begin, end) of the first product alone; the activation goes to f.act.
template <class T, class Unit>
void forward_in(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
                index_t begin, index_t end, WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const x = parts.take(f.form.bytes(rows, f.hidden));
    auto const in = f.in_rows();
    tile_words_of(f.form, detail::host_rows(f.in, first, rows), x);
    multiply_by_rows(f.form, kernel, in, begin, end, x, rows, next, parts.rest(),
                     detail::FinishIn<T, Unit>{f, in, first, rows, nullptr});
}
/// Panels [begin, end) of the second product, from f.act.
template <class T, class Unit>
void forward_down(BlockKernel& kernel, FeedForward<T, Unit> const& f, index_t first, index_t rows,
                  index_t begin, index_t end, WeightRows<T> const& next, char* scratch) {
    Parts parts(scratch);
    char* const act = parts.take(f.form.bytes(rows, f.intermediate));
    auto const down = f.down_rows();
    tile_words_of(f.form, detail::host_rows(MatrixView<T const, HostSpace>(f.act), first, rows),
                  act);
    multiply_by_rows(
        f.form, kernel, down, begin, end, act, rows, next, parts.rest(),
        detail::FinishRows<T>{f.form.isa, down, f.b_down, f.out.row_range(first, rows)});
}

} // namespace semoe::ops::cpu
