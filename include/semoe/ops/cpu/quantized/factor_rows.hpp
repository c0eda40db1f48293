#pragma once

#include "semoe/ops/cpu/feed_forward/fetch.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#include <cstring>
#include <utility>

namespace semoe::ops::cpu {

/// What some steps of 16 rows and of 16 tokens are multiplied from.
struct FactorBlock {
    char const* factors;        ///< tiles, one a step
    std::uint8_t const* scales; ///< of the rows' groups [steps / 2][16][4]
    char const *words, *sums;   ///< of tokens, and of their groups
    index_t groups;
};

/// Tokens by panels of half bytes, as factors: sums of half a group stay in 16 bits, and only those
/// are multiplied by what the group's scale says. That takes half the instructions of bytes.
/// @tparam Sums  an instruction set's: decode(codes, scales, n, tiles), n tiles of codes to two of
///               factors each; add(block, r, results, rows_at_a_time), which adds to the results of
///               some rows from r on; height, how many
template <class Format, class Sums>
class FactorRows {
public:
    FactorRows(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with the first tokens, as a BlockKernel leaves them.
    /// @param tiles  memory for slab_steps of them
    void multiply(index_t panel, index_t tokens, Fetch& fetch, char* tiles, float* results) const {
        constexpr index_t height = Sums::height;
        index_t const steps = byte_steps(w_.depth), blocks = blocks_of_16(tokens);
        for (int s = 0; s < 2 && w_.panel_rows(s, panel) > 0; ++s)
            for (index_t first = 0; first < steps; first += slab_steps) {
                index_t const n = min(slab_steps, steps - first), line = first / lines;
                auto const* const scales = w_.group_scales(s, panel) + line * line_bytes;
                Sums::decode(w_.panel_codes(s, panel) + line * tile_bytes, scales, (n + 1) / lines,
                             tiles);
                for (index_t b = 0; b < blocks; ++b) {
                    index_t const at = b * steps + first;
                    FactorBlock const block{tiles, scales, x_.words + at * tile_bytes,
                                            x_.group_sums + at * 2 * line_bytes, 2 * n};
                    float* const to = results + (2 * b + s) * tile_floats;
                    if (first == 0) begin(x_.offsets + b * 16, to);
                    for (index_t r = 0; r < tile_rows; r += height) {
                        // As many lines as there are codes, while all tokens pass by.
                        fetch.some(fetch.wanted() ? int((n * height / lines + blocks - 1) / blocks)
                                                  : 0);
                        Sums::add(block, r, to + r * 16,
                                  std::make_integer_sequence<index_t, height>{});
                    }
                }
            }
    }

private:
    static constexpr int lines = Decode<Format>::lines;

    /// With what is taken off sums of unsigned weights, since these are not.
    static void begin(std::int32_t const* offsets, float* results) {
        for (index_t r = 0; r < tile_rows; ++r) std::memcpy(results + r * 16, offsets, line_bytes);
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu
