#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"
#include "semoe/ops/cpu/quantized/decode.hpp"

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace semoe::ops::cpu {

inline constexpr index_t most_few_tokens = 24;

/// How many of the last tokens are multiplied line by line. The others fill blocks of 16, or pairs
/// of them.
///
/// With dot products of bytes, 16 take 74 ns a KiB of Int8 from L2 on Zen 4, and 89 by tiles; of
/// Int4 160 and 216, and 32 are equal. Up to four by Int8 wait for memory, which tiles read faster.
/// On AVX2 a block takes 250 ns of Int8 on Zen 3, two 477, and 24 tokens line by line 366; of Int4
/// a block takes 321, 12 line by line 313. On AVX-512 without dot products a block takes 391 of
/// Int8 on Skylake, and 12 line by line 353; of Int4 260, and 8 line by line 181, 12 289. Beside
/// AMX, 1, 2 and 4 by Int4 took 1.26, 1.40 and 1.80 ns a line, and tiles 2.3.
template <class Format>
constexpr index_t few_tokens(Isa isa, index_t rows) {
    bool const halves = Decode<Format>::lines > 1;
    if (isa == Isa::avx512) return rows % 16 <= (halves ? 8 : 12) ? rows % 16 : 0;
    if (isa == Isa::avx2 && halves) return rows % 16 <= 12 ? rows % 16 : 0;
    if (isa == Isa::avx2) return rows % 32 <= most_few_tokens ? rows % 32 : 0;
    if (isa == Isa::avx512_vnni || isa == Isa::avx512_bf16)
        return rows % 32 <= most_few_tokens && (halves || rows > 4) ? rows % 32 : 0;
    return halves && isa == Isa::amx && rows <= 4 ? rows : 0;
}
/// Of few tokens, groups of eight.
constexpr index_t few_groups(index_t few) { return (few + 7) / 8; }
/// Lines of such a group, a power of two.
constexpr index_t lines_of_group(index_t few, index_t group) {
    return index_t(std::bit_ceil(std::size_t(min(few - group * 8, index_t(8)))));
}

/// Steps of 64 bytes that a depth takes.
constexpr index_t byte_steps(index_t depth) { return (depth + line_bytes - 1) / line_bytes; }

/// How a token's numbers become bytes of 127 at most; what is not finite makes the scale NaN.
struct ByteScale {
    float scale, inverse;

    explicit ByteScale(float largest) {
        bool const finite = largest < std::numeric_limits<float>::infinity();
        float const wanted = largest / 127;
        bool const usable = finite && wanted >= std::numeric_limits<float>::min();
        inverse = usable ? 127 / largest : 0;
        scale = !finite ? std::numeric_limits<float>::quiet_NaN() : usable ? wanted : 0;
    }
};

/// Tokens as a product's columns: tiles of words [blocks of 16 tokens][steps] of signed bytes, and
/// numbers a token.
struct TokenTiles {
    float* scales;         ///< [blocks * 16]
    std::int32_t* offsets; ///< [blocks * 16], what the unsigned weights add to each sum
    char* words;
    char* group_sums;    ///< of 32 bytes each [blocks][2 * steps][16] pairs of 16 bits; for factors
    index_t few;         ///< of the last tokens, which are lines, too
    index_t first_few;   ///< the first of them, a multiple of 16
    char* few_lines;     ///< of each group [padded][lines_of_group][64]
    index_t group_bytes; ///< from one group's to the next
    char* few_sums;      ///< of each group [padded / 2][8][4] group_sums, added; for factors

    char* few_group(index_t g) const { return few_lines + g * group_bytes; }
    char* sums_of_group(index_t g) const { return few_sums + g * group_bytes / 16; }

    /// Bytes for that many tokens.
    static constexpr index_t bytes(index_t rows, index_t steps) {
        return blocks_of_16(rows) * (2 * line_bytes + steps * (tile_bytes + 2 * line_bytes)) +
               padded(steps) * (8 * line_bytes + 32) *
                   min(few_groups(rows), few_groups(most_few_tokens));
    }
    static TokenTiles in(char* memory, index_t rows, index_t steps, index_t few) {
        index_t const numbers = blocks_of_16(rows) * line_bytes;
        char* const words = memory + 2 * numbers;
        char* const sums = words + blocks_of_16(rows) * steps * tile_bytes;
        char* const lines = sums + blocks_of_16(rows) * steps * 2 * line_bytes;
        index_t const group = padded(steps) * 8 * line_bytes;
        return {reinterpret_cast<float*>(memory),
                reinterpret_cast<std::int32_t*>(memory + numbers),
                words,
                sums,
                few,
                rows - few,
                lines,
                group,
                lines + few_groups(few) * group};
    }
    /// To whole lines of codes.
    static constexpr index_t padded(index_t steps) { return (steps + 3) / 4 * 4; }
};

/// The activations of some tokens between the products: for each block of 16 tokens, the numbers
/// [I][16] in T, and the largest magnitudes as bits of floats.
template <class T>
struct TokenLanes {
    T* values;
    std::uint32_t* largest; ///< [blocks * 16]
    index_t depth;

    static constexpr index_t bytes(index_t rows, index_t depth) {
        return blocks_of_16(rows) * (line_bytes + (depth + 1) / 2 * 32 * index_t(sizeof(T)));
    }
    static TokenLanes in(char* memory, index_t rows, index_t depth) {
        auto* const largest = reinterpret_cast<std::uint32_t*>(memory);
        index_t const numbers = blocks_of_16(rows) * 16;
        std::memset(memory, 0, std::size_t(numbers) * sizeof(*largest));
        return {reinterpret_cast<T*>(memory + numbers * 4), largest, depth};
    }
    T* at(index_t block, index_t k) const { return values + (block * depth + k) * 16; }
};

/// What turns sums of 16 tokens with rows of weights into numbers.
struct SumScales {
    float const* tokens;         ///< a scale a token
    std::int32_t const* offsets; ///< and what unsigned weights added to its sums
    std::uint8_t const* rows;    ///< a scale a row, four bytes each
    float const* bias;           ///< a number a row, or null
};

} // namespace semoe::ops::cpu
