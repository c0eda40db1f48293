#pragma once

#include "semoe/expert/concept.hpp"

namespace semoe::expert {

namespace detail {
/// out = scale * in, for one row of a group.
template <class T, class Space>
struct ScaleRow {
    ops::Group<std::byte const> weights;
    MatrixView<T const, Space> in;
    MatrixView<T, Space> out;
    SEMOE_HD void operator()(index_t n) const {
        using Real = accumulate_t<T>;
        auto const at = weights.place(n);
        auto const* scale = reinterpret_cast<T const*>(weights.block[at.expert]);
        for (index_t c = 0; c < in.cols; ++c)
            out(at.row, c) = convert<T>(convert<Real>(scale[c]) * convert<Real>(in(at.row, c)));
    }
};
/// d_scale (+)= the sum over an expert's rows, in order, of d_out * in, for one column.
template <class T, class Space>
struct ScaleGradient {
    ops::Group<std::byte> gradients;
    ops::GroupMask accumulate;
    MatrixView<T const, Space> in, d_out;
    SEMOE_HD void operator()(index_t i) const {
        using Real = accumulate_t<T>;
        int const expert = int(i / in.cols);
        index_t const c = i % in.cols, first = gradients.first_row[expert],
                      rows = gradients.rows[expert];
        if (rows == 0) return;
        Real& d_scale = reinterpret_cast<Real*>(gradients.block[expert])[c];
        Real sum = (accumulate >> expert & 1u) != 0 ? d_scale : Real(0);
        for (index_t r = first; r < first + rows; ++r)
            sum += convert<Real>(d_out(r, c)) * convert<Real>(in(r, c));
        d_scale = sum;
    }
};
} // namespace detail

/// y = scale * x: the cheapest expert that trains, for tests of whatever moves rows and blocks.
/// Block: scale [1,H]. Nothing is saved.
template <Element T>
struct Identity {
    using value_type = T;

    index_t hidden = 0; ///< H

    /// @throws precondition_error
    void validate() const {
        expects(hidden >= 1, "expert::Identity: hidden is {}, must be at least 1", hidden);
    }
    template <Backend B>
    BlockLayout layout(B const&) const {
        return BlockLayout{}.add("scale", 1, hidden);
    }
    index_t saved_columns() const { return 0; }
    index_t scratch_columns() const { return 0; }
    index_t backward_scratch_columns() const { return 0; }
    double flops_per_row() const { return double(hidden); }

    /// @sync enqueues
    template <Backend B>
    void forward_grouped(B& b, ops::Group<std::byte const> const& weights,
                         ExpertRows<T, space_of<B>> const& rows) const {
        scale_rows(b, weights, rows.in, rows.out);
    }
    /// @sync enqueues
    template <Backend B>
    void backward_grouped(B& b, ops::Group<std::byte const> const& weights,
                          ops::Group<std::byte> const& gradients, ops::GroupMask accumulate,
                          ExpertGradientRows<T, space_of<B>> const& rows) const {
        scale_rows(b, weights, rows.d_out, rows.d_in);
        b.parallel_for(gradients.size * hidden, detail::ScaleGradient<T, space_of<B>>{
                                                    gradients, accumulate, rows.in, rows.d_out});
    }
    /// Nothing to compute again.
    template <Backend B>
    void recompute_grouped(B&, ops::Group<std::byte const> const&, MatrixView<T const, space_of<B>>,
                           MatrixView<T, space_of<B>>, MatrixView<T, space_of<B>>) const {}

private:
    template <Backend B>
    void scale_rows(B& b, ops::Group<std::byte const> const& weights,
                    MatrixView<T const, space_of<B>> in, MatrixView<T, space_of<B>> out) const {
        b.parallel_for(weights.total_rows(), detail::ScaleRow<T, space_of<B>>{weights, in, out});
    }
};

} // namespace semoe::expert
