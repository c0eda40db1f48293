#pragma once

#include "semoe/ops/activation.hpp"
#include "semoe/ops/cpu/quantized/tasks.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/feed_forward.hpp"
#include "semoe/ops/group.hpp"
#include "semoe/ops/quantize.hpp"

namespace semoe::ops {

/// Where an expert of two products keeps quantised weights: unit(x in^T + in_bias) down^T +
/// down_bias. All places are bytes from the block's start.
template <class Unit>
struct QuantizedFeedForwardBlock {
    Unit unit;
    index_t hidden, intermediate;
    index_t in, in_scales;                ///< [Unit::inputs * I, H]
    index_t down, down_scales;            ///< [H, I]
    index_t in_bias = -1, down_bias = -1; ///< floats; negative: none
};

namespace detail {
/// Some rows by one row of weights.
template <class Format, class T, class Space>
struct QuantizedProduct {
    static constexpr index_t height = 8, width = quant::group_size;

    Group<std::byte const> group;
    MatrixView<T const, Space> in;
    index_t codes, scales, bias;
    MatrixView<T, Space> out;

    static index_t blocks_of(index_t rows) { return (rows + height - 1) / height; }
    index_t blocks() const {
        index_t n = 0;
        for (int e = 0; e < group.size; ++e) n += blocks_of(group.rows[e]);
        return n;
    }
    SEMOE_HD void operator()(index_t i) const {
        using Sum = accumulate_t<T>;
        index_t const n = i % out.cols;
        index_t block = i / out.cols;
        int expert = 0;
        for (index_t here; block >= (here = (group.rows[expert] + height - 1) / height); ++expert)
            block -= here;
        index_t const first = group.first_row[expert] + block * height,
                      rows = min(height, group.rows[expert] - block * height);
        auto const* const w = reinterpret_cast<std::uint8_t const*>(group.block[expert]);
        std::uint8_t const* const row = w + codes + n * Format::code_bytes(in.cols);
        std::uint8_t const* const row_scales = w + scales + n * Format::scale_bytes(in.cols);
        Sum sums[height] = {};
        for (index_t k = 0; k < in.cols; k += width) {
            Sum weights[width] = {};
            index_t const here = min(width, in.cols - k);
            for (index_t j = 0; j < here; ++j)
                weights[j] = Sum(Format::weight(row, row_scales, k + j));
            for (index_t r = 0; r < rows; ++r)
                for (index_t j = 0; j < here; ++j)
                    sums[r] += convert<Sum>(in(first + r, k + j)) * weights[j];
        }
        Sum const added = bias < 0 ? Sum(0) : Sum(quant::detail::load_float(w + bias + 4 * n));
        for (index_t r = 0; r < rows; ++r) out(first + r, n) = convert<T>(sums[r] + added);
    }
};
template <class Format, class T, Backend B>
void grouped_quantized_product(B& b, Group<std::byte const> const& g,
                               MatrixView<T const, space_of<B>> in, index_t codes, index_t scales,
                               index_t bias, MatrixView<T, space_of<B>> out) {
    QuantizedProduct<Format, T, space_of<B>> const product{g, in, codes, scales, bias, out};
    b.parallel_for(product.blocks() * out.cols, product);
}
} // namespace detail

/// Whether a processor has kernels for the format: a specialisation of ops::cpu::Decode.
template <class Format>
concept HasDecode = requires {
    typename cpu::Decode<Format>::Products;
};

template <class B, class Format, class T>
bool has_fused_quantized_feed_forward() {
    if constexpr (may_fuse_feed_forward<B, T> && HasDecode<Format>)
        return cpu::has_fused_feed_forward<T>(selected_isa());
    else
        return false;
}

/// Scratch that a worker should have for grouped_quantized_feed_forward; zero where it needs none.
template <class Format, class T, class B, class Unit>
std::size_t quantized_feed_forward_scratch_bytes(QuantizedFeedForwardBlock<Unit> const& block) {
    if constexpr (may_fuse_feed_forward<B, T> && HasDecode<Format>)
        if (has_fused_quantized_feed_forward<B, Format, T>())
            return std::size_t(
                cpu::quantized_feed_forward_scratch<Format, T>(block.hidden, block.intermediate));
    return 0;
}

/// The whole expert for the rows of every expert of the group. With kernels for the format, rows
/// are quantised as well where it says so (Int8 and Int4: to 8 bits, by a scale a row; a row with a
/// number that is not finite comes out as NaN), or rounded to bf16 (Mxfp4); elsewhere weights are
/// multiplied as the floats that they stand for. A row's bits depend on no other row.
/// @param in     [R,H], backend memory
/// @param saved  [R, Unit::inputs * I], may be overwritten
/// @param act    [R,I], may be overwritten
/// @param out    [R,H], overwritten
/// @throws precondition_error naming the shape or the expert that does not fit
/// @sync enqueues
/// @cost 2 H I (Unit::inputs + 1) flops a row; with kernels reads every weight once for 384 rows,
///       and allocates nothing where workers have their scratch
template <quant::Format Format, class T, Backend B, class Unit>
void grouped_quantized_feed_forward(B& b, Group<std::byte const> const& g,
                                    QuantizedFeedForwardBlock<Unit> const& block,
                                    MatrixView<T const, space_of<B>> in,
                                    MatrixView<T, space_of<B>> saved,
                                    MatrixView<T, space_of<B>> act,
                                    MatrixView<T, space_of<B>> out) {
    char const* const name = "grouped_quantized_feed_forward";
    detail::expect_rows(name, g, in, block.hidden);
    detail::expect_rows(name, g, act, block.intermediate);
    detail::expect_rows(name, g, out, block.hidden);
    if constexpr (may_fuse_feed_forward<B, T> && HasDecode<Format>)
        if (has_fused_quantized_feed_forward<B, Format, T>())
            return cpu::run_quantized_feed_forward<Format, T>(b, g, block, in, act, out);
    detail::expect_rows(name, g, saved, Unit::inputs * block.intermediate);
    using Rows = MatrixView<T const, space_of<B>>;
    detail::grouped_quantized_product<Format, T>(b, g, in, block.in, block.in_scales, block.in_bias,
                                                 saved);
    grouped_unit(b, g, block.unit, Rows(saved), act);
    detail::grouped_quantized_product<Format, T>(b, g, Rows(act), block.down, block.down_scales,
                                                 block.down_bias, out);
}

} // namespace semoe::ops
