#include "semoe/core/quant.hpp"

#include "support/memory.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <type_traits>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

/// A matrix in some format, of which one row is looked at.
template <class Format>
struct EncodedRow {
    static constexpr index_t rows = 18, row = 17; // not of the first tile
    std::vector<float> numbers;
    std::vector<std::uint8_t> codes, scales;

    explicit EncodedRow(std::vector<float> w)
      : numbers(std::move(w))
      , codes(std::size_t(Format::code_bytes(rows, depth())))
      , scales(std::size_t(Format::scale_bytes(rows, depth()))) {
        Format::encode([this](index_t k) { return numbers[std::size_t(k)]; },
                       {codes.data(), scales.data(), rows, depth()}, row);
    }
    index_t depth() const { return index_t(numbers.size()); }
    quant::ConstCodes view() const { return {codes.data(), scales.data(), rows, depth()}; }
    float operator()(index_t k) const { return Format::weight(view(), row, k); }
    double error(index_t k) const {
        return std::fabs(double((*this)(k)) - double(numbers[std::size_t(k)]));
    }
    /// A row's float lies in its tile's first line.
    float row_scale() const {
        return quant::detail::load_float(scales.data() + Format::scale_tile_bytes(depth()) + 4);
    }
};
/// The largest error that rounding a weight may make, from the codes' own scale.
double allowed(EncodedRow<quant::Int8> const& row, index_t) { return row.row_scale() / 2.0; }
double allowed(EncodedRow<quant::Int4> const& row, index_t k) {
    return row.row_scale() / 2.0 * quant::Int4::multiplier(row.view(), row.row, k);
}
double allowed(EncodedRow<quant::Mxfp4> const& row, index_t k) {
    // Half the distance to the next number of the format, or how far it lies beyond the last.
    double const scale =
        std::ldexp(16 * double(row.row_scale()), -quant::Mxfp4::halvings(row.view(), row.row, k));
    double const x = std::fabs(double(row.numbers[std::size_t(k)])) / scale;
    CHECK(x < 8);
    return scale * (x < 2 ? 0.25 : x < 4 ? 0.5 : x < 6 ? 1 : x - 6);
}
template <class Format>
bool all_nan(EncodedRow<Format> const& row, index_t first, index_t end) {
    bool all = true;
    for (index_t k = first; k < end; ++k) all &= std::isnan(row(k));
    return all;
}

} // namespace

TEST_CASE_TEMPLATE("core/quant: every weight is within half a step of its format", Format,
                   quant::Int8, quant::Int4, quant::Mxfp4) {
    for (index_t const depth : {1, 2, 31, 32, 33, 64, 97, 1000})
        for (double const size : {1e-30, 0.02, 1.0, 3e30}) {
            CAPTURE(depth);
            CAPTURE(size);
            EncodedRow<Format> const row(random_values<float>(std::uint64_t(depth), depth, size));
            for (index_t k = 0; k < depth; ++k)
                CHECK(row.error(k) <= 1.0001 * (allowed(row, k) + 1e-40));
        }
}

TEST_CASE_TEMPLATE("core/quant: zeros stay zeros, and a zero block stands for zeros", Format,
                   quant::Int8, quant::Int4, quant::Mxfp4) {
    EncodedRow<Format> row(std::vector<float>(70, 0.0f));
    for (index_t k = 0; k < 70; ++k) CHECK(row(k) == 0);
    std::fill(row.codes.begin(), row.codes.end(), std::uint8_t(0));
    std::fill(row.scales.begin(), row.scales.end(), std::uint8_t(0));
    for (index_t k = 0; k < 70; ++k) CHECK(row(k) == 0);
}

TEST_CASE_TEMPLATE("core/quant: what shares a scale with an infinity or a NaN becomes NaN", Format,
                   quant::Int8, quant::Int4, quant::Mxfp4) {
    for (float const odd : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        auto numbers = random_values<float>(3, 96);
        numbers[40] = odd;
        EncodedRow<Format> const row(numbers);
        CHECK(all_nan(row, 0, 96));
    }
}

TEST_CASE("core/quant: numbers too small for a scale become zeros") {
    for (float const tiny : {1e-38f, 1e-45f}) {
        EncodedRow<quant::Int8> const bytes({tiny, -tiny});
        EncodedRow<quant::Int4> const halves({tiny, -tiny});
        EncodedRow<quant::Mxfp4> const floats({tiny, -tiny});
        CHECK(bytes(0) == 0);
        CHECK(halves(1) == 0);
        CHECK(floats(1) == 0);
    }
}

TEST_CASE("core/quant: Int4 keeps its products within a byte and its groups apart") {
    auto numbers = random_values<float>(5, 128);
    for (std::size_t k = 32; k < 64; ++k) numbers[k] *= 0.01f;
    for (std::size_t k = 64; k < 96; ++k) numbers[k] = 0;
    EncodedRow<quant::Int4> const row(numbers);
    auto const m = row.view();
    CHECK(quant::Int4::multiplier(m, row.row, 32) == 1);
    CHECK(quant::Int4::multiplier(m, row.row, 64) == 0);
    int most = 0;
    for (index_t k = 0; k < 128; ++k) {
        int const code = quant::Int4::half(k).of(row.codes.data() + 1024 + 64);
        CHECK(code >= 1);
        most = std::max(most,
                        std::abs(quant::Int4::steps(code, quant::Int4::multiplier(m, row.row, k))));
    }
    CHECK(most == 126);
    // What encode() never writes is read as something nevertheless.
    CHECK(quant::Int4::steps(0, 16) == -128);
    CHECK(quant::Int4::steps(0, 17) == -119);
    CHECK(quant::Int4::steps(15, 19) == 6 * 19);
    for (int multiplier = 0; multiplier < 256; ++multiplier)
        for (int code = 0; code < 16; ++code) {
            int nearest = 8; // the one of the codes that fit
            for (int other = 0; other < 16; ++other) {
                bool const fits = std::abs((other - 8) * multiplier + 0.5) < 128;
                if (fits && std::abs(other - code) < std::abs(nearest - code)) nearest = other;
            }
            CHECK(quant::Int4::steps(code, multiplier) == (nearest - 8) * multiplier);
        }
}

TEST_CASE("core/quant: Mxfp4 has the numbers and the rounding of the OCP formats") {
    float const magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int code = 0; code < 8; ++code) {
        CHECK(quant::Mxfp4::e2m1(code) == magnitudes[code]);
        CHECK(quant::Mxfp4::e2m1(code + 8) == -magnitudes[code]);
        CHECK(quant::Mxfp4::to_e2m1(magnitudes[code]) == code);
        if (code > 0) CHECK(quant::Mxfp4::to_e2m1(-magnitudes[code]) == code + 8);
    }
    // Halfway: to the even mantissa.
    for (auto const& [x, code] : {std::pair{0.25f, 0},
                                  {0.75f, 2},
                                  {1.25f, 2},
                                  {1.75f, 4},
                                  {2.5f, 4},
                                  {3.5f, 6},
                                  {5.0f, 6},
                                  {7.9f, 7}})
        CHECK(quant::Mxfp4::to_e2m1(x) == code);
    // Exact numbers come back.
    EncodedRow<quant::Mxfp4> const row({3, -0.5f, 6, 0, 1.5f});
    for (index_t k = 0; k < row.depth(); ++k) CHECK(row(k) == row.numbers[std::size_t(k)]);
    CHECK(std::ldexp(16 * row.row_scale(), -quant::Mxfp4::halvings(row.view(), row.row, 0)) == 1);
    auto const* const line = row.codes.data() + 1024 + 64; // the second tile's second row
    CHECK(line[0] == 5);
    CHECK(line[1] == 9);
}

TEST_CASE("core/quant: Mxfp4 rounds the largest floats to floats") {
    for (float const largest : {2.9e38f, 3.0e38f, 3.4e38f}) {
        std::vector<float> numbers(32, largest);
        EncodedRow<quant::Mxfp4> const row(numbers);
        for (index_t k = 0; k < 32; ++k) CHECK(std::fabs(row(k) / largest - 1) < 0.34f);
    }
}
TEST_CASE("core/quant: Mxfp4 keeps whole units within a byte") {
    auto numbers = random_values<float>(5, 128);
    for (std::size_t k = 32; k < 64; ++k) numbers[k] *= 1e-4f;
    for (std::size_t k = 64; k < 96; ++k) numbers[k] = 0;
    EncodedRow<quant::Mxfp4> const row(numbers);
    for (index_t k = 0; k < 128; ++k) {
        float const units = row(k) / row.row_scale();
        CHECK(units == std::nearbyint(units));
        CHECK(std::fabs(units) <= 96);
        CHECK(quant::Mxfp4::halvings(row.view(), row.row, k) <= 3);
    }
    // Scales that encode() never writes are read as something nevertheless.
    CHECK(quant::Mxfp4::units(7, 255) < 1e-20f);
}

TEST_CASE("core/quant: matrices are padded to tiles of 16 rows and 64 bytes") {
    CHECK(quant::Int8::code_bytes(17, 65) == 2 * 2 * 1024);
    CHECK(quant::Int8::scale_bytes(17, 65) == 2 * 64);
    CHECK(quant::Int4::code_bytes(16, 129) == 2 * 1024);
    CHECK(quant::Int4::scale_bytes(16, 129) == 64 + 2 * 64);
    CHECK(quant::Mxfp4::scale_bytes(0, 129) == 0);
    CHECK(quant::Mxfp4::scale_bytes(16, 128) == 2 * 64);
}
