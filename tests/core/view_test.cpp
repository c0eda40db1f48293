#include "semoe/core/view.hpp"

#include <doctest/doctest.h>
#include <type_traits>

using namespace semoe;

TEST_CASE("core/view: a matrix finds its elements by rows of ld") {
    int data[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    MatrixView<int, HostSpace> const m{data, 3, 2, 4};
    CHECK(m(0, 1) == 1);
    CHECK(m(2, 0) == 8);
    CHECK(m.row(1) == data + 4);
    m(1, 1) = -5;
    CHECK(data[5] == -5);
    MatrixView<int, HostSpace> const dense{data, 3, 4};
    CHECK(dense.ld == 4);
    CHECK(dense(2, 3) == 11);
}

TEST_CASE("core/view: ranges of rows and columns are views of the same elements") {
    int data[12] = {};
    MatrixView<int, HostSpace> const m{data, 3, 4};
    auto const rows = m.row_range(1, 2);
    CHECK(rows.rows == 2);
    CHECK(rows.data == data + 4);
    CHECK(rows.ld == 4);
    auto const cols = m.col_range(1, 2);
    CHECK(cols.cols == 2);
    CHECK(cols.ld == 4);
    CHECK(&cols(2, 0) == data + 9);
    CHECK(m.row_range(3, 0).empty());
    CHECK(m.col_range(4, 0).empty());
    CHECK(!m.empty());
}

TEST_CASE("core/view: a vector's part is a view of the same elements") {
    int data[5] = {0, 1, 2, 3, 4};
    VectorView<int, HostSpace> const v{data, 5};
    auto const part = v.part(2, 3);
    CHECK(part.size == 3);
    CHECK(part[0] == 2);
    CHECK(v.part(5, 0).empty());
    CHECK(VectorView<int, HostSpace>{}.empty());
    CHECK(MatrixView<int, HostSpace>{}.empty());
}

TEST_CASE("core/view: bytes and elements are two ways to see one memory") {
    alignas(8) float data[4] = {1, 2, 3, 4};
    VectorView<float, HostSpace> const v{data, 4};
    Bytes<HostSpace> const bytes = as_writable_bytes(v);
    CHECK(bytes.size == 16);
    CHECK(view_as<float>(bytes).data == data);
    CHECK(view_as<double>(bytes).size == 2);
    ConstBytes<HostSpace> const read = as_bytes(v);
    CHECK(view_as<float>(read)[2] == 3);
    // What is left over is no element.
    CHECK(view_as<double>(Bytes<HostSpace>{bytes.data, 15}).size == 1);
}

TEST_CASE("core/view: views of mutable elements become views of const ones, never back") {
    using Mutable = MatrixView<float, HostSpace>;
    using Const = MatrixView<float const, HostSpace>;
    static_assert(std::is_convertible_v<Mutable, Const>);
    static_assert(!std::is_convertible_v<Const, Mutable>);
    static_assert(!std::is_convertible_v<Mutable, MatrixView<float const, DeviceSpace>>);
    static_assert(!std::is_convertible_v<Mutable, MatrixView<double const, HostSpace>>);
    static_assert(
        std::is_convertible_v<VectorView<int, HostSpace>, VectorView<int const, HostSpace>>);
    static_assert(
        !std::is_convertible_v<VectorView<int const, HostSpace>, VectorView<int, HostSpace>>);
    static_assert(std::is_trivially_copyable_v<Const>);
    float x = 1;
    Const const view = Mutable{&x, 1, 1};
    CHECK(view(0, 0) == 1);
}
