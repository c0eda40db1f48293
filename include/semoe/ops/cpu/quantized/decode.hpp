#pragma once

#include "semoe/core/quant.hpp"

#include <cstdint>

namespace semoe::ops::cpu {

/// Steps of a panel that are decoded at a time, to stay in L1 while all tokens pass by; a multiple
/// of Decode<Format>::lines.
inline constexpr index_t slab_steps = 12;

/// What a format's codes are multiplied as: unsigned bytes, 128 too large, in units of their row. A
/// specialisation has
///     static constexpr int lines;  // of operands that a line of codes holds: 1, where codes are
///                                  // operands themselves, or 2, half bytes in the order of Int4,
///     static std::uint8_t const* table(std::uint8_t scale);  // what these mean under a group's
///                                                            // scale: 16 bytes, aligned to 16
/// and Factors<Format> beside it where a line holds two.
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

/// Half bytes as factors, for sums in 16 bits: a code means (factor - zero) * multiplier, both as
/// its group's scale has it.
template <class Format>
struct Factors;

template <>
struct Factors<quant::Int4> {
    static constexpr int zero = 8;
    static constexpr bool scale_is_multiplier = true;
    static constexpr int factor(int code, int scale) { return quant::Int4::fitting(code, scale); }
    static constexpr int multiplier(int scale) { return scale; }
};
template <>
struct Factors<quant::Mxfp4> {
    static constexpr int zero = 12;
    static constexpr bool scale_is_multiplier = false;
    /// Below most_halvings all codes are doubled, from there on units of the row.
    static constexpr int factor(int code, int scale) {
        float const units = quant::Mxfp4::units(code, max(scale, quant::Mxfp4::most_halvings));
        return zero + int(quant::detail::nearest(units));
    }
    static constexpr int multiplier(int scale) {
        return 1 << max(quant::Mxfp4::most_halvings - scale, 0);
    }
};

namespace detail {

/// What Factors<Format> says of all codes and scales, for vectors to load.
template <class Format>
struct FactorTable {
    alignas(64) std::uint8_t factor[256][16] = {};
    std::uint32_t multiplier[256] = {};                 ///< in both halves
    alignas(16) std::uint8_t short_multiplier[16] = {}; ///< the last is that of all above, too

    /// Whether the kernels' arithmetic holds: pairs of products do not saturate, sums of half a
    /// group without zeros fit 16 bits, and short_multiplier says what it should.
    bool sound = true;

    constexpr FactorTable() {
        using F = Factors<Format>;
        constexpr int most = 32767 / 127, half_group = quant::group_size / 2;
        for (int s = 0; s < 256; ++s) {
            int const m = F::multiplier(s), shortened = F::multiplier(min(s, 15));
            multiplier[s] = std::uint32_t(m) * 0x10001u;
            short_multiplier[min(s, 15)] = std::uint8_t(shortened);
            sound &= m >= 0 && m < 256 && m == (F::scale_is_multiplier ? s : shortened);
            for (int c = 0; c < 16; ++c) {
                int const f = F::factor(c, s), apart = max(f - F::zero, F::zero - f);
                factor[s][c] = std::uint8_t(f);
                sound &= f >= 0 && 2 * f <= most && apart * half_group <= most;
                sound &= (f - F::zero) * m == int(code_table<Format>.code[s][c]) - 128;
            }
        }
    }
};
template <class Format>
inline constexpr FactorTable<Format> factor_table;

} // namespace detail

} // namespace semoe::ops::cpu
