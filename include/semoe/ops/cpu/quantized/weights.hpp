#pragma once

#include "semoe/core/math.hpp"
#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#include <cstdint>

namespace semoe::ops::cpu {

static_assert(quant::tile_rows == tile_rows && quant::line_bytes == line_bytes &&
              quant::tile_bytes == tile_bytes);

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

} // namespace semoe::ops::cpu
