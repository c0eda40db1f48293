#include "semoe/ops/quantize.hpp"

#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

template <class Format, class T, class B>
void check_round_trip(index_t rows, index_t cols) {
    B b{};
    PaddedMatrix<T, B> from(b, rows, cols, 1), to(b, rows, cols, 2);
    index_t const code_bytes = Format::code_bytes(rows, cols),
                  scale_bytes = Format::scale_bytes(rows, cols);
    Buffer<std::uint8_t, B> codes(b, code_bytes), scales(b, scale_bytes);
    quant::Codes const view{codes.data(), scales.data(), rows, cols};
    ops::quantize<Format>(b, from.view(), view);
    ops::dequantize<Format>(b, quant::ConstCodes(view), to.view());
    auto const got = to.read(b);
    CHECK(to.padding_intact(b));

    std::vector<std::uint8_t> same_codes(static_cast<std::size_t>(code_bytes)),
        same_scales(static_cast<std::size_t>(scale_bytes));
    quant::Codes const same{same_codes.data(), same_scales.data(), rows, cols};
    std::vector<T> want;
    for (index_t n = 0; n < (rows + 15) / 16 * 16; ++n) {
        std::vector<float> row(static_cast<std::size_t>(cols));
        for (index_t k = 0; k < cols && n < rows; ++k) row[std::size_t(k)] = float(from(n, k));
        Format::encode(ops::detail::NumberRow<float>{row.data()}, same, n);
    }
    for (index_t n = 0; n < rows; ++n)
        for (index_t k = 0; k < cols; ++k)
            want.push_back(convert<T>(accumulate_t<T>(Format::weight(same, n, k))));
    CHECK(same_bits(to_host(b, codes), same_codes)); // padding included
    CHECK(same_bits(to_host(b, scales), same_scales));
    CHECK(same_bits(got, want));
}

} // namespace

TEST_CASE_TEMPLATE("ops/quantize: rows are encoded one by one, and read back", B,
                   SEMOE_TEST_BACKENDS) {
    for (index_t const rows : {0, 1, 7})
        for (index_t const cols : {1, 32, 67}) {
            check_round_trip<quant::Int8, float, B>(rows, cols);
            check_round_trip<quant::Int4, bf16, B>(rows, cols);
            check_round_trip<quant::Mxfp4, double, B>(rows, cols);
        }
}
TEST_CASE_TEMPLATE("ops/quantize: shapes that differ are refused", B, SEMOE_TEST_BACKENDS) {
    B b{};
    PaddedMatrix<float, B> from(b, 2, 8, 1);
    quant::Codes const other{nullptr, nullptr, 2, 9};
    CHECK_THROWS_WITH_AS(ops::quantize<quant::Int8>(b, from.view(), other),
                         "quantize: the numbers are [2,8], the codes [2,9]", precondition_error);
    CHECK_THROWS_AS(ops::dequantize<quant::Int8>(b, quant::ConstCodes(other), from.view()),
                    precondition_error);
}
