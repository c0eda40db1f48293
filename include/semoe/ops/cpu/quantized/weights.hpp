#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"

#if SEMOE_X86
#include <array>
#include <limits>

namespace semoe::ops::cpu {

/// The rows of a quantised matrix as a product takes them: panels of 32, sixteen from each of two
/// streams.
template <class Format>
struct QuantizedRows {
    std::uint8_t const* codes[2] = {}; ///< of the streams' first rows
    std::uint8_t const* scales[2] = {};
    index_t depth = 0;
    index_t rows[2] = {}; ///< in each stream, counted from its first
    index_t advance = 32; ///< rows from one panel to the next, in both streams

    /// All rows of one matrix [N,K].
    static QuantizedRows of(std::uint8_t const* codes, std::uint8_t const* scales, index_t n,
                            index_t k) {
        return beside(codes, scales, tile_rows, k, {n, n - tile_rows}, 2 * tile_rows);
    }
    /// Two matrices [N,K] beside each other, the second right after the first.
    static QuantizedRows of_two(std::uint8_t const* codes, std::uint8_t const* scales, index_t n,
                                index_t k) {
        return beside(codes, scales, n, k, {n, n}, tile_rows);
    }
    index_t row_bytes() const { return Format::code_bytes(depth); }
    index_t panels() const { return (rows[0] + advance - 1) / advance; }
    std::uint8_t const* panel(int s, index_t p) const {
        return codes[s] + p * advance * row_bytes();
    }
    std::uint8_t const* row_scales(int s, index_t p, index_t r) const {
        return scales[s] + (p * advance + r) * Format::scale_bytes(depth);
    }
    index_t panel_rows(int s, index_t p) const {
        return max(index_t(0), min(rows[s] - p * advance, tile_rows));
    }
    /// The same rows from panel p on.
    QuantizedRows from(index_t p) const {
        QuantizedRows rest = *this;
        for (int s = 0; s < 2; ++s) {
            rest.codes[s] = codes[s] ? panel(s, p) : nullptr;
            rest.scales[s] = scales[s] ? row_scales(s, p, 0) : nullptr;
            rest.rows[s] -= p * advance;
        }
        return rest;
    }

private:
    static QuantizedRows beside(std::uint8_t const* codes, std::uint8_t const* scales,
                                index_t second, index_t k, std::array<index_t, 2> rows,
                                index_t advance) {
        return {{codes, codes + second * Format::code_bytes(k)},
                {scales, scales + second * Format::scale_bytes(k)},
                k,
                {rows[0], rows[1]},
                advance};
    }
};

/// What a format's rows are multiplied as: a specialisation has
///     using Products = ...;                 // ops/cpu/quantized/products.hpp
///     static constexpr bool in_place;       // whether codes are operands as they lie
///     __m512i line(codes, scales, k, n);    // n elements of a row from k on, as a line; k is a
///                                           // multiple of what a line holds
template <class Format>
struct Decode;

struct ByteProducts;
struct Bf16Products;

template <>
struct Decode<quant::Int8> {
    using Products = ByteProducts;
    static constexpr bool in_place = true;
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes, std::uint8_t const*,
                                                 index_t k, index_t n) {
        return n >= 64 ? _mm512_loadu_si512(codes + k)
                       : _mm512_maskz_loadu_epi8((std::uint64_t(1) << n) - 1, codes + k);
    }
};

namespace detail {

/// What the 16 codes mean under each multiplier, as an unsigned byte of Int8.
struct alignas(64) Int4Table {
    std::uint8_t code[256][16] = {};
    constexpr Int4Table() {
        for (int m = 0; m < 256; ++m)
            for (int c = 0; c < 16; ++c) code[m][c] = std::uint8_t(quant::Int4::steps(c, m) + 128);
    }
};
inline constexpr Int4Table int4_table;

/// What the 16 codes mean under each scale, in bf16.
struct alignas(64) Mxfp4Table {
    std::uint16_t number[256][16] = {};
    constexpr Mxfp4Table() {
        for (int s = 0; s < 256; ++s)
            for (int c = 0; c < 16; ++c)
                number[s][c] = product(quant::Mxfp4::e2m1(c), quant::Mxfp4::e8m0(s)).bits;
    }
    /// Constant expressions may not overflow.
    static constexpr bf16 product(float x, float scale) {
        float const quarter = x / 4 * scale, infinity = std::numeric_limits<float>::infinity();
        if (quarter >= 0x1p126f) return bf16(infinity);
        if (quarter <= -0x1p126f) return bf16(-infinity);
        return bf16(4 * quarter);
    }
};
inline constexpr Mxfp4Table mxfp4_table;

} // namespace detail

template <>
struct Decode<quant::Int4> {
    using Products = ByteProducts;
    static constexpr bool in_place = false;
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes,
                                                 std::uint8_t const* scales, index_t k, index_t n) {
        std::uint8_t const* const at = codes + k / 2;
        std::uint8_t const* const multiplier = scales + 4 + k / quant::group_size;
        bool const two = n > quant::group_size;
        __m256i const bytes =
            two ? _mm256_loadu_si256(reinterpret_cast<__m256i const*>(at))
                : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(at)));
        __m512i const wide = _mm512_maskz_cvtepu8_epi16(~0u, bytes);
        // Both halves of a byte side by side: (wide | wide << 4) & 0x0f0f.
        __m512i const halves = _mm512_ternarylogic_epi32(
            wide, _mm512_maskz_slli_epi16(~0u, wide, 4), _mm512_set1_epi8(15), 0xa8);
        __m512i const table = _mm512_mask_broadcast_i32x4(
            _mm512_maskz_broadcast_i32x4(0xffff, table_of(multiplier[0])), 0xff00,
            table_of(multiplier[two ? 1 : 0]));
        return _mm512_maskz_shuffle_epi8(~std::uint64_t(0), table, halves);
    }

private:
    SEMOE_LINES SEMOE_INLINE static __m128i table_of(std::uint8_t multiplier) {
        return _mm_load_si128(
            reinterpret_cast<__m128i const*>(detail::int4_table.code[multiplier]));
    }
};

template <>
struct Decode<quant::Mxfp4> {
    using Products = Bf16Products;
    static constexpr bool in_place = false;
    SEMOE_LINES SEMOE_INLINE static __m512i line(std::uint8_t const* codes,
                                                 std::uint8_t const* scales, index_t k, index_t) {
        __m512i const words = _mm512_maskz_cvtepu8_epi32(
            0xffff, _mm_loadu_si128(reinterpret_cast<__m128i const*>(codes + k / 2)));
        // The lower half of each byte counts in the lower half of its word, the upper in the upper;
        // of what else is there the permutation sees one bit, by a table that repeats itself.
        __m512i const halves = _mm512_or_si512(words, _mm512_maskz_slli_epi32(0xffff, words, 12));
        __m256i const table = _mm256_load_si256(reinterpret_cast<__m256i const*>(
            detail::mxfp4_table.number[scales[k / quant::group_size]]));
        return _mm512_maskz_permutexvar_epi16(~0u, halves,
                                              _mm512_maskz_broadcast_i64x4(0xff, table));
    }
};

/// Some steps of a panel as tiles of rows [two streams][steps]. Rows that do not exist stay what
/// they were: nobody looks at their results.
/// @param fetch  asked for as many bytes as are read
template <class Format>
SEMOE_LINES void decode_panel(QuantizedRows<Format> const& w, index_t p, index_t first,
                              index_t steps, char* tiles, Fetch& shared_fetch) {
    using D = Decode<Format>;
    constexpr index_t width = D::Products::step;
    constexpr index_t together = line_bytes / Format::code_bytes(width); // lines from one of memory
    Fetch fetch = shared_fetch;
    int const fetched = fetch.wanted() ? 1 : 0;
    index_t const whole = min(steps, w.depth / width - first) / together * together;
    for (int s = 0; s < 2; ++s, tiles += steps * tile_bytes)
        for (index_t r = 0; r < w.panel_rows(s, p); ++r) {
            std::uint8_t const* const codes = w.panel(s, p) + r * w.row_bytes();
            std::uint8_t const* const scales = w.row_scales(s, p, r);
            char* to = tiles + r * line_bytes;
            index_t k = first * width;
            for (index_t n = 0; n < whole; n += together) {
                fetch.some(fetched);
                for (index_t i = 0; i < together; ++i, k += width, to += tile_bytes)
                    _mm512_store_si512(to, D::line(codes, scales, k, width));
            }
            for (index_t n = whole; n < steps; ++n, k += width, to += tile_bytes)
                _mm512_store_si512(to, D::line(codes, scales, k, min(width, w.depth - k)));
        }
    shared_fetch = fetch;
}

} // namespace semoe::ops::cpu
#endif
