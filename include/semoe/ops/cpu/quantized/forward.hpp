#pragma once

#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/quantized/by_rows.hpp"

namespace semoe::ops::cpu {

/// The rows that one expert works on, and its quantised weights.
/// @tparam T     of the rows: float or bf16
/// @tparam Unit  ops::unit, what lies between the products
template <class Format, class T, class Unit>
struct QuantizedFeedForward {
    Isa isa;
    Unit unit;
    index_t hidden, intermediate;
    quant::ConstCodes w_in;     ///< [I,H]; a second one follows where the unit has two inputs
    quant::ConstCodes w_down;   ///< [H,I]
    float const *b_in, *b_down; ///< [Unit::inputs * I] and [H]; null without bias
    IndexedRows<T const, HostSpace> in;
    MatrixView<T, HostSpace> act; ///< [R, I], where the products are computed apart; or no data
    MatrixView<T, HostSpace> out;

    QuantizedRows<Format> in_rows() const {
        return Unit::inputs == 2 ? QuantizedRows<Format>::of_two(w_in)
                                 : QuantizedRows<Format>::of(w_in);
    }
    QuantizedRows<Format> down_rows() const { return QuantizedRows<Format>::of(w_down); }
};

namespace detail {

/// Memory for tokens, rows of a product's left operand or its activations, of that depth at most.
template <class Format>
TokenTiles take_tokens(Isa isa, Parts& parts, index_t rows, index_t depth) {
    index_t const steps = byte_steps(depth);
    return TokenTiles::in(parts.take(TokenTiles::bytes(rows, steps)), rows, steps,
                          few_tokens<Format>(isa, rows));
}

/// Sums of both streams' rows by a block of 16 tokens to numbers, in place. A bias begins at the
/// panel's first row of each stream.
template <class Format>
void numbers_of_panel(Isa isa, QuantizedRows<Format> const& w, index_t panel,
                      TokenTiles const& tokens, index_t block, float const* const (&bias)[2],
                      float* results) {
    for (int s = 0; s < 2; ++s)
        numbers_of(isa,
                   {tokens.scales + block * 16, tokens.offsets + block * 16,
                    w.panel_scales(s, panel), bias[s]},
                   w.panel_rows(s, panel), results + s * tile_floats);
}

/// What the first product leaves: the activation, as lanes for the second product or as rows.
template <class Format, class T, class Unit>
struct FinishQuantizedIn {
    QuantizedFeedForward<Format, T, Unit> const& f;
    QuantizedRows<Format> const& w;
    TokenTiles tokens;
    index_t first_row, rows; ///< of the expert's
    TokenLanes<T> lanes;     ///< or without values: to f.act

    void operator()(index_t panel, index_t block, index_t blocks, float* results) const {
        index_t const first = panel * w.panel_height();
        float const* const bias = f.b_in ? f.b_in + first : nullptr;
        index_t const second = units == 1 ? f.intermediate : tile_rows;
        for (index_t b = block; b < block + blocks; ++b, results += 2 * tile_floats) {
            numbers_of_panel(f.isa, w, panel, tokens, b, {bias, bias ? bias + second : nullptr},
                             results);
            alignas(64) float act[units * tile_floats];
            for (int u = 0; u < units; ++u)
                call_for(f.isa, UnitTile<Unit>::of(f.unit, results + u * tile_floats,
                                                   w.panel_rows(u, panel), act + u * tile_floats));
            if (!lanes.values)
                store_columns<units>(f.isa, act, f.act.row(first_row + b * 16) + first, f.act.ld,
                                     rows_of_block(rows, b), f.intermediate - first);
            for (int u = 0; u < units && lanes.values; ++u)
                to_lanes(b, first + u * tile_rows, w.panel_rows(u, panel), act + u * tile_floats);
        }
    }

private:
    static constexpr int units = Unit::inputs == 2 ? 1 : 2; ///< tiles of activations

    void to_lanes(index_t block, index_t first, index_t n, float const* act) const {
        if (n == 0) return;
        keep_largest(f.isa, act, n, lanes.largest + block * 16);
        store_rows(f.isa, act, lanes.at(block, first), 16, n, 16);
    }
};

/// Rows that come out of a product with QuantizedRows::of.
template <class Format, class T>
struct FinishQuantizedRows {
    Isa isa;
    QuantizedRows<Format> const& w;
    TokenTiles tokens;
    float const* bias;
    MatrixView<T, HostSpace> out;

    void operator()(index_t panel, index_t block, index_t blocks, float* results) const {
        index_t const first = panel * w.panel_height();
        float const* const at = bias ? bias + first : nullptr;
        for (index_t b = block; b < block + blocks; ++b, results += 2 * tile_floats) {
            numbers_of_panel(isa, w, panel, tokens, b, {at, at ? at + tile_rows : nullptr},
                             results);
            store_columns<2>(isa, results, out.row(b * 16) + first, out.ld,
                             rows_of_block(out.rows, b), out.cols - first);
        }
    }
};

} // namespace detail

/// Scratch of a forward task of that many rows.
template <class Format, class T>
constexpr index_t quantized_forward_scratch_bytes(index_t hidden, index_t intermediate,
                                                  index_t rows) {
    return TokenTiles::bytes(rows, byte_steps(max(hidden, intermediate))) +
           TokenLanes<T>::bytes(rows, intermediate) + quantized_scratch_bytes(rows);
}

/// Rows [first, first + rows) of the expert, both products: the activation never leaves L2.
/// @param next     weights that this worker will want next
/// @param scratch  quantized_forward_scratch_bytes(H, I, rows), aligned to 64 bytes
template <class Format, class T, class Unit>
void forward(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f, index_t first,
             index_t rows, QuantizedRows<Format> const& next, char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens<Format>(f.isa, parts, rows, max(f.hidden, f.intermediate));
    auto const act = TokenLanes<T>::in(parts.take(TokenLanes<T>::bytes(rows, f.intermediate)), rows,
                                       f.intermediate);
    auto const in = f.in_rows(), down = f.down_rows();
    pack_tokens(f.isa, detail::host_rows(f.in, first, rows), x);
    multiply_quantized(f.isa, kernel, in, 0, in.panels(), x, rows, down, parts.rest(),
                       detail::FinishQuantizedIn<Format, T, Unit>{f, in, x, first, rows, act});
    pack_tokens(f.isa, act, rows, x);
    multiply_quantized(f.isa, kernel, down, 0, down.panels(), x, rows, next, parts.rest(),
                       detail::FinishQuantizedRows<Format, T>{f.isa, down, x, f.b_down,
                                                              f.out.row_range(first, rows)});
}
/// Panels [begin, end) of the first product alone; the activation goes to f.act.
template <class Format, class T, class Unit>
void forward_in(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f, index_t first,
                index_t rows, index_t begin, index_t end, QuantizedRows<Format> const& next,
                char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens<Format>(f.isa, parts, rows, f.hidden);
    auto const in = f.in_rows();
    pack_tokens(f.isa, detail::host_rows(f.in, first, rows), x);
    multiply_quantized(f.isa, kernel, in, begin, end, x, rows, next, parts.rest(),
                       detail::FinishQuantizedIn<Format, T, Unit>{f, in, x, first, rows, {}});
}
/// Panels [begin, end) of the second product, from f.act.
template <class Format, class T, class Unit>
void forward_down(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f,
                  index_t first, index_t rows, index_t begin, index_t end,
                  QuantizedRows<Format> const& next, char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens<Format>(f.isa, parts, rows, f.intermediate);
    auto const down = f.down_rows();
    pack_tokens(f.isa, detail::host_rows(MatrixView<T const, HostSpace>(f.act), first, rows), x);
    multiply_quantized(f.isa, kernel, down, begin, end, x, rows, next, parts.rest(),
                       detail::FinishQuantizedRows<Format, T>{f.isa, down, x, f.b_down,
                                                              f.out.row_range(first, rows)});
}

} // namespace semoe::ops::cpu
