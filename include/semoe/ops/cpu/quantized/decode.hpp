#pragma once

#include "semoe/core/quant.hpp"

#include <cstdint>

namespace semoe::ops::cpu {

/// What a format's codes are multiplied as: unsigned bytes, 128 too large, in units of their row. A
/// specialisation has
///     static constexpr int lines;  // of operands that a line of codes holds: 1, where codes are
///                                  // operands themselves, or 2, half bytes in the order of Int4,
///     static std::uint8_t const* table(std::uint8_t scale);  // what these mean under a group's
///                                                            // scale: 16 bytes, aligned to 16
template <class Format>
struct Decode;

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

template <class Format>
struct DecodeHalves {
    static constexpr int lines = 2;
    static std::uint8_t const* table(std::uint8_t scale) { return code_table<Format>.code[scale]; }
};

} // namespace detail

template <>
struct Decode<quant::Int4> : detail::DecodeHalves<quant::Int4> {};
template <>
struct Decode<quant::Mxfp4> : detail::DecodeHalves<quant::Mxfp4> {};

} // namespace semoe::ops::cpu
