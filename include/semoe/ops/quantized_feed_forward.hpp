#pragma once

#include "semoe/backend/cost.hpp"
#include "semoe/ops/activation.hpp"
#include "semoe/ops/cpu/quantized/tasks.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/feed_forward.hpp"
#include "semoe/ops/group.hpp"
#include "semoe/ops/quantize.hpp"

namespace semoe::ops {

/// Where an expert of two products keeps quantised weights: unit(x in^T + in_bias) down^T +
/// down_bias. Places are bytes from the block's start.
template <class Unit>
struct QuantizedFeedForwardBlock {
    Unit unit;
    index_t hidden, intermediate;
    index_t in_codes, in_scales;     ///< Unit::inputs matrices [I,H], one after another
    index_t down_codes, down_scales; ///< [H,I]
    index_t in_bias_at = -1;         ///< Unit::inputs * I floats, a multiple of 4; negative: none
    index_t down_bias_at = -1;       ///< H floats, likewise

    /// The first of the matrices in a block.
    SEMOE_HD quant::ConstCodes in(std::byte const* block) const {
        return {bytes(block) + in_codes, bytes(block) + in_scales, intermediate, hidden};
    }
    SEMOE_HD quant::ConstCodes down(std::byte const* block) const {
        return {bytes(block) + down_codes, bytes(block) + down_scales, hidden, intermediate};
    }
    SEMOE_HD float const* in_bias(std::byte const* block) const { return bias(block, in_bias_at); }
    SEMOE_HD float const* down_bias(std::byte const* block) const {
        return bias(block, down_bias_at);
    }

private:
    SEMOE_HD static std::uint8_t const* bytes(std::byte const* block) {
        return reinterpret_cast<std::uint8_t const*>(block);
    }
    SEMOE_HD static float const* bias(std::byte const* block, index_t at) {
        return at < 0 ? nullptr : reinterpret_cast<float const*>(block + at);
    }
};

namespace detail {
/// Some rows by one row of weights: of one of the two products of an expert.
template <class Format, class T, class Space, class Block>
struct QuantizedProduct {
    static constexpr index_t height = 8, width = quant::group_size;

    Group<std::byte const> group;
    Block block;
    bool is_down;
    MatrixView<T const, Space> in;
    MatrixView<T, Space> out;

    index_t tasks() const {
        index_t n = 0;
        for (int e = 0; e < group.size; ++e) n += (group.rows[e] + height - 1) / height;
        return n * out.cols;
    }
    SEMOE_HD void operator()(index_t i) const {
        using Sum = accumulate_t<T>;
        index_t const column = i % out.cols;
        index_t part = i / out.cols;
        int expert = 0;
        for (index_t here = 0; part >= (here = (group.rows[expert] + height - 1) / height);
             ++expert)
            part -= here;
        index_t const row = group.first_row[expert] + part * height;
        index_t const rows = min(height, group.rows[expert] - part * height);
        quant::ConstCodes const w = weights(group.block[expert], column);
        Sum sums[height] = {};
        for (index_t k = 0; k < in.cols; k += width) {
            Sum numbers[width] = {};
            index_t const here = min(width, in.cols - k);
            for (index_t j = 0; j < here; ++j)
                numbers[j] = Sum(Format::weight(w, column % w.rows, k + j));
            for (index_t r = 0; r < rows; ++r)
                for (index_t j = 0; j < here; ++j)
                    sums[r] += convert<Sum>(in(row + r, k + j)) * numbers[j];
        }
        float const* const bias =
            is_down ? block.down_bias(group.block[expert]) : block.in_bias(group.block[expert]);
        Sum const added = bias ? Sum(bias[column]) : Sum(0);
        for (index_t r = 0; r < rows; ++r) out(row + r, column) = convert<T>(sums[r] + added);
    }
    /// With weights and rows read once.
    Cost cost() const {
        Cost sum;
        for (int e = 0; e < group.size; ++e) {
            if (group.rows[e] == 0) continue;
            auto const rows = double(group.rows[e]);
            quant::ConstCodes const w =
                is_down ? block.down(group.block[e]) : block.in(group.block[e]);
            index_t const tiles = out.cols / w.rows * quant::tiles_of(w.rows);
            index_t const tile = Format::code_tile_bytes(w.cols) + Format::scale_tile_bytes(w.cols);
            sum += {2 * rows * double(out.cols) * double(in.cols),
                    double(tiles * tile) + rows * double(in.cols + out.cols) * sizeof(T)};
        }
        return sum;
    }

private:
    SEMOE_HD quant::ConstCodes weights(std::byte const* memory, index_t column) const {
        if (is_down) return block.down(memory);
        quant::ConstCodes w = block.in(memory);
        index_t const tiles = column / w.rows * quant::tiles_of(w.rows); // of matrices before
        w.codes += tiles * Format::code_tile_bytes(w.cols);
        w.scales += tiles * Format::scale_tile_bytes(w.cols);
        return w;
    }
};
} // namespace detail

/// Whether a processor has kernels for the format: a specialisation of ops::cpu::Decode.
template <class Format>
concept HasDecode = requires {
    cpu::Decode<Format>::lines;
};

template <class B, class Format, class T>
inline constexpr bool has_fused_quantized_feed_forward =
    has_fused_feed_forward<B, T>&& HasDecode<Format>;

/// The most that H and I may be with kernels: larger sums of bytes might not fit into 32 bits.
inline constexpr index_t largest_quantized_depth = 65536;

/// Scratch that a worker should have for grouped_quantized_feed_forward; zero where it needs none.
template <class Format, class T, class B, class Unit>
std::size_t quantized_feed_forward_scratch_bytes(QuantizedFeedForwardBlock<Unit> const& block) {
    if constexpr (has_fused_quantized_feed_forward<B, Format, T>)
        return std::size_t(
            cpu::quantized_feed_forward_scratch<Format, T>(block.hidden, block.intermediate));
    else
        return 0;
}

/// The whole expert for the rows of every expert of the group. With kernels for the format, rows
/// are quantised as well, to 8 bits by a scale a row, and what comes out of the unit once more; a
/// row with a number that is not finite comes out as NaN, where the unit keeps it. Elsewhere
/// weights are multiplied as the floats that they stand for. A row's bits depend on no other row.
/// @param in     [R,H], backend memory; with kernels, rows may be read through an index
/// @param saved  [R, Unit::inputs * I], may be overwritten
/// @param act    [R,I], may be overwritten
/// @param out    [R,H], overwritten
/// @throws precondition_error naming the shape or the expert that does not fit
/// @sync enqueues
/// @cost 2 H I (Unit::inputs + 1) flops a row; with kernels reads every weight once for 192 rows,
///       and allocates nothing where workers have their scratch
template <quant::Format Format, class T, Backend B, class Unit>
void grouped_quantized_feed_forward(B& b, Group<std::byte const> const& g,
                                    QuantizedFeedForwardBlock<Unit> const& block,
                                    IndexedRows<T const, space_of<B>> const& in,
                                    MatrixView<T, space_of<B>> saved,
                                    MatrixView<T, space_of<B>> act,
                                    MatrixView<T, space_of<B>> out) {
    char const* const name = "grouped_quantized_feed_forward";
    detail::expect_rows(name, g, in, block.hidden);
    detail::expect_rows(name, g, act, block.intermediate);
    detail::expect_rows(name, g, out, block.hidden);
    if constexpr (has_fused_quantized_feed_forward<B, Format, T>) {
        expects(max(block.hidden, block.intermediate) <= largest_quantized_depth,
                "{}: H is {}, I {}; kernels take {} at most", name, block.hidden,
                block.intermediate, largest_quantized_depth);
        cpu::run_quantized_feed_forward<Format, T>(b, g, block, in, act, out);
    } else {
        detail::expect_rows(name, g, saved, Unit::inputs * block.intermediate);
        expects(!in.index.data, "{}: there are no kernels here that read rows through an index",
                name);
        using Product =
            detail::QuantizedProduct<Format, T, space_of<B>, QuantizedFeedForwardBlock<Unit>>;
        auto const product = [&](bool is_down, MatrixView<T const, space_of<B>> from,
                                 MatrixView<T, space_of<B>> to) {
            Product const body{g, block, is_down, from, to};
            b.parallel_for(body.tasks(), body);
        };
        product(false, in.all, saved);
        grouped_unit(b, g, block.unit, MatrixView<T const, space_of<B>>(saved), act);
        product(true, act, out);
    }
}

} // namespace semoe::ops
