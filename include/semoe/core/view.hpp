#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/space.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <type_traits>

namespace semoe {

/// A non-owning run of elements in one memory space, aligned for their type.
template <class T, class Space>
struct VectorView {
    T* data = nullptr;
    index_t size = 0;

    VectorView() = default;
    SEMOE_HD constexpr VectorView(T* d, index_t n)
      : data(d)
      , size(n) {}
    /// A view of const elements from a view of mutable ones.
    template <class U>
    requires std::same_as<U const, T> SEMOE_HD constexpr VectorView(VectorView<U, Space> other)
      : data(other.data)
      , size(other.size) {}

    SEMOE_HD constexpr T& operator[](index_t i) const { return data[i]; }
    SEMOE_HD constexpr bool empty() const { return size == 0; }
    SEMOE_HD constexpr VectorView part(index_t first, index_t count) const {
        return {data + first, count};
    }
};

/// A non-owning row-major matrix: element (r, c) lies at data[r * ld + c], ld >= cols. Data are
/// aligned for their type.
template <class T, class Space>
struct MatrixView {
    T* data = nullptr;
    index_t rows = 0, cols = 0, ld = 0;

    MatrixView() = default;
    SEMOE_HD constexpr MatrixView(T* d, index_t r, index_t c, index_t l)
      : data(d)
      , rows(r)
      , cols(c)
      , ld(l) {}
    SEMOE_HD constexpr MatrixView(T* d, index_t r, index_t c)
      : MatrixView(d, r, c, c) {}
    template <class U>
    requires std::same_as<U const, T> SEMOE_HD constexpr MatrixView(MatrixView<U, Space> other)
      : MatrixView(other.data, other.rows, other.cols, other.ld) {}

    SEMOE_HD constexpr T& operator()(index_t r, index_t c) const { return data[r * ld + c]; }
    SEMOE_HD constexpr T* row(index_t r) const { return data + r * ld; }
    SEMOE_HD constexpr bool empty() const { return rows == 0 || cols == 0; }
    SEMOE_HD constexpr MatrixView row_range(index_t first, index_t count) const {
        return {data + first * ld, count, cols, ld};
    }
    SEMOE_HD constexpr MatrixView col_range(index_t first, index_t count) const {
        return {data + first, rows, count, ld};
    }
};

/// Rows of a matrix that an index names: row r is all.row(index[r]); without an index all.row(r).
template <class T, class Space>
struct IndexedRows {
    MatrixView<T, Space> all;
    VectorView<index_t const, Space> index;

    IndexedRows() = default;
    template <class U>
    requires std::same_as<U, T> || std::same_as<U const, T>
        SEMOE_HD constexpr IndexedRows(MatrixView<U, Space> m,
                                       VectorView<index_t const, Space> i = {})
      : all(m)
      , index(i) {}

    SEMOE_HD constexpr index_t rows() const { return index.data ? index.size : all.rows; }
    SEMOE_HD constexpr T* row(index_t r) const { return all.row(index.data ? index[r] : r); }
    SEMOE_HD constexpr IndexedRows row_range(index_t first, index_t count) const {
        return index.data ? IndexedRows(all, index.part(first, count))
                          : IndexedRows(all.row_range(first, count));
    }
};

/// All elements of a matrix without gaps between its rows. @pre m.ld == m.cols
template <class T, class Space>
SEMOE_HD constexpr VectorView<T, Space> flat(MatrixView<T, Space> m) {
    return {m.data, m.rows * m.cols};
}

/// Untyped bytes of one space; blocks and messages travel as these.
template <class Space>
using Bytes = VectorView<std::byte, Space>;
template <class Space>
using ConstBytes = VectorView<std::byte const, Space>;

/// Bytes seen as elements of T. @pre bytes.data is aligned for T
template <class T, class Space>
VectorView<T, Space> view_as(Bytes<Space> bytes) {
    return {reinterpret_cast<T*>(bytes.data), bytes.size / index_t(sizeof(T))};
}
template <class T, class Space>
VectorView<T const, Space> view_as(ConstBytes<Space> bytes) {
    return {reinterpret_cast<T const*>(bytes.data), bytes.size / index_t(sizeof(T))};
}
template <class T, class Space>
ConstBytes<Space> as_bytes(VectorView<T, Space> v) {
    return {reinterpret_cast<std::byte const*>(v.data), v.size * index_t(sizeof(T))};
}
template <class T, class Space>
    requires(!std::is_const_v<T>)
Bytes<Space> as_writable_bytes(VectorView<T, Space> v) {
    return {reinterpret_cast<std::byte*>(v.data), v.size * index_t(sizeof(T))};
}

} // namespace semoe
