#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

namespace semoe::ops::cpu {

/// f(ByteLines{}) with what an instruction set has for lines of bytes.
/// @pre is_available(isa)
template <class F>
void with_byte_lines(Isa isa, F const& f) {
    if (isa == Isa::portable) return f(portable::ByteLines<portable::Vectors>{});
#if SEMOE_X86
    // What AVX-512 multiplies without dot products of bytes has the order of AVX2.
    isa <= Isa::avx512 ? f(avx2::ByteLines{}) : f(avx512::ByteLines{});
#elif SEMOE_ARM
    f(portable::ByteLines<neon::Vectors>{});
#endif
}

// Products of weights in unsigned bytes, 128 too large, and tokens in signed bytes, each token by a
// scale of its own. Sums are exact, so every instruction set has the same bits.

/// Rows of T become columns.
template <class T>
void pack_tokens(Isa isa, HostRows<T> const& m, TokenTiles const& to) {
    with_byte_lines(isa, [&](auto lines) { lines.pack(m, to); });
}
/// Lanes become columns.
template <class T>
void pack_tokens(Isa isa, TokenLanes<T> const& m, index_t rows, TokenTiles const& to) {
    with_byte_lines(isa, [&](auto lines) { lines.pack(m, rows, to); });
}
/// The first rows of a tile of sums, of 16 tokens each, to numbers, in place.
inline void numbers_of(Isa isa, SumScales const& scales, index_t rows, float* sums) {
    with_byte_lines(isa, [&](auto lines) { lines.numbers_of(scales, rows, sums); });
}
/// Raises the largest magnitudes of 16 tokens to those in n rows of a tile.
inline void keep_largest(Isa isa, float const* rows, index_t n, std::uint32_t* largest) {
    with_byte_lines(isa, [&](auto lines) { lines.keep_largest(rows, n, largest); });
}
/// Whether an instruction set multiplies half bytes as bytes; AVX2 and, without dot products of
/// bytes, AVX-512 take factors.
template <class Lines>
inline constexpr bool decodes = true;
#if SEMOE_X86
template <>
inline constexpr bool decodes<avx2::ByteLines> = false;
#endif
/// Some steps of a panel as tiles [two streams][steps].
/// @pre isa is neither Isa::avx2 nor Isa::avx512
/// @param first  a multiple of Decode<Format>::lines, as steps is
/// @param fetch  asked for as many bytes as are read
template <class Format>
void decode_panel(Isa isa, QuantizedRows<Format> const& w, index_t p, index_t first, index_t steps,
                  char* tiles, Fetch& fetch) {
    constexpr int lines = Decode<Format>::lines;
    for (int s = 0; s < 2 && w.panel_rows(s, p) > 0; ++s) {
        std::uint8_t const* codes = w.panel_codes(s, p) + first / lines * tile_bytes;
        std::uint8_t const* scales = w.group_scales(s, p) + first / lines * line_bytes;
        with_byte_lines(isa, [&](auto byte_lines) {
            if constexpr (decodes<decltype(byte_lines)>) {
                for (index_t n = 0; n < steps; n += lines, tiles += lines * tile_bytes) {
                    byte_lines.template decode_tile<Format>(codes, scales, tiles, fetch);
                    codes += tile_bytes;
                    scales += line_bytes;
                }
            }
        });
    }
}

} // namespace semoe::ops::cpu
