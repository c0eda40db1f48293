#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/quantized/products.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu {

/// Steps of a panel that are decoded at a time, to stay in L1 while all tokens pass by.
template <class Format>
inline constexpr index_t slab_steps = 12;

constexpr index_t pairs_of(index_t rows) { return (rows + 31) / 32; }

/// Bytes of scratch that multiply_quantized works in.
template <class Format>
constexpr index_t quantized_scratch_bytes(index_t rows) {
    return 2 * slab_steps<Format> * tile_bytes +
           pairs_of(rows) * 4 * tile_floats * index_t(sizeof(float));
}

/// As multiply_by_rows, for weights that are codes: the bits of an element depend on its row of
/// weights and its token alone.
/// @param x        the tokens
/// @param rows     of them
/// @param next     weights to fetch when these have been read; may have no streams
/// @param scratch  quantized_scratch_bytes<Format>(rows), aligned to 64 bytes
/// @param finish   finish(panel, first block, blocks, results): what becomes of four tiles of sums,
///                 those of both streams by the first block, then by the second
template <class Format, class Finish>
void multiply_quantized(BlockKernel& kernel, QuantizedRows<Format> const& w, index_t first_panel,
                        index_t last_panel, TokenTiles const& x, index_t rows,
                        QuantizedRows<Format> const& next, char* scratch, Finish const& finish) {
    using Products = typename Decode<Format>::Products;
    index_t const steps = Products::steps(w.depth), pairs = pairs_of(rows);
    index_t const right_block = steps * tile_bytes;
    float* const results = reinterpret_cast<float*>(scratch);
    char* const tiles = scratch + pairs * 4 * tile_floats * index_t(sizeof(float));
    for (index_t p = first_panel; p < last_panel; ++p) {
        bool const more = p + 1 < last_panel;
        void const* const upcoming[2] = {more ? w.panel(0, p + 1) : next.codes[0],
                                         more ? w.panel(1, p + 1) : next.codes[1]};
        index_t const upcoming_bytes = (more ? w : next).row_bytes();
        Fetch fetch(upcoming, tile_rows, upcoming_bytes, upcoming_bytes);
        bool const in_place = Decode<Format>::in_place && w.depth % Products::step == 0 &&
                              w.panel_rows(0, p) == tile_rows && w.panel_rows(1, p) == tile_rows;
        index_t const slab = in_place && pairs == 1 ? steps : slab_steps<Format>;
        int const lines = !in_place ? 0 : pairs == 1 ? 8 : pairs == 2 ? 4 : pairs < 8 ? 2 : 1;
        for (index_t first = 0; first < steps; first += slab) {
            index_t const n = min(slab, steps - first);
            if (!in_place) decode_panel(w, p, first, n, tiles, fetch);
            for (index_t c = 0; c < pairs; ++c) {
                BlockSteps block{{tiles, tiles + n * tile_bytes},
                                 line_bytes,
                                 tile_bytes,
                                 x.words + c * 2 * right_block + first * tile_bytes,
                                 right_block,
                                 n,
                                 rows - 32 * c};
                if (in_place) {
                    for (int s = 0; s < 2; ++s)
                        block.left[s] =
                            reinterpret_cast<char const*>(w.panel(s, p)) + first * line_bytes;
                    block.row_bytes = w.row_bytes();
                    block.step_bytes = line_bytes;
                }
                kernel.multiply(block, fetch, lines, first > 0, results + c * 4 * tile_floats);
            }
        }
        for (index_t c = 0; c < pairs; ++c)
            finish(p, 2 * c, min(blocks_of_16(rows) - 2 * c, index_t(2)),
                   results + c * 4 * tile_floats);
    }
}

} // namespace semoe::ops::cpu
#endif
