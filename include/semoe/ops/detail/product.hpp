#pragma once

#include "semoe/backend/cost.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/view.hpp"
#include "semoe/ops/group.hpp"

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace semoe::ops::detail {

/// The type that sums over elements of these types are kept in.
template <class... T>
using sum_t =
    std::conditional_t<(std::same_as<std::remove_const_t<T>, double> || ...), double, float>;

/// A matrix seen through two strides, so that one body serves a matrix and its transpose.
template <class T>
struct Strided {
    T* data;
    index_t row, col;
    SEMOE_HD T& operator()(index_t r, index_t c) const { return data[r * row + c * col]; }
};

/// How the left operand lies: a(m, k) = data[m * ld + k], or data[k * ld + m].
enum class Left { rows, columns };
/// How the right operand lies: w(k, n) = data[k * ld + n], or data[n * ld + k], or in panels of 16
/// (ops/pack.hpp).
enum class Right { rows, columns, panels };

template <class T>
Strided<T const> strided(T const* data, index_t ld, Left left) {
    return left == Left::rows ? Strided<T const>{data, ld, 1} : Strided<T const>{data, 1, ld};
}
template <class T>
Strided<T const> strided(T const* data, index_t ld, Right right) {
    return right == Right::rows ? Strided<T const>{data, ld, 1} : Strided<T const>{data, 1, ld};
}

/// c (+)= sum over k = 0 .. depth - 1 of a(m, k) * w(k, n): one chain in order of k, which starts
/// from c where the product is added to it.
template <class A, class W, class C>
SEMOE_HD void product_element(Strided<A const> a, Strided<W const> w, index_t m, index_t n,
                              index_t depth, C& c, bool accumulate) {
    using Sum = sum_t<A, W, C>;
    Sum sum = accumulate ? convert<Sum>(c) : Sum(0);
    for (index_t k = 0; k < depth; ++k) sum += convert<Sum>(a(m, k)) * convert<Sum>(w(k, n));
    c = convert<C>(sum);
}

/// Of a [rows, cols] result, with both operands read once.
template <class A, class W, class C>
Cost product_cost(index_t rows, index_t cols, index_t depth, bool accumulate) {
    auto const bytes = [](index_t elements, std::size_t size) {
        return double(elements) * double(size);
    };
    return {2.0 * double(rows) * double(cols) * double(depth),
            bytes(rows * depth, sizeof(A)) + bytes(depth * cols, sizeof(W)) +
                bytes(rows * cols, (accumulate ? 2 : 1) * sizeof(C))};
}

// Thrown out of line: what is refused is rare, and there are many callers.
[[noreturn]] SEMOE_NOINLINE inline void refuse_columns(char const* name, index_t rows, index_t cols,
                                                       index_t needed) {
    throw precondition_error(
        message("{}: a matrix of rows is [{},{}], {} columns needed", name, rows, cols, needed));
}
[[noreturn]] SEMOE_NOINLINE inline void refuse_rows(char const* name, int expert, index_t first,
                                                    index_t end, index_t rows, index_t cols) {
    throw precondition_error(message("{}: expert {} of the group has rows [{},{}) of [{},{}]", name,
                                     expert, first, end, rows, cols));
}

/// Throws unless m has `cols` columns and every expert's rows lie inside it.
template <class Byte, class T, class Space>
void expect_rows(char const* name, Group<Byte> const& g, MatrixView<T, Space> m, index_t cols) {
    if (m.cols != cols) refuse_columns(name, m.rows, m.cols, cols);
    for (int i = 0; i < g.size; ++i) {
        index_t const first = g.first_row[i], end = first + g.rows[i];
        if (first < 0 || end < first || end > m.rows)
            refuse_rows(name, i, first, end, m.rows, m.cols);
    }
}
/// The index itself is in backend memory, and nobody reads it here.
template <class Byte, class T, class Space>
void expect_rows(char const* name, Group<Byte> const& g, IndexedRows<T, Space> const& m,
                 index_t cols) {
    expect_rows(name, g, MatrixView<T, Space>(m.all.data, m.rows(), m.all.cols), cols);
}

} // namespace semoe::ops::detail
