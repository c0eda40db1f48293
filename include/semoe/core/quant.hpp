#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <cstdint>
#include <cstring>

/// Weights in 8 and 4 bits: matrices of codes, which stand for numbers by scales.
///
/// Both lie in tiles of 16 rows, as processors read them. A tile of codes has a line of 64 bytes a
/// row, its rows one after another, then the next 64 bytes of each row; a tile of scales begins
/// with a line of what its rows have, if they have any, then a line of four bytes a row for every
/// tile of codes, if groups have scales. Rows and columns are padded with zeros to whole tiles.
///
/// Numbers that are not finite: what shares a scale with one becomes NaN.
namespace semoe::quant {

/// Codes and scales of a [rows, cols] matrix of numbers.
/// @tparam Byte  std::uint8_t, const where they are read
template <class Byte>
struct View {
    Byte *codes = nullptr, *scales = nullptr;
    index_t rows = 0, cols = 0; ///< of the numbers

    View() = default;
    SEMOE_HD constexpr View(Byte* c, Byte* s, index_t n, index_t k)
      : codes(c)
      , scales(s)
      , rows(n)
      , cols(k) {}
    template <class U>
    requires std::same_as<U const, Byte> SEMOE_HD constexpr View(View<U> other)
      : View(other.codes, other.scales, other.rows, other.cols) {}
};
using Codes = View<std::uint8_t>;
using ConstCodes = View<std::uint8_t const>;

inline constexpr index_t tile_rows = 16, line_bytes = 64, tile_bytes = tile_rows * line_bytes;
/// Weights that share a scale, in the formats that have groups: four groups make a line.
inline constexpr index_t group_size = 32;

SEMOE_HD constexpr index_t tiles_of(index_t rows) { return (rows + tile_rows - 1) / tile_rows; }

namespace detail {

using semoe::detail::bits_of;

/// To the nearest whole number, ties to even. @pre |x| < 2^22
SEMOE_HD constexpr float nearest(float x) {
    // The adder rounds at 1.5 * 2^23. Read from the bits, it is what a compiler told to reassociate
    // sums must leave alone.
    return float(std::int32_t(bits_of<std::uint32_t>(x + 12582912.0f) - 0x4b400000u));
}
/// The largest of n magnitudes; NaN where one of them is not finite.
template <class Row>
SEMOE_HD float largest(Row const& w, index_t first, index_t n) {
    std::uint32_t most = 0;
    for (index_t k = first; k < first + n; ++k) {
        std::uint32_t const magnitude = bits_of<std::uint32_t>(float(w(k))) & 0x7fffffffu;
        most = most < magnitude ? magnitude : most;
    }
    return bits_of<float>(most < 0x7f800000u ? most : 0x7fc00000u);
}
/// largest / steps, zero where that is too small for a float of full precision.
SEMOE_HD constexpr float scale_of(float largest, float steps) {
    float const scale = largest / steps;
    return scale < 1.17549435e-38f ? 0.0f : scale;
}
SEMOE_HD inline float load_float(std::uint8_t const* at) {
    float value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
}
SEMOE_HD inline void store_float(std::uint8_t* at, float value) {
    std::memcpy(at, &value, sizeof(value));
}
/// How a format's matrices lie.
/// @tparam Chunk       codes in a line of 64 bytes
/// @tparam RowScales   whether rows have a float
/// @tparam GroupScales whether groups have a byte
template <index_t Chunk, bool RowScales, bool GroupScales>
struct Tiles {
    static constexpr index_t chunk = Chunk;

    SEMOE_HD static constexpr index_t chunks(index_t cols) { return (cols + Chunk - 1) / Chunk; }
    /// Of a tile of rows.
    SEMOE_HD static constexpr index_t code_tile_bytes(index_t cols) {
        return chunks(cols) * tile_bytes;
    }
    SEMOE_HD static constexpr index_t scale_tile_bytes(index_t cols) {
        return (int(RowScales) + (GroupScales ? chunks(cols) : 0)) * line_bytes;
    }
    /// Of a matrix.
    SEMOE_HD static constexpr index_t code_bytes(index_t rows, index_t cols) {
        return tiles_of(rows) * code_tile_bytes(cols);
    }
    SEMOE_HD static constexpr index_t scale_bytes(index_t rows, index_t cols) {
        return tiles_of(rows) * scale_tile_bytes(cols);
    }

protected:
    /// The line of row n that holds column k.
    template <class Byte>
    SEMOE_HD static constexpr Byte* line(View<Byte> const& m, index_t n, index_t k) {
        return m.codes + n / tile_rows * code_tile_bytes(m.cols) + k / Chunk * tile_bytes +
               n % tile_rows * line_bytes;
    }
    template <class Byte>
    SEMOE_HD static constexpr Byte* row_scale(View<Byte> const& m, index_t n) {
        return m.scales + n / tile_rows * scale_tile_bytes(m.cols) + n % tile_rows * 4;
    }
    template <class Byte>
    SEMOE_HD static constexpr Byte* group_scale(View<Byte> const& m, index_t n, index_t k) {
        return row_scale(m, n) + (int(RowScales) + k / Chunk) * line_bytes + k % Chunk / group_size;
    }
};

/// A code of four bits in a byte of its line.
struct Half {
    index_t byte;
    int shift;

    SEMOE_HD constexpr int of(std::uint8_t const* line) const { return line[byte] >> shift & 15; }
    /// Lower halves are put before upper ones.
    SEMOE_HD constexpr void put(std::uint8_t* line, int code) const {
        line[byte] = std::uint8_t((shift == 0 ? 0 : line[byte]) | code << shift);
    }
};

} // namespace detail

/// w = (code - 128) * scale, a float scale a row: |error| <= scale / 2 = largest / 254.
struct Int8 : detail::Tiles<64, true, false> {
    static constexpr LayoutId layout = LayoutId::int8;

    SEMOE_HD static float weight(ConstCodes const& m, index_t n, index_t k) {
        return float(int(line(m, n, k)[k % chunk]) - 128) * detail::load_float(row_scale(m, n));
    }
    /// Row n of a matrix from the numbers w(0) to w(cols - 1).
    template <class Row>
    SEMOE_HD static void encode(Row const& w, Codes const& m, index_t n) {
        float const scale = detail::scale_of(detail::largest(w, 0, m.cols), 127);
        detail::store_float(row_scale(m, n), scale);
        for (index_t k = 0; k < chunks(m.cols) * chunk; ++k) {
            float const steps =
                k < m.cols && scale > 0 ? detail::nearest(float(w(k)) / scale) : 0.0f;
            line(m, n, k)[k % chunk] = std::uint8_t(128 + int(steps));
        }
    }
};

/// w = (code - 8) * multiplier * scale with codes 1 to 15, a float scale a row and a multiplier of
/// 0 to 18 a group of 32: |error| <= multiplier * scale / 2. The products of codes and multipliers
/// fit into a byte, so that a row can be multiplied as one of Int8.
struct Int4 : detail::Tiles<128, true, true> {
    static constexpr LayoutId layout = LayoutId::int4;
    static constexpr int largest_code = 7, largest_multiplier = 18;

    /// The lower halves of a line are its first two groups.
    SEMOE_HD static constexpr detail::Half half(index_t k) {
        return {k % (chunk / 2), k % chunk < chunk / 2 ? 0 : 4};
    }
    /// In units of the row's scale.
    SEMOE_HD static constexpr int steps(int code, int multiplier) {
        return (fitting(code, multiplier) - 8) * multiplier;
    }
    /// The nearest code whose product fits a byte; all that encode() writes do.
    SEMOE_HD static constexpr int fitting(int code, int multiplier) {
        int const product = (code - 8) * multiplier;
        return product < -128 ? 8 - 128 / multiplier : product > 127 ? 8 + 127 / multiplier : code;
    }
    SEMOE_HD static float weight(ConstCodes const& m, index_t n, index_t k) {
        return float(steps(half(k).of(line(m, n, k)), *group_scale(m, n, k))) *
               detail::load_float(row_scale(m, n));
    }
    SEMOE_HD static int multiplier(ConstCodes const& m, index_t n, index_t k) {
        return *group_scale(m, n, k);
    }
    template <class Row>
    SEMOE_HD static void encode(Row const& w, Codes const& m, index_t n) {
        float const unit = detail::scale_of(detail::largest(w, 0, m.cols),
                                            float(largest_code * largest_multiplier));
        detail::store_float(row_scale(m, n), unit);
        for (index_t first = 0; first < chunks(m.cols) * chunk; first += group_size) {
            index_t const size = max(index_t(0), min(group_size, m.cols - first));
            float const reach = float(largest_code) * unit; // of one multiplier
            int multiplier = 0;
            if (unit > 0) {
                float const most = detail::largest(w, first, size);
                multiplier = min(int(most / reach), largest_multiplier);
                if (multiplier < largest_multiplier && float(multiplier) * reach < most)
                    ++multiplier;
            }
            *group_scale(m, n, first) = std::uint8_t(multiplier);
            float const scale = float(multiplier) * unit;
            for (index_t k = first; k < first + group_size; ++k) {
                float const steps =
                    k < m.cols && multiplier > 0 ? detail::nearest(float(w(k)) / scale) : 0.0f;
                half(k).put(line(m, n, k), 8 + max(-largest_code, min(int(steps), largest_code)));
            }
        }
    }
};

/// The 4-bit floats of the OCP microscaling formats: codes e2m1, and for every 32 a scale that is a
/// power of two. It is kept as a float unit a row, a 16th of the largest scale, and how many
/// halvings a group is below that: w = e2m1(code) * 16 / 2^halvings * unit. encode() takes the
/// better of two scales and at most 3 halvings, with which codes are whole units that fit into a
/// byte, so that a row can be multiplied as one of Int8; groups of others' making with more are
/// rounded to units then.
struct Mxfp4 : detail::Tiles<128, true, true> {
    static constexpr LayoutId layout = LayoutId::mxfp4;
    static constexpr int most_halvings = 3;

    /// As in Int4.
    SEMOE_HD static constexpr detail::Half half(index_t k) { return Int4::half(k); }
    /// A sign, two bits of exponent, one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and negatives.
    SEMOE_HD static constexpr float e2m1(int code) {
        // As a float's exponent and first bit of mantissa, but for those below 1.
        std::uint32_t const bits = (std::uint32_t(code & 7) << 22) + (126u << 23);
        float const magnitude =
            (code & 7) < 2 ? 0.5f * float(code & 7) : detail::bits_of<float>(bits);
        return (code & 8) != 0 ? -magnitude : magnitude;
    }
    /// The nearest code, ties to even; larger numbers become the largest.
    SEMOE_HD static constexpr int to_e2m1(float x) {
        float const a = x < 0 ? -x : x;
        int const code = int(a > 0.25f) + int(a >= 0.75f) + int(a > 1.25f) + int(a >= 1.75f) +
                         int(a > 2.5f) + int(a >= 3.5f) + int(a > 5.0f);
        return x < 0 ? code | 8 : code;
    }
    /// 2^exponent, for exponents that a float of full precision has.
    SEMOE_HD static constexpr float power(int exponent) {
        return detail::bits_of<float>(std::uint32_t(exponent + 127) << 23);
    }
    /// In units of the row.
    SEMOE_HD static constexpr float units(int code, int halvings) {
        return e2m1(code) * power(4 - (halvings < 100 ? halvings : 100));
    }
    SEMOE_HD static float weight(ConstCodes const& m, index_t n, index_t k) {
        return units(half(k).of(line(m, n, k)), halvings(m, n, k)) *
               detail::load_float(row_scale(m, n));
    }
    SEMOE_HD static int halvings(ConstCodes const& m, index_t n, index_t k) {
        return *group_scale(m, n, k);
    }
    template <class Row>
    SEMOE_HD static void encode(Row const& w, Codes const& m, index_t n) {
        float const most = detail::largest(w, 0, m.cols);
        // The row's largest magnitude lies between 4 and 8 halved scales.
        int const top = exponent(most) - 1;
        bool const usable = most == most && top - 4 >= -126;
        detail::store_float(row_scale(m, n), usable ? power(top - 4) : most == most ? 0.0f : most);
        for (index_t first = 0; first < chunks(m.cols) * chunk; first += group_size) {
            index_t const size = usable ? max(index_t(0), min(group_size, m.cols - first)) : 0;
            int const below = best_halvings(w, first, size, top);
            *group_scale(m, n, first) = std::uint8_t(below);
            float const inverse = usable ? power(below - top) : 0.0f;
            for (index_t k = first; k < first + group_size; ++k)
                half(k).put(line(m, n, k), k < first + size ? to_e2m1(float(w(k)) * inverse) : 0);
        }
    }

private:
    /// Of the leading bit.
    SEMOE_HD static constexpr int exponent(float x) {
        return int(detail::bits_of<std::uint32_t>(x) >> 23 & 255) - 127;
    }
    /// The largest magnitude shall come to lie between 4 and 8, where 6 is the last, or between 2
    /// and 4: whichever has the smaller sum of squared errors.
    template <class Row>
    SEMOE_HD static int best_halvings(Row const& w, index_t first, index_t n, int top) {
        int const fine = top - (exponent(detail::largest(w, first, n)) - 2);
        if (fine > most_halvings) return most_halvings;
        float const inverse = power(fine - top);
        float errors[2] = {};
        for (index_t k = first; k < first + n; ++k) {
            float const x = float(w(k)) * inverse;
            float const error = e2m1(to_e2m1(x)) - x;
            float const coarse_error = 2 * e2m1(to_e2m1(x / 2)) - x;
            errors[0] += error * error;
            errors[1] += coarse_error * coarse_error;
        }
        bool const overflows = top - fine >= 125; // 4 of the coarser scale is no float any more
        return errors[1] < errors[0] && !overflows ? fine - 1 : fine;
    }
};

namespace detail {
struct ZeroRow {
    SEMOE_HD float operator()(index_t) const { return 0; }
};
} // namespace detail

/// What a format of one's own has to have.
template <class F>
concept Format = requires(Codes const& m, index_t n) {
    { F::layout } -> std::convertible_to<LayoutId>;
    { F::code_tile_bytes(n) } -> std::same_as<index_t>;
    { F::scale_tile_bytes(n) } -> std::same_as<index_t>;
    { F::weight(ConstCodes(m), n, n) } -> std::same_as<float>;
    F::encode(detail::ZeroRow{}, m, n);
};

} // namespace semoe::quant
