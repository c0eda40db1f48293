#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/portable/lines.hpp"
#include "semoe/ops/cpu/quantized/decode.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"

#include <bit>

namespace semoe::ops::cpu::portable {

/// What a block's tokens add to sums with weights that are 128 too large.
template <class V>
void offsets_of(char const* words, index_t steps, std::int32_t* offsets) {
    typename V::Words sums[4] = {};
    for (index_t i = 0; i < 16 * steps; ++i, words += line_bytes)
        for (index_t q = 0; q < 4; ++q)
            sums[q] = sums[q] + V::sums_of_bytes(V::load_words(words + 16 * q));
    for (index_t q = 0; q < 4; ++q) V::store_words(offsets + 4 * q, sums[q] << 7);
}

/// What ops/cpu/quantized/products.hpp asks of an instruction set.
/// @tparam V  Vectors, or an instruction set's own
template <class V>
struct ByteLines {
    using Floats = typename V::Floats;
    using Words = typename V::Words;

    template <class T>
    static void pack(HostRows<T> const& m, TokenTiles const& to) {
        index_t const steps = byte_steps(m.cols);
        for (index_t block = 0; block < blocks_of_16(m.rows); ++block) {
            float inverse[16];
            for (index_t i = 0; i < 16; ++i) {
                index_t const r = block * 16 + i;
                ByteScale const s(r < m.rows ? largest_of_row(m.row(r), m.cols) : 0);
                to.scales[r] = s.scale;
                inverse[i] = s.inverse;
            }
            char* const words = to.words + block * steps * tile_bytes;
            for (index_t step = 0; step < steps; ++step) {
                index_t const c = step * line_bytes;
                alignas(64) char rows[tile_bytes] = {};
                for (index_t i = 0; i < min(m.rows - block * 16, tile_rows); ++i)
                    byte_line(m.row(block * 16 + i) + c, m.cols - c, inverse[i],
                              rows + i * line_bytes);
                transpose_words<V>(rows, line_bytes, words + step * tile_bytes);
            }
            offsets_of<V>(words, steps, to.offsets + block * 16);
        }
    }
    template <class T>
    static void pack(TokenLanes<T> const& m, index_t rows, TokenTiles const& to) {
        index_t const steps = byte_steps(m.depth);
        for (index_t block = 0; block < blocks_of_16(rows); ++block) {
            float inverse[16];
            for (index_t i = 0; i < 16; ++i) {
                // As it is after rounding to T.
                T const most(std::bit_cast<float>(m.largest[block * 16 + i]));
                ByteScale const s{float(most)};
                to.scales[block * 16 + i] = s.scale;
                inverse[i] = s.inverse;
            }
            char* const words = to.words + block * steps * tile_bytes;
            for (index_t k = 0; k < steps * line_bytes; k += 4)
                for (index_t q = 0; q < 16; q += 4) {
                    Words word = {};
                    for (index_t i = min(index_t(4), m.depth - k) - 1; i >= 0; --i)
                        word = word << 8 |
                               (V::rounded(V::load(m.at(block, k + i) + q), V::load(inverse + q)) &
                                255);
                    V::store_words(words + k / 4 * line_bytes + q * 4, word);
                }
            offsets_of<V>(words, steps, to.offsets + block * 16);
        }
    }
    static void numbers_of(SumScales const& s, index_t rows, float* sums) {
        for (index_t r = 0; r < rows; ++r, sums += 16) {
            float const row = quant::detail::load_float(s.rows + 4 * r);
            for (index_t i = 0; i < 16; ++i) {
                std::int32_t const exact = std::bit_cast<std::int32_t>(sums[i]) - s.offsets[i];
                float const number = float(exact) * (s.tokens[i] * row);
                sums[i] = s.bias ? number + s.bias[r] : number;
            }
        }
    }
    static void keep_largest(float const* rows, index_t n, std::uint32_t* largest) {
        for (index_t q = 0; q < 16; q += 4) {
            Words most = V::load_words(largest + q);
            for (index_t r = 0; r < n; ++r)
                most = V::larger(most, magnitude(V::load(rows + r * 16 + q)));
            V::store_words(largest + q, most);
        }
    }
    template <class Format>
    static void decode_tile(std::uint8_t const* codes, std::uint8_t const* scales, char* tiles,
                            Fetch& fetch) {
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < tile_rows; ++r, scales += 4) {
            fetch.some(fetched);
            for (index_t q = 0; q < 4; ++q, codes += 16, tiles += 16) {
                V::look_up(Decode<Format>::table(scales[q / 2]), codes, false, tiles);
                V::look_up(Decode<Format>::table(scales[2 + q / 2]), codes, true,
                           tiles + tile_bytes);
            }
        }
    }

private:
    SEMOE_INLINE static Words magnitude(Floats x) { return V::as_words(x) & 0x7fffffffu; }
    template <class T>
    static float largest_of_row(T const* row, index_t n) {
        Words most = {};
        index_t c = 0;
        for (; c + 4 <= n; c += 4) most = V::larger(most, magnitude(V::load(row + c)));
        std::uint32_t all = max(max(most[0], most[1]), max(most[2], most[3]));
        for (; c < n; ++c)
            all = max(all, std::bit_cast<std::uint32_t>(float(row[c])) & 0x7fffffffu);
        return std::bit_cast<float>(all);
    }
    /// The first n numbers of a row as 64 bytes.
    template <class T>
    static void byte_line(T const* row, index_t n, float inverse, char* to) {
        T rest[line_bytes] = {};
        if (n < line_bytes) {
            std::memcpy(rest, row, std::size_t(n) * sizeof(T));
            row = rest;
        }
        Floats const by = {inverse, inverse, inverse, inverse};
        for (index_t i = 0; i < line_bytes; i += 8)
            V::store_bytes(to + i, V::rounded(V::load(row + i), by),
                           V::rounded(V::load(row + i + 4), by));
    }
};

} // namespace semoe::ops::cpu::portable
