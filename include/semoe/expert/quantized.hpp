#pragma once

#include "semoe/core/message.hpp"
#include "semoe/expert/concept.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/initialize.hpp"
#include "semoe/ops/quantized_feed_forward.hpp"

#include <string_view>

namespace semoe::expert {

namespace detail {
/// What quantised experts are made from: two products with a unit between them.
template <class X>
concept HasUnit = HasExpertShape<X> && requires(X const& x) {
    { x.intermediate } -> std::convertible_to<index_t>;
    x.unit();
};
/// Rows of numbers that initialize() would draw.
template <class T>
struct DrawnRows {
    DrawWeight<T> draw;
    index_t cols;
    struct Row {
        DrawWeight<T> draw;
        index_t first;
        SEMOE_HD float operator()(index_t k) const { return float(draw.value(first + k)); }
    };
    SEMOE_HD Row operator()(index_t n) const { return {draw, n * cols}; }
};
template <class T>
struct FloatBias {
    T const* from;
    std::uint8_t* to;
    SEMOE_HD void operator()(index_t i) const {
        quant::detail::store_float(to + 4 * i, float(from[i]));
    }
};
template <class T>
struct BiasNumbers {
    std::uint8_t const* from;
    T* to;
    SEMOE_HD void operator()(index_t i) const {
        to[i] = convert<T>(accumulate_t<T>(quant::detail::load_float(from + 4 * i)));
    }
};
/// Names of the slices that belong to a float expert's "NAME_proj": the codes keep the name.
constexpr char const* scales_of(std::string_view matrix) {
    if (matrix == "gate_proj") return "gate_scales";
    if (matrix == "up_proj") return "up_scales";
    return "down_scales";
}
} // namespace detail

/// A float expert with its weights in 8 or 4 bits, for inference: the same function, its rows still
/// of the float expert's value_type.
///
///     expert::Quantized expert{quant::Int4{}, expert::SwiGlu<bf16>{.hidden = 2048,
///                                                                  .intermediate = 1024}};
///
/// Block, of bytes: the codes of the float expert's matrices under their names, a row a tile of 16
/// rows, then gate_scales, up_scales and down_scales likewise, and with bias gate_bias [1, 4 I] and
/// so on, as floats. quantize() fills it from a float expert's block; layer/quantize.hpp fills
/// whole layers.
/// @tparam Format  quant::Int8, Int4 or Mxfp4 (core/quant.hpp), or one of one's own
/// @tparam Float   Gated or Ffn, SwiGlu among them
template <class Format, class Float>
struct Quantized {
    static_assert(quant::Format<Format>,
                  "expert::Quantized: the format lacks layout, code_tile_bytes, scale_tile_bytes, "
                  "weight or encode; see semoe/core/quant.hpp");
    static_assert(detail::HasUnit<Float>,
                  "expert::Quantized: the float expert must be two products with a unit() between "
                  "them, as expert::Gated and expert::Ffn are");
    using value_type = typename Float::value_type;
    using weight_type = std::uint8_t;
    using T = value_type;

    Format format = {};
    Float base = {};
    index_t hidden = index_t(base.hidden); ///< H, the float expert's

    static constexpr index_t largest_depth = ops::largest_quantized_depth;

    /// @throws precondition_error naming the member that is out of range
    void validate() const {
        base.validate();
        for (index_t const depth : {index_t(base.hidden), index_t(base.intermediate)})
            expects(depth <= largest_depth,
                    "expert::Quantized: hidden is {}, intermediate {}; the most is {}", base.hidden,
                    base.intermediate, largest_depth);
        expects(hidden == index_t(base.hidden),
                "expert::Quantized: hidden is {}, that of the float expert {}; they must be equal",
                hidden, base.hidden);
    }

    template <Backend B>
    BlockLayout layout(B const& b) const {
        BlockLayout layout{Format::layout};
        BlockLayout const floats = base.layout(b);
        for (Slice const& s : floats)
            if (is_matrix(s))
                layout.add(s.name, quant::tiles_of(s.rows), Format::code_tile_bytes(s.cols));
        for (Slice const& s : floats)
            if (is_matrix(s))
                layout.add(detail::scales_of(s.name), quant::tiles_of(s.rows),
                           Format::scale_tile_bytes(s.cols));
        for (Slice const& s : floats)
            if (is_bias(s)) layout.add(s.name, s.rows, 4 * s.cols);
        return layout;
    }
    /// What a block's bytes are codes of, which their shapes do not say: checkpoints compare it.
    std::string codes() const {
        return message("{}, hidden {}, intermediate {}", to_string(Format::layout), base.hidden,
                       base.intermediate);
    }
    index_t saved_columns() const { return base.saved_columns(); }
    index_t scratch_columns() const { return base.scratch_columns(); }
    template <Backend B>
    std::size_t worker_scratch_bytes(B const& b) const {
        return ops::quantized_feed_forward_scratch_bytes<Format, T, B>(block(b));
    }
    /// Whether there are kernels for the format here.
    template <Backend B>
    bool reads_indexed_rows(B const&) const {
        return ops::has_fused_quantized_feed_forward<B, Format, T>;
    }
    double flops_per_row() const { return base.flops_per_row(); }

    /// @sync enqueues @cost flops_per_row() a row, no allocation
    template <Backend B>
    void forward_grouped(B& b, ops::Group<std::byte const> const& weights,
                         ExpertRows<T, space_of<B>> const& rows) const {
        ops::grouped_quantized_feed_forward<Format, T>(b, weights, block(b), rows.indexed(),
                                                       rows.saved, rows.scratch, rows.out);
    }

    /// Fills a block from one of the float expert's.
    /// @param from  base.layout(b).primary_elements() of T or more, backend memory
    /// @param to    layout(b).elements() bytes, backend memory, overwritten
    /// @throws precondition_error naming both sizes where a block is too short
    /// @sync enqueues @cost 3 to 25 ns a weight and thread; no allocation
    template <Backend B>
    void quantize(B& b, ConstBytes<space_of<B>> from, Bytes<space_of<B>> to) const {
        BlockLayout const floats = base.layout(b), bytes = layout(b);
        auto const numbers = view_as<T>(from);
        expects(numbers.size >= floats.primary_elements() && to.size >= bytes.elements(),
                "expert::Quantized: blocks of {} numbers and {} bytes, {} and {} needed",
                numbers.size, to.size, floats.primary_elements(), bytes.elements());
        for (Slice const& s : floats) {
            T const* const at = numbers.data + s.offset;
            if (is_matrix(s))
                ops::quantize<Format>(b, MatrixView<T const, space_of<B>>(at, s.rows, s.cols),
                                      codes(bytes, s, to));
            else if (is_bias(s))
                b.parallel_for(s.cols, detail::FloatBias<T>{at, slice(bytes, s.name, to)});
        }
    }
    /// The numbers that a block stands for, as a block of the float expert's primary slices.
    /// @sync enqueues
    template <Backend B>
    void dequantize(B& b, Bytes<space_of<B>> from, Bytes<space_of<B>> to) const {
        BlockLayout const floats = base.layout(b), bytes = layout(b);
        auto const numbers = view_as<T>(to);
        expects(numbers.size >= floats.primary_elements() && from.size >= bytes.elements(),
                "expert::Quantized: blocks of {} numbers and {} bytes, {} and {} needed",
                numbers.size, from.size, floats.primary_elements(), bytes.elements());
        for (Slice const& s : floats) {
            T* const at = numbers.data + s.offset;
            if (is_matrix(s))
                ops::dequantize<Format>(b, quant::ConstCodes(codes(bytes, s, from)),
                                        MatrixView<T, space_of<B>>(at, s.rows, s.cols));
            else if (is_bias(s))
                b.parallel_for(s.cols, detail::BiasNumbers<T>{slice(bytes, s.name, from), at});
        }
    }

    /// What expert::initialize() would draw for the float expert, quantised.
    /// @sync enqueues
    template <Backend B>
    void initialize(B& b, std::uint64_t seed, BlockKey key, Bytes<space_of<B>> to) const {
        BlockLayout const floats = base.layout(b), bytes = layout(b);
        for (int i = 0; i < floats.size(); ++i) {
            Slice const& s = floats[i];
            using Rows = detail::DrawnRows<T>;
            if (is_matrix(s)) {
                Rows const rows{detail::drawn<T>(s, i, seed, key), s.cols};
                ops::detail::encode_rows<Format>(b, rows, codes(bytes, s, to));
            } else if (is_bias(s)) {
                b.parallel_for(4 * s.cols,
                               detail::ZeroWeight<std::uint8_t>{slice(bytes, s.name, to)});
            }
        }
    }

private:
    static bool is_matrix(Slice const& s) {
        return !s.derived && std::string_view(s.name).ends_with("_proj");
    }
    static bool is_bias(Slice const& s) {
        return !s.derived && std::string_view(s.name).ends_with("_bias");
    }
    template <class Space>
    static std::uint8_t* slice(BlockLayout const& bytes, char const* name, Bytes<Space> block) {
        return reinterpret_cast<std::uint8_t*>(block.data) + bytes.slice(name).offset;
    }
    /// Where a matrix of the float expert lies.
    template <class Space>
    static quant::Codes codes(BlockLayout const& bytes, Slice const& s, Bytes<Space> block) {
        return {slice(bytes, s.name, block), slice(bytes, detail::scales_of(s.name), block), s.rows,
                s.cols};
    }
    template <Backend B>
    auto block(B const& b) const {
        auto const unit = base.unit();
        BlockLayout const bytes = layout(b);
        ops::QuantizedFeedForwardBlock<std::remove_const_t<decltype(unit)>> block{
            unit,
            hidden,
            index_t(base.intermediate),
            0,
            bytes.slice(detail::scales_of(bytes[0].name)).offset,
            bytes.slice("down_proj").offset,
            bytes.slice("down_scales").offset};
        if (bytes.contains("down_bias")) {
            block.down_bias_at = bytes.slice("down_bias").offset;
            block.in_bias_at = bytes.slice(unit.inputs == 2 ? "gate_bias" : "up_bias").offset;
        }
        return block;
    }
};
template <class Format, class Float>
Quantized(Format, Float) -> Quantized<Format, Float>;

} // namespace semoe::expert
