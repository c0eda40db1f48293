#pragma once

#include "semoe/ops/cpu/feed_forward/fetch.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#include <utility>

namespace semoe::ops::cpu {

/// Tokens by panels of bytes, as products of 16 bits: the even bytes' and the odd ones'. Both
/// operands are split ahead, so that the loop has nothing else to do.
/// @tparam Pairs  an instruction set's: split_rows(from, n, to) and split_columns(from, n, to), n
///                tiles of unsigned or of signed bytes to two tiles each; add<N>(rows, columns, n,
///                more, results, sequence), sums over n steps of `height` of 16 rows with N blocks
///                of 16 tokens, added to those in results if there are more; the `blocks` that N is
///                at most; `slab`, steps that are split at a time, so that both operands stay in L1
template <class Pairs>
class ByteRows {
public:
    ByteRows(QuantizedRows<quant::Int8> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with the first tokens, as a BlockKernel leaves them.
    /// @param tiles  memory for 2 * slab_steps of them
    void multiply(index_t panel, index_t tokens, Fetch& fetch, char* tiles, float* results) const {
        index_t const steps = byte_steps(w_.depth), blocks = blocks_of_16(tokens);
        index_t const passes = (blocks + Pairs::blocks - 1) / Pairs::blocks;
        int const streams = w_.panel_rows(1, panel) > 0 ? 2 : 1;
        for (index_t first = 0; first < steps; first += Pairs::slab) {
            index_t const n = min(Pairs::slab, steps - first);
            for (int s = 0; s < streams; ++s)
                Pairs::split_rows(w_.panel_codes(s, panel) + first * tile_bytes, n,
                                  tiles + s * split);
            // As many lines as were split, while all tokens pass by.
            int const lines = int((n * Pairs::height + passes - 1) / passes);
            Slab const slab{tiles, tiles + 2 * split, streams, first, n, lines};
            for (index_t b = 0; b < blocks; b += Pairs::blocks)
                if (b + Pairs::blocks <= blocks)
                    add<Pairs::blocks>(slab, b, fetch, results);
                else
                    add<1>(slab, b, fetch, results);
        }
    }

private:
    static constexpr index_t split = 2 * Pairs::slab * tile_bytes;
    static_assert((2 + Pairs::blocks) * 2 * Pairs::slab <= 2 * slab_steps);

    /// Some steps of a panel.
    struct Slab {
        char const* rows; ///< of the streams, split
        char* columns;    ///< memory for those of some blocks
        int streams;
        index_t first, n; ///< steps
        int lines;        ///< to fetch while some rows are multiplied
    };
    template <index_t Blocks>
    void add(Slab const& slab, index_t block, Fetch& fetch, float* results) const {
        char const* const words = x_.words + slab.first * tile_bytes;
        for (index_t i = 0; i < Blocks; ++i)
            Pairs::split_columns(words + (block + i) * byte_steps(w_.depth) * tile_bytes, slab.n,
                                 slab.columns + i * split);
        for (int s = 0; s < slab.streams; ++s)
            for (index_t r = 0; r < tile_rows; r += Pairs::height) {
                fetch.some(fetch.wanted() ? slab.lines : 0);
                Pairs::template add<Blocks>(slab.rows + s * split + r * line_bytes, slab.columns,
                                            slab.n, slab.first > 0,
                                            results + (2 * block + s) * tile_floats + r * 16,
                                            std::make_integer_sequence<index_t, Pairs::height>{});
            }
    }

    QuantizedRows<quant::Int8> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu
