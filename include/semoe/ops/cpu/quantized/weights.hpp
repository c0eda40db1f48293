#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

namespace semoe::ops::cpu {

/// What a format's codes are multiplied as: unsigned bytes, 128 too large, in units of their row. A
/// specialisation has
///     static constexpr int lines;  // of operands that a line of codes holds; if one, codes are
///                                  // operands themselves, else there is
///     template <int I> static __m512i line(codes, scales);  // number I of these, of one row
template <class Format>
struct Decode;

} // namespace semoe::ops::cpu

#if SEMOE_X86
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

template <>
struct Decode<quant::Int8> {
    static constexpr int lines = 1;
};

namespace detail {

/// What the 16 codes mean under each scale of a group.
struct alignas(64) CodeTable {
    std::uint8_t code[256][16] = {};
};
constexpr CodeTable table_of(quant::Int4) {
    CodeTable table;
    for (int m = 0; m < 256; ++m)
        for (int c = 0; c < 16; ++c)
            table.code[m][c] = std::uint8_t(quant::Int4::steps(c, m) + 128);
    return table;
}
constexpr CodeTable table_of(quant::Mxfp4) {
    CodeTable table;
    for (int h = 0; h < 256; ++h)
        for (int c = 0; c < 16; ++c)
            table.code[h][c] =
                std::uint8_t(128 + int(quant::detail::nearest(quant::Mxfp4::units(c, h))));
    return table;
}
template <class Format>
inline constexpr CodeTable code_table = table_of(Format{});

/// Half bytes, in the order of Int4.
template <class Format>
struct DecodeHalves {
    static constexpr int lines = 2;

    template <int I>
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes,
                                                 std::uint8_t const* scales) {
        constexpr int first = 2 * I; // of two groups, each by its table
        __m512i const both = _mm512_loadu_si512(codes);
        __m512i const lower = I == 0 ? both : _mm512_maskz_srli_epi16(~0u, both, 4);
        __m512i const one = _mm512_maskz_broadcast_i32x4(0xffff, table(scales[first]));
        __m512i const tables = _mm512_mask_broadcast_i32x4(one, 0xff00, table(scales[first + 1]));
        return _mm512_maskz_shuffle_epi8(~__mmask64(0), tables,
                                         _mm512_and_si512(lower, _mm512_set1_epi8(15)));
    }

private:
    SEMOE_LINES SEMOE_INLINE static __m128i table(std::uint8_t scale) {
        return _mm_load_si128(reinterpret_cast<__m128i const*>(code_table<Format>.code[scale]));
    }
};

} // namespace detail

template <>
struct Decode<quant::Int4> : detail::DecodeHalves<quant::Int4> {};
template <>
struct Decode<quant::Mxfp4> : detail::DecodeHalves<quant::Mxfp4> {};

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
