#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cost.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/cpu/product.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/detail/segment.hpp"

#include <cstdint>

namespace semoe {

/// Rows that a sum over slots starts from, one a token, each times a factor of its token: a shared
/// expert's output under its sigmoid gate, for instance. An empty view of rows is zero, an empty
/// view of factors is one.
template <class T, class Space>
struct TokenBase {
    MatrixView<T const, Space> rows;                 ///< [T,H] or empty
    VectorView<accumulate_t<T> const, Space> factor; ///< [T] or empty
};

namespace detail {

/// y[t] = base[t] + sum over k of weight(t,k) * rows[slot_of(t,k)], one piece of a row an index.
template <class T, class Base, class Space>
struct CombineRows {
    using Real = accumulate_t<T>;
    static constexpr index_t width = ops::detail::segment_length;

    MatrixView<T const, Space> rows;
    MatrixView<index_t const, Space> slot_of;
    MatrixView<Real const, Space> weights; // without data: all one
    TokenBase<Base, Space> base;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<T, Space> y;

    SEMOE_HD void operator()(index_t i) const {
        index_t const pieces = ops::detail::segments_of(y.cols), t = i / pieces;
        index_t const begin = i % pieces * width, left = y.cols - begin;
        // A trip count known to the compiler makes vector code at -O2.
        if (left >= width)
            piece<true>(t, begin, width);
        else
            piece<false>(t, begin, left);
    }
    /// Of moving rows, beside which adding them is nothing; as if no choice was dropped.
    Cost cost() const {
        double const elements = double(y.rows) * double(y.cols);
        double const read = double(slot_of.cols) * sizeof(T) + (base.rows.data ? sizeof(Base) : 0);
        return {0, elements * (read + sizeof(T))};
    }

private:
    template <bool Whole>
    SEMOE_HD void piece(index_t t, index_t begin, index_t left) const {
        index_t const n = Whole ? width : left;
        Real sum[width];
        for (index_t j = 0; j < n; ++j) sum[j] = Real(0);
        bool const counts = mask.empty() || mask[t] != 0;
        if (counts && base.rows.data) {
            Base const* const from = base.rows.row(t) + begin;
            Real const factor = base.factor.empty() ? Real(1) : Real(base.factor[t]);
            for (index_t j = 0; j < n; ++j) sum[j] = factor * convert<Real>(from[j]);
        }
        for (index_t k = 0; counts && k < slot_of.cols; ++k) {
            index_t const slot = slot_of(t, k);
            if (slot < 0) continue;
            T const* const from = rows.row(slot) + begin;
            Real const w = weights.data ? weights(t, k) : Real(1);
            for (index_t j = 0; j < n; ++j) sum[j] += w * convert<Real>(from[j]);
        }
        T* const to = y.row(t) + begin;
        for (index_t j = 0; j < n; ++j) to[j] = convert<T>(sum[j]);
    }
};

/// Whether a backend's workers have kernels for rows of these types (ops/cpu/rows.hpp).
template <class B, class T, class Base = T>
inline constexpr bool has_row_kernels =
    HasWorkers<B>&& ops::cpu::Blocked<T>&& ops::cpu::Blocked<Base>;

/// CombineRows by the host's kernels, one token an index.
template <class T, class Base>
struct HostCombineRows {
    Isa isa;
    CombineRows<T, Base, HostSpace> all;
    void operator()(index_t t) const {
        bool const counts = all.mask.empty() || all.mask[t] != 0;
        bool const based = counts && all.base.rows.data;
        ops::cpu::sum_rows(isa, ops::cpu::RowSum<T, Base>{
                                    based ? all.base.rows.row(t) : nullptr,
                                    all.base.factor.empty() ? 1.0f : all.base.factor[t],
                                    all.rows.data, all.rows.ld, all.slot_of.row(t),
                                    t + 1 < all.slot_of.rows ? all.slot_of.row(t + 1) : nullptr,
                                    all.weights.data ? all.weights.row(t) : nullptr,
                                    counts ? all.slot_of.cols : 0, all.y.row(t), all.y.cols});
    }
};
template <Backend B, class T, class Base>
void combine_rows(B& b, CombineRows<T, Base, space_of<B>> const& rows) {
    if constexpr (has_row_kernels<B, T, Base>)
        b.parallel_for(rows.y.cols > 0 ? rows.y.rows : 0,
                       HostCombineRows<T, Base>{selected_isa(), rows});
    else
        b.parallel_for(rows.y.rows * ops::detail::segments_of(rows.y.cols), rows);
}

/// d_row = w * dy, returns <dy, row>. The sum runs in 64 lanes, which are then folded by halves.
/// d_row may be row.
template <class Real, class T, class Row>
SEMOE_HD Real weigh_row(T const* dy, Row const* row, Real w, Row* d_row, index_t n) {
    constexpr index_t lanes = 64;
    Real sum[lanes] = {};
    for (index_t c = 0; c < n; ++c) {
        Real const d = convert<Real>(dy[c]);
        sum[c % lanes] += d * convert<Real>(row[c]);
        d_row[c] = convert<Row>(w * d);
    }
    for (index_t half = lanes / 2; half > 0; half /= 2)
        for (index_t j = 0; j < half; ++j) sum[j] += sum[j + half];
    return sum[0];
}
/// The same by the host's kernels.
template <class T, class Row>
struct HostWeigh {
    Isa isa;
    /// @param next  row of the next call, for a prefetch; null: not known
    float operator()(T const* dy, Row const* row, float w, Row* d_row, index_t n,
                     Row const* next) const {
        float dot;
        ops::cpu::weigh_row(
            isa, ops::cpu::RowWeight<T, Row>{dy, row, w, d_row, n, &dot, next ? next : row});
        return dot;
    }
};
template <class Real, class T, class Row>
struct GenericWeigh {
    SEMOE_HD Real operator()(T const* dy, Row const* row, Real w, Row* d_row, index_t n,
                             Row const*) const {
        return weigh_row<Real>(dy, row, w, d_row, n);
    }
};
/// How a backend weighs rows.
template <Backend B, class T, class Row>
auto weigh_on() {
    if constexpr (has_row_kernels<B, T, Row>)
        return HostWeigh<T, Row>{selected_isa()};
    else
        return GenericWeigh<accumulate_t<T>, T, Row>{};
}
template <class T>
SEMOE_HD void zero_row(T* row, index_t n) {
    for (index_t c = 0; c < n; ++c) row[c] = convert<T>(0.f);
}

/// One choice of one token an index.
template <class T, class Space, class Weigh>
struct CombineRowsBackward {
    using Real = accumulate_t<T>;
    Weigh weigh;
    MatrixView<T const, Space> dy, rows;
    MatrixView<index_t const, Space> slot_of;
    MatrixView<Real const, Space> weights;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<T, Space> d_rows;
    MatrixView<Real, Space> d_weights;

    SEMOE_HD void operator()(index_t i) const {
        index_t const t = i / slot_of.cols, k = i % slot_of.cols, slot = slot_of(t, k);
        d_weights(t, k) = Real(0);
        if (slot < 0) return;
        if (!mask.empty() && mask[t] == 0) return zero_row(d_rows.row(slot), dy.cols);
        index_t const next = i + 1 < slot_of.rows * slot_of.cols
                                 ? slot_of((i + 1) / slot_of.cols, (i + 1) % slot_of.cols)
                                 : -1;
        d_weights(t, k) = weigh(dy.row(t), rows.row(slot), weights(t, k), d_rows.row(slot), dy.cols,
                                next < 0 ? nullptr : rows.row(next));
    }
    /// As if no choice was dropped.
    Cost cost() const {
        double const elements = double(slot_of.rows) * double(slot_of.cols) * double(dy.cols);
        return {0, 3 * elements * sizeof(T)};
    }
};

/// One token an index.
template <class T, class Base, class Space, class Weigh>
struct CombineBaseBackward {
    using Real = accumulate_t<T>;
    Weigh weigh;
    MatrixView<T const, Space> dy;
    TokenBase<Base, Space> base;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<Base, Space> d_base;
    VectorView<Real, Space> d_factor;

    SEMOE_HD void operator()(index_t t) const {
        if (!d_factor.empty()) d_factor[t] = Real(0);
        if (!mask.empty() && mask[t] == 0) return zero_row(d_base.row(t), dy.cols);
        Real const w = base.factor.empty() ? Real(1) : Real(base.factor[t]);
        Real const dot = weigh(dy.row(t), base.rows.row(t), w, d_base.row(t), dy.cols, nullptr);
        if (!d_factor.empty()) d_factor[t] = dot;
    }
};

template <class Space>
void expect_per_token(char const* name, char const* what, index_t size, index_t num_tokens) {
    expects(size == 0 || size == num_tokens, "{}: {} has {} elements for {} tokens", name, what,
            size, num_tokens);
}
template <class A, class Z, class Space>
void expect_tokens(char const* name, MatrixView<A, Space> per_token, MatrixView<Z, Space> rows,
                   MatrixView<index_t const, Space> slot_of) {
    expects(per_token.rows == slot_of.rows && per_token.cols == rows.cols,
            "{}: tokens are {}, slots {}, slot_of {}", name, per_token, rows, slot_of);
}
template <class T, class Space>
void expect_base(char const* name, TokenBase<T, Space> const& base, index_t num_tokens,
                 index_t hidden) {
    expects(!base.rows.data || (base.rows.rows == num_tokens && base.rows.cols == hidden),
            "{}: the base is {} for tokens of [{},{}]", name, base.rows, num_tokens, hidden);
    expect_per_token<Space>(name, "the base's factor", base.factor.size, num_tokens);
}

} // namespace detail

/// Brings expert outputs back to their tokens: y[t] = base[t] + sum over k of
/// weights(t,k) * rows[slot_of(t,k)], added in order of k in accumulate_t<T>. Dropped choices add
/// nothing, masked tokens become zero.
/// @param rows     [S,H], expert outputs by slot, backend memory
/// @param slot_of  [T,K], slots of rows; -1 where a choice was dropped
/// @param weights  [T,K]
/// @param base     what the sum starts from; its rows may be y
/// @param mask     [T] or empty, 0 marks padding
/// @param y        [T,H], overwritten
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost 2 T K H flops; reads T K rows, writes T; no allocation, no atomics
template <Backend B, class T, class Base>
void combine(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> rows,
             MatrixView<index_t const, space_of<B>> slot_of,
             std::type_identity_t<MatrixView<accumulate_t<T> const, space_of<B>>> weights,
             TokenBase<Base, space_of<B>> base, VectorView<std::uint8_t const, space_of<B>> mask,
             MatrixView<T, space_of<B>> y) {
    using S = space_of<B>;
    detail::expect_tokens("combine", y, rows, slot_of);
    expects(weights.rows == slot_of.rows && weights.cols == slot_of.cols,
            "combine: weights are {}, slot_of {}", weights, slot_of);
    detail::expect_base("combine", base, y.rows, y.cols);
    detail::expect_per_token<S>("combine", "the mask", mask.size, y.rows);
    detail::combine_rows(b, detail::CombineRows<T, Base, S>{rows, slot_of, weights, base, mask, y});
}
/// As above, from zero.
template <Backend B, class T>
void combine(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> rows,
             MatrixView<index_t const, space_of<B>> slot_of,
             std::type_identity_t<MatrixView<accumulate_t<T> const, space_of<B>>> weights,
             VectorView<std::uint8_t const, space_of<B>> mask, MatrixView<T, space_of<B>> y) {
    combine(b, rows, slot_of, weights, TokenBase<T, space_of<B>>{}, mask, y);
}

/// Gradients of combine by rows and weights: d_rows[slot] = weight * dy[t] and
/// d_weights(t,k) = <dy[t], rows[slot]>, 0 where the choice was dropped or the token is masked.
/// @param dy         [T,H], backend memory
/// @param rows       [S,H], as forward read them
/// @param d_rows     [S,H], every row that slot_of names is overwritten; may be rows
/// @param d_weights  [T,K], overwritten
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost 3 T K H flops; no allocation, no atomics
template <Backend B, class T>
void combine_backward(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> dy,
                      std::type_identity_t<MatrixView<T const, space_of<B>>> rows,
                      MatrixView<index_t const, space_of<B>> slot_of,
                      std::type_identity_t<MatrixView<accumulate_t<T> const, space_of<B>>> weights,
                      VectorView<std::uint8_t const, space_of<B>> mask,
                      MatrixView<T, space_of<B>> d_rows,
                      MatrixView<accumulate_t<T>, space_of<B>> d_weights) {
    using S = space_of<B>;
    detail::expect_tokens("combine_backward", dy, rows, slot_of);
    expects(weights.rows == slot_of.rows && weights.cols == slot_of.cols &&
                d_weights.rows == slot_of.rows && d_weights.cols == slot_of.cols,
            "combine_backward: weights are {}, d_weights {}, slot_of {}", weights, d_weights,
            slot_of);
    expects(d_rows.rows == rows.rows && d_rows.cols == rows.cols,
            "combine_backward: rows are {}, d_rows {}", rows, d_rows);
    detail::expect_per_token<S>("combine_backward", "the mask", mask.size, dy.rows);
    auto const weigh = detail::weigh_on<B, T, T>();
    b.parallel_for(slot_of.rows * slot_of.cols,
                   detail::CombineRowsBackward<T, S, decltype(weigh)>{
                       weigh, dy, rows, slot_of, weights, mask, d_rows, d_weights});
}

/// Gradients of combine by its base: d_base[t] = factor[t] * dy[t] and
/// d_factor[t] = <dy[t], base[t]>; both zero where the token is masked.
/// @param base      as forward read it
/// @param d_base    [T,H], overwritten; may be base.rows
/// @param d_factor  [T], overwritten, or empty
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost 3 T H flops; no allocation
template <Backend B, class T, class Base>
void combine_base_backward(B& b, MatrixView<T, space_of<B>> dy, TokenBase<Base, space_of<B>> base,
                           VectorView<std::uint8_t const, space_of<B>> mask,
                           MatrixView<Base, space_of<B>> d_base,
                           VectorView<accumulate_t<T>, space_of<B>> d_factor) {
    using S = space_of<B>;
    expects(base.rows.data || dy.rows == 0, "combine_base_backward: the base has no rows");
    detail::expect_base("combine_base_backward", base, dy.rows, dy.cols);
    expects(d_base.rows == dy.rows && d_base.cols == dy.cols,
            "combine_base_backward: dy is {}, d_base {}", dy, d_base);
    detail::expect_per_token<S>("combine_base_backward", "the mask", mask.size, dy.rows);
    detail::expect_per_token<S>("combine_base_backward", "d_factor", d_factor.size, dy.rows);
    using D = std::remove_const_t<T>;
    auto const weigh = detail::weigh_on<B, D, Base>();
    b.parallel_for(dy.rows, detail::CombineBaseBackward<D, Base, S, decltype(weigh)>{
                                weigh, dy, base, mask, d_base, d_factor});
}

/// Gradient of dispatch, which gave token t's row to the slots slot_of(t,k):
/// dx[t] = base[t] + sum over k of d_rows[slot_of(t,k)], added in order of k.
/// @param d_rows   [S,H], gradients by slot, backend memory
/// @param slot_of  [T,K]; -1 where a choice was dropped
/// @param base     what the sum starts from: gradients of other uses of x; its rows may be dx
/// @param dx       [T,H], overwritten
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost T K H additions; no allocation, no atomics
template <Backend B, class T, class Base>
void dispatch_backward(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> d_rows,
                       MatrixView<index_t const, space_of<B>> slot_of,
                       TokenBase<Base, space_of<B>> base, MatrixView<T, space_of<B>> dx) {
    using S = space_of<B>;
    detail::expect_tokens("dispatch_backward", dx, d_rows, slot_of);
    detail::expect_base("dispatch_backward", base, dx.rows, dx.cols);
    detail::combine_rows(b, detail::CombineRows<T, Base, S>{d_rows, slot_of, {}, base, {}, dx});
}
/// As above, from zero.
template <Backend B, class T>
void dispatch_backward(B& b, std::type_identity_t<MatrixView<T const, space_of<B>>> d_rows,
                       MatrixView<index_t const, space_of<B>> slot_of,
                       MatrixView<T, space_of<B>> dx) {
    dispatch_backward(b, d_rows, slot_of, TokenBase<T, space_of<B>>{}, dx);
}

} // namespace semoe
