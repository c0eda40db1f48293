#pragma once

#include "semoe/ops/cpu/quantized/tokens.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#include <cstring>
#include <type_traits>

namespace semoe::ops::cpu {

/// Calls tile(lines, stream, group, results) for each group of few tokens and each stream of a
/// panel. `lines` is a std::integral_constant, 1, 2, 4 or 8, so that sums have registers; `results`
/// are those of the panel's first row with the group's first token, among all as a BlockKernel
/// leaves them.
template <class Format, class Tile>
void for_few_tokens(QuantizedRows<Format> const& w, index_t panel, TokenTiles const& x,
                    float* results, Tile const& tile) {
    for (index_t g = 0; g < few_groups(x.few); ++g)
        for (int s = 0; s < 2 && w.panel_rows(s, panel) > 0; ++s) {
            index_t const token = x.first_few + g * 8;
            float* const to = results + (token / 16 * 2 + s) * tile_floats + token % 16;
            switch (lines_of_group(x.few, g)) {
            case 1:
                tile(std::integral_constant<index_t, 1>{}, s, g, to);
                break;
            case 2:
                tile(std::integral_constant<index_t, 2>{}, s, g, to);
                break;
            case 4:
                tile(std::integral_constant<index_t, 4>{}, s, g, to);
                break;
            default:
                tile(std::integral_constant<index_t, 8>{}, s, g, to);
            }
        }
}
/// What zeros added to sums of factors is taken off, and what unsigned weights would have added is
/// put on. Without signs: with its zeros the sum of a long row needs more than 32 bits.
/// @param totals   [Rows][Tokens]
/// @param zero     of each row two a token: sums of tokens by multipliers
/// @param offsets  of the tokens
template <class Format, index_t Tokens, index_t Rows, index_t Lanes>
SEMOE_INLINE void take_off_zeros(std::uint32_t* totals, std::uint32_t const (&zero)[Rows][Lanes],
                                 std::int32_t const* offsets) {
    for (index_t i = 0; i < Rows * Tokens; ++i) {
        std::uint32_t const* const two = zero[i / Tokens] + i % Tokens * 2;
        totals[i] += std::uint32_t(offsets[i % Tokens]) -
                     std::uint32_t(Factors<Format>::zero) * (two[0] + two[1]);
    }
}
/// Totals [rows][Tokens] to results.
template <index_t Tokens, class Word>
SEMOE_INLINE void store_few(Word const* totals, index_t rows, float* results) {
    for (index_t r = 0; r < rows; ++r)
        std::memcpy(results + r * 16, totals + r * Tokens, std::size_t(Tokens) * 4);
}

} // namespace semoe::ops::cpu
