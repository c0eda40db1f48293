#pragma once

#include "semoe/ops/cpu/quantized/tokens.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

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

} // namespace semoe::ops::cpu
