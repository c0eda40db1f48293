#pragma once

#include "semoe/ops/cpu/feed_forward/forward.hpp"
#include "semoe/ops/cpu/quantized/by_rows.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu {

/// The rows that one expert works on, and its quantised weights.
/// @tparam T     of the rows: float or bf16
/// @tparam Unit  ops::unit, what lies between the products
template <class Format, class T, class Unit>
struct QuantizedFeedForward {
    static constexpr bool may_be_few = cpu::may_be_few<Format>;

    Unit unit;
    bool byte_dots; ///< whether the instruction set has dot products of bytes
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
template <class F>
TokenTiles take_tokens(F const& f, Parts& parts, index_t rows, index_t depth) {
    index_t const steps = ByteProducts::steps(depth);
    bool const few = F::may_be_few && f.byte_dots && rows <= few_tokens;
    return TokenTiles::in(parts.take(TokenTiles::bytes(rows, steps)), rows, steps, few);
}

/// Sums of both streams' rows by 16 tokens to numbers, in place. A bias begins at the panel's first
/// row of each stream.
template <class Format>
SEMOE_LINES void numbers_of(QuantizedRows<Format> const& w, index_t panel, TokenTiles const& tokens,
                            index_t block, float const* const (&bias)[2], float* results) {
    for (int s = 0; s < 2; ++s)
        for (index_t r = 0; r < w.panel_rows(s, panel); ++r) {
            float* const at = results + s * tile_floats + r * 16;
            __m512 number =
                ByteProducts::number(at, tokens, block, w.panel_scales(s, panel) + 4 * r);
            if (bias[s]) number = _mm512_add_ps(number, _mm512_set1_ps(bias[s][r]));
            _mm512_store_ps(at, number);
        }
}

/// What the first product leaves: the activation, as lanes for the second product or as rows.
template <class Format, class T, class Unit>
struct FinishQuantizedIn {
    QuantizedFeedForward<Format, T, Unit> const& f;
    QuantizedRows<Format> const& w;
    TokenTiles tokens;
    index_t first_row, rows; ///< of the expert's
    TokenLanes<T> lanes;     ///< or without values: to f.act

    SEMOE_LINES void operator()(index_t panel, index_t block, index_t blocks,
                                float* results) const {
        constexpr int units = Unit::inputs == 2 ? 1 : 2; // tiles of activations
        index_t const first = panel * w.panel_height();
        float const* const bias = f.b_in ? f.b_in + first : nullptr;
        index_t const second = units == 1 ? f.intermediate : tile_rows;
        for (index_t b = block; b < block + blocks; ++b, results += 2 * tile_floats) {
            numbers_of(w, panel, tokens, b, {bias, bias ? bias + second : nullptr}, results);
            if (lanes.values)
                to_lanes(panel, b, first, results);
            else
                to_rows(panel, b, first, results);
        }
    }

private:
    SEMOE_LINES void to_lanes(index_t panel, index_t b, index_t first, float const* results) const {
        constexpr int units = Unit::inputs == 2 ? 1 : 2;
        __m512i most = _mm512_load_si512(lanes.largest + b * 16);
        for (int u = 0; u < units; ++u)
            for (index_t r = 0; r < w.panel_rows(u, panel); ++r) {
                __m512 const act = activate(results + u * tile_floats + r * 16);
                most = _mm512_maskz_max_epu32(0xffff, most, magnitude(act));
                lines::store_16(lanes.at(b, first + u * tile_rows + r), 16, act);
            }
        _mm512_store_si512(lanes.largest + b * 16, most);
    }
    SEMOE_LINES void to_rows(index_t panel, index_t b, index_t first, float const* results) const {
        constexpr int units = Unit::inputs == 2 ? 1 : 2;
        alignas(64) float act[units * tile_floats] = {};
        for (int u = 0; u < units; ++u)
            for (index_t r = 0; r < w.panel_rows(u, panel); ++r)
                _mm512_store_ps(act + u * tile_floats + r * 16,
                                activate(results + u * tile_floats + r * 16));
        store_columns<T, units>(act, f.act.row(first_row + b * 16) + first, f.act.ld,
                                rows_of_block(rows, b), f.intermediate - first);
    }
    SEMOE_LINES SEMOE_INLINE __m512 activate(float const* results) const {
        float x[Unit::inputs][16], y[16];
        for (int i = 0; i < Unit::inputs; ++i)
            _mm512_storeu_ps(x[i], _mm512_loadu_ps(results + i * tile_floats));
        f.unit.forward(x, y);
        return _mm512_loadu_ps(y);
    }
};

/// Rows that come out of a product with QuantizedRows::of.
template <class Format, class T>
struct FinishQuantizedRows {
    QuantizedRows<Format> const& w;
    TokenTiles tokens;
    float const* bias;
    MatrixView<T, HostSpace> out;

    SEMOE_LINES void operator()(index_t panel, index_t block, index_t blocks,
                                float* results) const {
        index_t const first = panel * w.panel_height();
        float const* const at = bias ? bias + first : nullptr;
        for (index_t b = block; b < block + blocks; ++b, results += 2 * tile_floats) {
            numbers_of(w, panel, tokens, b, {at, at ? at + tile_rows : nullptr}, results);
            store_columns<T, 2>(results, out.row(b * 16) + first, out.ld,
                                rows_of_block(out.rows, b), out.cols - first);
        }
    }
};

} // namespace detail

/// Scratch of a forward task of that many rows.
template <class Format, class T>
constexpr index_t quantized_forward_scratch_bytes(index_t hidden, index_t intermediate,
                                                  index_t rows) {
    return TokenTiles::bytes(rows, ByteProducts::steps(max(hidden, intermediate))) +
           TokenLanes<T>::bytes(rows, intermediate) + quantized_scratch_bytes(rows);
}

/// Rows [first, first + rows) of the expert, both products: the activation never leaves L2.
/// @param next     weights that this worker will want next
/// @param scratch  quantized_forward_scratch_bytes(H, I, rows), aligned to 64 bytes
template <class Format, class T, class Unit>
void forward(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f, index_t first,
             index_t rows, QuantizedRows<Format> const& next, char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens(f, parts, rows, max(f.hidden, f.intermediate));
    auto const act = TokenLanes<T>::in(parts.take(TokenLanes<T>::bytes(rows, f.intermediate)), rows,
                                       f.intermediate);
    auto const in = f.in_rows(), down = f.down_rows();
    ByteProducts::pack(detail::host_rows(f.in, first, rows), x);
    multiply_quantized(kernel, in, 0, in.panels(), x, rows, down, parts.rest(),
                       detail::FinishQuantizedIn<Format, T, Unit>{f, in, x, first, rows, act});
    ByteProducts::pack(act, rows, x);
    multiply_quantized(
        kernel, down, 0, down.panels(), x, rows, next, parts.rest(),
        detail::FinishQuantizedRows<Format, T>{down, x, f.b_down, f.out.row_range(first, rows)});
}
/// Panels [begin, end) of the first product alone; the activation goes to f.act.
template <class Format, class T, class Unit>
void forward_in(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f, index_t first,
                index_t rows, index_t begin, index_t end, QuantizedRows<Format> const& next,
                char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens(f, parts, rows, f.hidden);
    auto const in = f.in_rows();
    ByteProducts::pack(detail::host_rows(f.in, first, rows), x);
    multiply_quantized(kernel, in, begin, end, x, rows, next, parts.rest(),
                       detail::FinishQuantizedIn<Format, T, Unit>{f, in, x, first, rows, {}});
}
/// Panels [begin, end) of the second product, from f.act.
template <class Format, class T, class Unit>
void forward_down(BlockKernel& kernel, QuantizedFeedForward<Format, T, Unit> const& f,
                  index_t first, index_t rows, index_t begin, index_t end,
                  QuantizedRows<Format> const& next, char* scratch) {
    Parts parts(scratch);
    auto const x = detail::take_tokens(f, parts, rows, f.intermediate);
    auto const down = f.down_rows();
    ByteProducts::pack(detail::host_rows(MatrixView<T const, HostSpace>(f.act), first, rows), x);
    multiply_quantized(
        kernel, down, begin, end, x, rows, next, parts.rest(),
        detail::FinishQuantizedRows<Format, T>{down, x, f.b_down, f.out.row_range(first, rows)});
}

} // namespace semoe::ops::cpu
#endif
