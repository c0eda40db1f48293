#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/quant.hpp"
#include "semoe/core/view.hpp"

namespace semoe::ops {

/// A matrix of codes and the scales of its rows, each row after row.
/// @tparam Byte  std::uint8_t, const where they are read
template <class Byte>
struct QuantizedView {
    Byte *codes = nullptr, *scales = nullptr;
    index_t rows = 0, cols = 0; ///< of the numbers

    QuantizedView() = default;
    QuantizedView(Byte* c, Byte* s, index_t n, index_t k)
      : codes(c)
      , scales(s)
      , rows(n)
      , cols(k) {}
    template <class U>
        requires std::same_as<U const, Byte> QuantizedView(QuantizedView<U> other)
          : QuantizedView(other.codes, other.scales, other.rows, other.cols) {}
};

namespace detail {
/// A row of numbers of T.
template <class T>
struct NumberRow {
    T const* data;
    SEMOE_HD float operator()(index_t k) const { return float(convert<accumulate_t<T>>(data[k])); }
};
/// One row to codes and scales; what gives the rows is called as rows(n), the row as row(k).
template <class Format, class Rows>
struct EncodeRow {
    Rows rows;
    QuantizedView<std::uint8_t> to;
    SEMOE_HD void operator()(index_t n) const {
        Format::encode(rows(n), to.cols, to.codes + n * Format::code_bytes(to.cols),
                       to.scales + n * Format::scale_bytes(to.cols));
    }
};
template <class T, class Space>
struct MatrixRows {
    MatrixView<T const, Space> matrix;
    SEMOE_HD NumberRow<T> operator()(index_t n) const { return {matrix.row(n)}; }
};
template <class Format, class T, class Space>
struct DecodeRow {
    QuantizedView<std::uint8_t const> from;
    MatrixView<T, Space> to;
    SEMOE_HD void operator()(index_t n) const {
        std::uint8_t const* const codes = from.codes + n * Format::code_bytes(from.cols);
        std::uint8_t const* const scales = from.scales + n * Format::scale_bytes(from.cols);
        for (index_t k = 0; k < from.cols; ++k)
            to(n, k) = convert<T>(accumulate_t<T>(Format::weight(codes, scales, k)));
    }
};
template <class A, class M>
void expect_same_shape(char const* name, A const& quantized, M const& numbers) {
    expects(quantized.rows == numbers.rows && quantized.cols == numbers.cols, [&] {
        return message("{}: the numbers are [{},{}], the codes [{},{}]", name, numbers.rows,
                       numbers.cols, quantized.rows, quantized.cols);
    });
}
} // namespace detail

/// Codes and scales of a matrix. What shares a scale with a number that is not finite becomes NaN.
/// @param from  [N,K], backend memory
/// @param to    N * Format::code_bytes(K) and N * Format::scale_bytes(K) bytes of backend memory
/// @throws precondition_error naming both shapes when they differ
/// @sync enqueues @cost reads every number three times, from a cache but for the first; no
///       allocation
template <quant::Format Format, class T, Backend B>
void quantize(B& b, MatrixView<T, space_of<B>> from, QuantizedView<std::uint8_t> to) {
    using Rows = detail::MatrixRows<std::remove_const_t<T>, space_of<B>>;
    detail::expect_same_shape("quantize", to, from);
    b.parallel_for(to.rows, detail::EncodeRow<Format, Rows>{Rows{from}, to});
}

/// The numbers that codes and scales stand for, rounded to T.
/// @throws precondition_error naming both shapes when they differ
/// @sync enqueues
template <quant::Format Format, class T, Backend B>
void dequantize(B& b, QuantizedView<std::uint8_t const> from, MatrixView<T, space_of<B>> to) {
    detail::expect_same_shape("dequantize", from, to);
    b.parallel_for(from.rows, detail::DecodeRow<Format, T, space_of<B>>{from, to});
}

} // namespace semoe::ops
