#pragma once

#include "semoe/expert/concept.hpp"
#include "semoe/expert/packing.hpp"
#include "semoe/ops/activation.hpp"
#include "semoe/ops/feed_forward.hpp"
#include "semoe/ops/grouped_gemm.hpp"
#include "semoe/ops/pack.hpp"

namespace semoe::expert::detail {

/// unit(x in^T + in_bias) down^T + down_bias: what experts of two products have in common. `in`
/// is one matrix of Unit::inputs * I rows, however many names its parts have.
/// @tparam Unit  ops::unit::Plain or Gated
template <Element T, class Unit>
struct FeedForward {
    index_t hidden, intermediate; // H, I
    bool bias;
    Unit unit;

    index_t pre_columns() const { return Unit::inputs * intermediate; }
    /// With one input, its gradient may lie where that of the output does.
    index_t d_pre_column() const { return Unit::inputs == 1 ? 0 : intermediate; }
    index_t backward_scratch_columns() const { return d_pre_column() + pre_columns(); }
    double flops_per_row() const {
        return 2.0 * double(hidden) * double(pre_columns() + intermediate);
    }

    // Where the slices lie in a block. Primary ones as BlockLayout puts them, one after another.
    ops::BlockSlice in() const { return {0, pre_columns(), hidden}; }
    ops::BlockSlice down() const { return {pre_columns() * hidden, hidden, intermediate}; }
    ops::BlockSlice in_bias() const {
        return {(pre_columns() + intermediate) * hidden, 1, pre_columns()};
    }
    ops::BlockSlice down_bias() const { return {in_bias().offset + pre_columns(), 1, hidden}; }

    ops::FeedForwardBlock<Unit> block() const {
        return {unit, in(), down(), bias ? in_bias() : ops::BlockSlice{},
                bias ? down_bias() : ops::BlockSlice{}};
    }
    template <Backend B>
    bool reads_indexed_rows(B const&) const {
        return ops::has_fused_feed_forward<B, T>;
    }
    template <Backend B>
    std::size_t worker_scratch_bytes(B const&) const {
        return ops::feed_forward_scratch_bytes<B, T>(block());
    }

    void add_derived(BlockLayout& layout) const {
        layout.add_derived("in_panels", pre_columns(), hidden,
                           ops::panel_elements(pre_columns(), hidden));
        layout.add_derived("down_panels", hidden, intermediate,
                           ops::panel_elements(hidden, intermediate));
    }
    static ops::BlockSlice packed(ops::BlockSlice slice, BlockLayout const& layout,
                                  char const* panels) {
        if (layout.contains(panels)) slice.panels = layout.slice(panels).offset;
        return slice;
    }
    ops::BlockSlice in(BlockLayout const& l) const { return packed(in(), l, "in_panels"); }
    ops::BlockSlice down(BlockLayout const& l) const { return packed(down(), l, "down_panels"); }

    template <Backend B>
    void pre(B& b, BlockLayout const& layout, ops::Group<std::byte const> const& weights,
             IndexedRows<T const, space_of<B>> const& x, MatrixView<T, space_of<B>> saved) const {
        if constexpr (ops::has_fused_feed_forward<B, T>) {
            ops::grouped_feed_forward<T>(b, weights, block(), x, saved, {}, {});
        } else {
            expect_copied(x);
            ops::grouped_gemm_nt(b, weights, x.all, in(layout), saved);
            if (bias) ops::grouped_add_bias(b, weights, in_bias(), saved);
        }
    }
    template <Backend B>
    void forward(B& b, BlockLayout const& layout, ops::Group<std::byte const> const& weights,
                 ExpertRows<T, space_of<B>> const& rows) const {
        if constexpr (ops::has_fused_feed_forward<B, T>) {
            ops::grouped_feed_forward<T>(b, weights, block(), rows.indexed(),
                                         rows.keep_saved ? rows.saved
                                                         : MatrixView<T, space_of<B>>{},
                                         rows.scratch, rows.out);
        } else {
            pre(b, layout, weights, rows.indexed(), rows.saved);
            ops::grouped_unit(b, weights, unit, rows.saved, rows.scratch);
            ops::grouped_gemm_nt(b, weights, rows.scratch, down(layout), rows.out);
            if (bias) ops::grouped_add_bias(b, weights, down_bias(), rows.out);
        }
    }
    template <Backend B>
    void backward(B& b, BlockLayout const& layout, ops::Group<std::byte const> const& weights,
                  ops::Group<std::byte> const& gradients, ops::GroupMask accumulate,
                  ExpertGradientRows<T, space_of<B>> const& rows) const {
        auto const act = rows.scratch.col_range(0, intermediate); // later its gradient
        auto const d_pre = rows.scratch.col_range(d_pre_column(), pre_columns());

        if constexpr (ops::has_fused_feed_forward<B, T>) {
            ops::grouped_feed_forward_backward<T>(b, weights, gradients, accumulate, block(),
                                                  rows.indexed(), rows.saved, rows.d_out, d_pre,
                                                  rows.d_in);
        } else {
            expect_copied(rows.indexed());
            ops::grouped_unit(b, weights, unit, rows.saved, act);
            ops::grouped_gemm_tn(b, gradients, accumulate, rows.d_out, act, down());
            if (bias) ops::grouped_bias_gradient(b, gradients, accumulate, rows.d_out, down_bias());

            ops::grouped_gemm_nn(b, weights, rows.d_out, down(layout), act);
            ops::grouped_unit_backward(b, weights, unit, rows.saved, act, d_pre);
            ops::grouped_gemm_tn(b, gradients, accumulate, d_pre, rows.in, in());
            if (bias) ops::grouped_bias_gradient(b, gradients, accumulate, d_pre, in_bias());
            ops::grouped_gemm_nn(b, weights, d_pre, in(layout), rows.d_in);
        }
    }
    template <Backend B>
    bool hands_over_gradients(B const&, index_t rows) const {
        return !bias && ops::has_fused_feed_forward<B, T> && rows <= ops::taken_gradient_rows;
    }
    template <Backend B, ops::GradientTaker F>
    void backward(B& b, ops::Group<std::byte const> const& weights, F const& taker,
                  ExpertGradientRows<T, space_of<B>> const& rows) const {
        if constexpr (ops::has_fused_feed_forward<B, T>)
            ops::grouped_feed_forward_backward<T>(
                b, weights, taker, block(), rows.indexed(), rows.saved, rows.d_out,
                rows.scratch.col_range(d_pre_column(), pre_columns()), rows.d_in);
    }
    template <Backend B>
    void rebuild_derived(B& b, BlockLayout const& layout, Bytes<space_of<B>> block) const {
        for (auto const& slice : {in(layout), down(layout)}) {
            if (slice.panels < 0) continue;
            auto const all = view_as<T>(block);
            MatrixView<T const, space_of<B>> const rows{all.data + slice.offset, slice.rows,
                                                        slice.cols};
            ops::pack_panels(b, rows,
                             all.part(slice.panels, ops::panel_elements(slice.rows, slice.cols)));
        }
    }
    template <class Space>
    static void expect_copied(IndexedRows<T const, Space> const& rows) {
        expects(!rows.index.data, "expert: products one by one do not read rows through an index");
    }
    /// @throws precondition_error "NAME: intermediate is 0, must be at least 1"
    void validate(char const* name) const {
        auto const positive = [&](char const* member, index_t value) {
            expects(value >= 1, "{}: {} is {}, must be at least 1", name, member, value);
        };
        positive("hidden", hidden);
        positive("intermediate", intermediate);
    }
};

/// Whether blocks of weights of T carry derived panels on this backend.
template <class B, class T>
LayoutId layout_id(Packing packing) {
    bool const reads_panels =
        HasWorkers<B> && ops::cpu::Blocked<T> && !ops::has_fused_feed_forward<B, T>;
    return packing == Packing::derived_panels && reads_panels ? LayoutId::panels_16
                                                              : LayoutId::row_major;
}

} // namespace semoe::expert::detail
