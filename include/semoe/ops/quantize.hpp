#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/quant.hpp"
#include "semoe/core/view.hpp"

namespace semoe::ops {

namespace detail {
/// A row of numbers of T.
template <class T>
struct NumberRow {
    T const* data;
    SEMOE_HD float operator()(index_t k) const { return float(convert<accumulate_t<T>>(data[k])); }
};
template <class T, class Space>
struct NumberRows {
    MatrixView<T const, Space> matrix;
    SEMOE_HD NumberRow<T> operator()(index_t n) const { return {matrix.row(n)}; }
};
/// One row to codes and scales; what gives the rows is called as rows(n), the row as row(k).
template <class Format, class Rows>
struct EncodeRow {
    Rows rows;
    quant::Codes to;
    SEMOE_HD void operator()(index_t n) const {
        if (n < to.rows)
            Format::encode(rows(n), to, n);
        else
            Format::encode(quant::detail::ZeroRow{}, to, n);
    }
};
template <class Format, Backend B, class Rows>
void encode_rows(B& b, Rows const& rows, quant::Codes const& to) {
    b.parallel_for(quant::tiles_of(to.rows) * quant::tile_rows, EncodeRow<Format, Rows>{rows, to});
}
template <class Format, class T, class Space>
struct DecodeRow {
    quant::ConstCodes from;
    MatrixView<T, Space> to;
    SEMOE_HD void operator()(index_t n) const {
        for (index_t k = 0; k < from.cols; ++k)
            to(n, k) = convert<T>(accumulate_t<T>(Format::weight(from, n, k)));
    }
};
template <class A, class M>
void expect_same_shape(char const* name, A const& codes, M const& numbers) {
    expects(codes.rows == numbers.rows && codes.cols == numbers.cols, [&] {
        return message("{}: the numbers are [{},{}], the codes [{},{}]", name, numbers.rows,
                       numbers.cols, codes.rows, codes.cols);
    });
}
} // namespace detail

/// Codes and scales of a matrix. What shares a scale with a number that is not finite becomes NaN.
/// @param from  [N,K], backend memory
/// @param to    [N,K] in backend memory: tiles_of(N) * Format::code_tile_bytes(K) bytes of codes,
///              tiles_of(N) * Format::scale_tile_bytes(K) of scales
/// @throws precondition_error naming both shapes when they differ
/// @sync enqueues @cost reads every number three times, from a cache but for the first; no
///       allocation
template <quant::Format Format, class T, Backend B>
void quantize(B& b, MatrixView<T, space_of<B>> from, quant::Codes to) {
    using Rows = detail::NumberRows<std::remove_const_t<T>, space_of<B>>;
    detail::expect_same_shape("quantize", to, from);
    detail::encode_rows<Format>(b, Rows{from}, to);
}

/// The numbers that codes and scales stand for, rounded to T.
/// @throws precondition_error naming both shapes when they differ
/// @sync enqueues
template <quant::Format Format, class T, Backend B>
void dequantize(B& b, quant::ConstCodes from, MatrixView<T, space_of<B>> to) {
    detail::expect_same_shape("dequantize", from, to);
    b.parallel_for(from.rows, detail::DecodeRow<Format, T, space_of<B>>{from, to});
}

} // namespace semoe::ops
