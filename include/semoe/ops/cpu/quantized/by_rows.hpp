#pragma once

#include "semoe/ops/cpu/avx2/factor_sums.hpp"
#include "semoe/ops/cpu/avx2/few_bytes.hpp"
#include "semoe/ops/cpu/avx2/few_factors.hpp"
#include "semoe/ops/cpu/avx2/pair_sums.hpp"
#include "semoe/ops/cpu/avx512/factor_sums.hpp"
#include "semoe/ops/cpu/avx512/few_factors.hpp"
#include "semoe/ops/cpu/avx512/few_rows.hpp"
#include "semoe/ops/cpu/avx512/pair_sums.hpp"
#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/quantized/byte_rows.hpp"
#include "semoe/ops/cpu/quantized/factor_rows.hpp"
#include "semoe/ops/cpu/quantized/products.hpp"

namespace semoe::ops::cpu {

constexpr index_t pairs_of(index_t rows) { return (rows + 31) / 32; }

/// Bytes of scratch that multiply_quantized works in.
constexpr index_t quantized_scratch_bytes(index_t rows) {
    return (4 * pairs_of(rows) + 2 * slab_steps) * tile_bytes;
}

namespace detail {

/// Sums of a panel with tokens that fill pairs of blocks, by tiles of bytes.
template <class Format>
void multiply_tiles(Isa isa, BlockKernel& kernel, QuantizedRows<Format> const& w, index_t panel,
                    TokenTiles const& x, index_t rows, Fetch& fetch, char* tiles, float* results) {
    constexpr index_t decoded = Decode<Format>::lines;
    index_t const steps = byte_steps(w.depth), pairs = pairs_of(rows - x.few);
    int const lines = decoded > 1 ? 0 : pairs == 1 ? 8 : pairs == 2 ? 4 : pairs < 8 ? 2 : 1;
    index_t const slab = decoded == 1 && pairs == 1 ? steps : slab_steps;
    // Where the second stream has ended, its results are nobody's.
    int const second = w.panel_rows(1, panel) > 0 ? 1 : 0;
    for (index_t first = 0; first < steps && pairs > 0; first += slab) {
        index_t const n = min(slab, steps - first);
        char const* left[2];
        if constexpr (decoded == 1) {
            for (int s = 0; s < 2; ++s)
                left[s] = reinterpret_cast<char const*>(w.panel_codes(s * second, panel)) +
                          first * tile_bytes;
        } else {
            index_t const whole = (n + decoded - 1) / decoded * decoded;
            decode_panel(isa, w, panel, first, whole, tiles, fetch);
            left[0] = tiles;
            left[1] = tiles + second * whole * tile_bytes;
        }
        for (index_t c = 0; c < pairs; ++c) {
            char const* const right = x.words + (2 * c * steps + first) * tile_bytes;
            BlockSteps const block{{left[0], left[1]},
                                   line_bytes,
                                   tile_bytes,
                                   right,
                                   steps * tile_bytes,
                                   n,
                                   min(rows - 32 * c, index_t(32))};
            kernel.multiply(block, fetch, lines, first > 0, results + c * 4 * tile_floats);
        }
    }
}
/// Sums of a panel with all tokens, as a BlockKernel leaves them.
template <class Format>
void multiply_panel(Isa isa, BlockKernel& kernel, QuantizedRows<Format> const& w, index_t panel,
                    TokenTiles const& x, index_t rows, Fetch& fetch, char* tiles, float* results) {
#if SEMOE_X86
    // Without dot products of bytes.
    auto const multiply = [&](auto const& many, auto const& few) {
        if (rows > x.few) many.multiply(panel, rows - x.few, fetch, tiles, results);
        few.multiply(panel, fetch, results);
    };
    if constexpr (Decode<Format>::lines == 1) {
        if (isa == Isa::avx2) return multiply(ByteRows<avx2::PairSums>(w, x), avx2::FewBytes(w, x));
        if (isa == Isa::avx512)
            return multiply(ByteRows<avx512::PairSums>(w, x),
                            avx512::FewRows<Format, avx512::SignedLine>(w, x));
    } else {
        if (isa == Isa::avx2)
            return multiply(FactorRows<Format, avx2::FactorSums<Format>>(w, x),
                            avx2::FewFactors<Format>(w, x));
        if (isa == Isa::avx512)
            return multiply(FactorRows<Format, avx512::FactorSums<Format>>(w, x),
                            avx512::FewFactors<Format>(w, x));
    }
#endif
    multiply_tiles(isa, kernel, w, panel, x, rows, fetch, tiles, results);
#if SEMOE_X86
    if (x.few > 0) avx512::FewRows<Format, avx512::DotLine>(w, x).multiply(panel, fetch, results);
#endif
}

} // namespace detail

/// As multiply_by_rows, for weights that are codes: the bits of an element depend on its row of
/// weights and its token alone.
/// @param x        the tokens
/// @param rows     of them
/// @param next     weights to fetch when these have been read; may have no streams
/// @param scratch  quantized_scratch_bytes(rows), aligned to 64 bytes
/// @param finish   finish(panel, first block, blocks, results): what becomes of four tiles of sums,
///                 those of both streams by the first block, then by the second
template <class Format, class Finish>
void multiply_quantized(Isa isa, BlockKernel& kernel, QuantizedRows<Format> const& w,
                        index_t first_panel, index_t last_panel, TokenTiles const& x, index_t rows,
                        QuantizedRows<Format> const& next, char* scratch, Finish const& finish) {
    constexpr index_t pair_floats = 4 * tile_floats;
    float* const results = reinterpret_cast<float*>(scratch);
    char* const tiles = reinterpret_cast<char*>(results + pairs_of(rows) * pair_floats);
    for (index_t p = first_panel; p < last_panel; ++p) {
        bool const more = p + 1 < last_panel;
        void const* const upcoming[2] = {more ? w.panel_codes(0, p + 1) : next.codes[0],
                                         more ? w.panel_codes(1, p + 1) : next.codes[1]};
        index_t const quarter = (more ? w : next).code_bytes() / 4;
        Fetch fetch(Fetch::places(isa, rows), upcoming, 4, quarter, quarter);
        detail::multiply_panel(isa, kernel, w, p, x, rows, fetch, tiles, results);
        for (index_t c = 0; c < pairs_of(rows); ++c)
            finish(p, 2 * c, min(blocks_of_16(rows) - 2 * c, index_t(2)),
                   results + c * pair_floats);
    }
}

} // namespace semoe::ops::cpu
