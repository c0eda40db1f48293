#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

namespace semoe::ops::cpu {

/// What a format's codes are multiplied as. A specialisation has
///     using Products = ...;            // ops/cpu/quantized/products.hpp
///     static constexpr int lines;  // of operands that a line of codes holds; if one, codes
///                                      // are operands themselves, else there is
///     template <int I> static __m512i line(codes, scales);  // number I of these, of one row
template <class Format>
struct Decode;

} // namespace semoe::ops::cpu

#if SEMOE_X86
#include <limits>
#include <utility>

namespace semoe::ops::cpu {

/// The rows of a quantised matrix as a product takes them: panels of 32, a tile from each of two
/// streams.
template <class Format>
struct QuantizedRows {
    std::uint8_t const* codes[2] = {}; ///< of the streams' first tiles
    std::uint8_t const* scales[2] = {};
    index_t depth = 0;
    index_t rows[2] = {}; ///< in each stream, counted from its first
    index_t advance = 2;  ///< tiles from one panel to the next, in both streams

    /// All rows of one matrix.
    static QuantizedRows of(quant::ConstCodes const& m) {
        return beside(m, 1, m.rows - tile_rows, 2);
    }
    /// Two matrices beside each other, of which the second follows the first.
    static QuantizedRows of_two(quant::ConstCodes const& first) {
        return beside(first, quant::tiles_of(first.rows), first.rows, 1);
    }
    index_t code_bytes() const { return Format::code_tile_bytes(depth); }
    index_t panels() const { return (rows[0] + panel_height() - 1) / panel_height(); }
    std::uint8_t const* panel_codes(int s, index_t p) const {
        return codes[s] + p * advance * code_bytes();
    }
    std::uint8_t const* panel_scales(int s, index_t p) const {
        return scales[s] + p * advance * Format::scale_tile_bytes(depth);
    }
    /// The last lines of a tile of scales are those of groups.
    std::uint8_t const* group_scales(int s, index_t p) const {
        return panel_scales(s, p) + Format::scale_tile_bytes(depth) -
               Format::chunks(depth) * line_bytes;
    }
    index_t panel_rows(int s, index_t p) const {
        return max(index_t(0), min(rows[s] - p * panel_height(), tile_rows));
    }
    /// Rows from one panel to the next.
    index_t panel_height() const { return advance * tile_rows; }
    /// The same rows from panel p on.
    QuantizedRows from(index_t p) const {
        QuantizedRows rest = *this;
        for (int s = 0; s < 2; ++s) {
            rest.codes[s] = codes[s] ? panel_codes(s, p) : nullptr;
            rest.scales[s] = scales[s] ? panel_scales(s, p) : nullptr;
            rest.rows[s] -= p * panel_height();
        }
        return rest;
    }

private:
    static QuantizedRows beside(quant::ConstCodes const& m, index_t tiles, index_t second_rows,
                                index_t advance) {
        return {{m.codes, m.codes + tiles * Format::code_tile_bytes(m.cols)},
                {m.scales, m.scales + tiles * Format::scale_tile_bytes(m.cols)},
                m.cols,
                {m.rows, second_rows},
                advance};
    }
};

struct ByteProducts;
struct Bf16Products;

template <>
struct Decode<quant::Int8> {
    using Products = ByteProducts;
    static constexpr int lines = 1;
};

namespace detail {

/// What the 16 codes mean under each multiplier, as an unsigned byte of Int8.
struct alignas(64) Int4Table {
    std::uint8_t code[256][16] = {};
    constexpr Int4Table() {
        for (int m = 0; m < 256; ++m)
            for (int c = 0; c < 16; ++c) code[m][c] = std::uint8_t(quant::Int4::steps(c, m) + 128);
    }
};
inline constexpr Int4Table int4_table;

/// What the 16 codes mean under each scale, in bf16.
struct alignas(64) Mxfp4Table {
    std::uint16_t number[256][16] = {};
    constexpr Mxfp4Table() {
        for (int s = 0; s < 256; ++s)
            for (int c = 0; c < 16; ++c)
                number[s][c] = product(quant::Mxfp4::e2m1(c), quant::Mxfp4::e8m0(s)).bits;
    }
    /// Constant expressions may not overflow.
    static constexpr bf16 product(float x, float scale) {
        float const quarter = x / 4 * scale, infinity = std::numeric_limits<float>::infinity();
        if (quarter >= 0x1p126f) return bf16(infinity);
        if (quarter <= -0x1p126f) return bf16(-infinity);
        return bf16(4 * quarter);
    }
};
inline constexpr Mxfp4Table mxfp4_table;

} // namespace detail

template <>
struct Decode<quant::Int4> {
    using Products = ByteProducts;
    static constexpr int lines = 2;

    template <int I>
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes,
                                                 std::uint8_t const* multipliers) {
        __m512i const both = _mm512_loadu_si512(codes);
        __m512i const lower = I == 0 ? both : _mm512_maskz_srli_epi16(~0u, both, 4);
        return look_up(_mm512_and_si512(lower, _mm512_set1_epi8(15)), multipliers + 2 * I);
    }

private:
    /// Codes of two groups.
    SEMOE_LINES SEMOE_INLINE static __m512i look_up(__m512i codes,
                                                    std::uint8_t const* multipliers) {
        __m512i const first = _mm512_maskz_broadcast_i32x4(0xffff, table(multipliers[0]));
        __m512i const both = _mm512_mask_broadcast_i32x4(first, 0xff00, table(multipliers[1]));
        return _mm512_maskz_shuffle_epi8(~__mmask64(0), both, codes);
    }
    SEMOE_LINES SEMOE_INLINE static __m128i table(std::uint8_t multiplier) {
        return _mm_load_si128(
            reinterpret_cast<__m128i const*>(detail::int4_table.code[multiplier]));
    }
};

template <>
struct Decode<quant::Mxfp4> {
    using Products = Bf16Products;
    static constexpr int lines = 4;

    template <int I>
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes,
                                                 std::uint8_t const* scales) {
        __m512i const all = _mm512_loadu_si512(codes);
        return look_up(I == 0 ? all : _mm512_maskz_srli_epi16(~0u, all, 4 * I), scales[I]);
    }

private:
    /// Codes in the lower four bits of words. The permutation sees a fifth, by a table that repeats
    /// itself.
    SEMOE_LINES SEMOE_INLINE static __m512i look_up(__m512i codes, std::uint8_t scale) {
        __m256i const table =
            _mm256_load_si256(reinterpret_cast<__m256i const*>(detail::mxfp4_table.number[scale]));
        return _mm512_maskz_permutexvar_epi16(~0u, codes,
                                              _mm512_maskz_broadcast_i64x4(0xff, table));
    }
};

namespace detail {
template <class Format, int... I>
SEMOE_LINES SEMOE_INLINE void decode_row(std::uint8_t const* codes, std::uint8_t const* scales,
                                         char* to, std::integer_sequence<int, I...>) {
    (_mm512_store_si512(to + I * tile_bytes, Decode<Format>::template line<I>(codes, scales)), ...);
}
} // namespace detail

/// Some steps of a panel as tiles [two streams][steps].
/// @param first  a multiple of Decode<Format>::lines, as steps is
/// @param fetch  asked for as many bytes as are read
template <class Format>
SEMOE_LINES void decode_panel(QuantizedRows<Format> const& w, index_t p, index_t first,
                              index_t steps, char* tiles, Fetch& shared_fetch) {
    constexpr int lines = Decode<Format>::lines;
    Fetch fetch = shared_fetch;
    bool const fetched = fetch.wanted();
    for (int s = 0; s < 2; ++s) {
        if (w.panel_rows(s, p) == 0) break;
        std::uint8_t const* codes = w.panel_codes(s, p) + first / lines * tile_bytes;
        std::uint8_t const* scales = w.group_scales(s, p) + first / lines * line_bytes;
        for (index_t n = 0; n < steps; n += lines, tiles += lines * tile_bytes)
            for (index_t r = 0; r < tile_rows; ++r, codes += line_bytes, scales += 4) {
                if (fetched) fetch.some(1);
                detail::decode_row<Format>(codes, scales, tiles + r * line_bytes,
                                           std::make_integer_sequence<int, lines>{});
            }
    }
    shared_fetch = fetch;
}

} // namespace semoe::ops::cpu
#endif
