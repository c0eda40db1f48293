#pragma once

#include "semoe/core/view.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu {

/// So few tokens are multiplied line by line where codes need decoding and the processor has dot
/// products of bytes: beside AMX, from L2, 1, 2 and 4 tokens took 1.26, 1.40 and 1.80 ns a line,
/// and tiles 2.3.
inline constexpr index_t few_tokens = 4;

/// Tokens as a product's columns: tiles of words [blocks of 16 tokens][steps], and numbers a token.
struct TokenTiles {
    float* scales;         ///< [blocks * 16], of ByteProducts
    std::int32_t* offsets; ///< [blocks * 16], what the unsigned weights add to each sum
    char* words;
    char* few; ///< the first few tokens as lines, [steps][few_tokens][64], or null

    /// Bytes for that many tokens.
    static constexpr index_t bytes(index_t rows, index_t steps) {
        return blocks_of_16(rows) * (2 * line_bytes + steps * tile_bytes) +
               padded(steps) * few_tokens * line_bytes;
    }
    static TokenTiles in(char* memory, index_t rows, index_t steps, bool few) {
        index_t const numbers = blocks_of_16(rows) * line_bytes;
        char* const words = memory + 2 * numbers;
        return {reinterpret_cast<float*>(memory), reinterpret_cast<std::int32_t*>(memory + numbers),
                words, few ? words + blocks_of_16(rows) * steps * tile_bytes : nullptr};
    }
    /// Words of the first block to lines, where they are wanted; zeros beyond the last step.
    SEMOE_LINES void spread(index_t steps) const {
        if (!few) return;
        char* to = few;
        for (index_t s = 0; s < padded(steps); ++s, to += few_tokens * line_bytes) {
            __m512i x[16] = {};
            for (index_t i = 0; i < 16 && s < steps; ++i)
                x[i] = _mm512_load_si512(words + s * tile_bytes + i * line_bytes);
            lines::transpose_words(x);
            for (index_t t = 0; t < few_tokens; ++t) _mm512_store_si512(to + t * line_bytes, x[t]);
        }
    }

private:
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

namespace detail {

inline constexpr std::uint32_t magnitude_bits = 0x7fffffffu;

SEMOE_LINES SEMOE_INLINE __m512i magnitude(__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(int(magnitude_bits)));
}
/// Into bytes of 127 at most; what is not finite makes the scale NaN.
struct ByteScales {
    __m512 scale, inverse;

    /// @param largest  magnitudes, as bits of floats
    SEMOE_LINES SEMOE_INLINE explicit ByteScales(__m512i largest) {
        __m512 const most = _mm512_castsi512_ps(largest), limit = _mm512_set1_ps(127);
        __m512 const wanted = _mm512_div_ps(most, limit);
        __mmask16 const usable =
            _mm512_cmp_ps_mask(wanted, _mm512_set1_ps(1.17549435e-38f), _CMP_GE_OQ);
        __mmask16 const finite = _mm512_cmplt_epu32_mask(largest, _mm512_set1_epi32(0x7f800000));
        inverse = _mm512_maskz_div_ps(__mmask16(usable & finite), limit, most);
        scale = _mm512_mask_blend_ps(finite, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)),
                                     _mm512_maskz_mov_ps(usable, wanted));
    }
};
/// The sums of four bytes of every word.
SEMOE_LINES SEMOE_INLINE __m512i sums_of_words(__m512i words) {
    __m512i const pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), words);
    return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
SEMOE_LINES SEMOE_INLINE __m512i rounded(__m512 x, __m512 inverse) {
    return _mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(x, inverse));
}
/// The largest magnitude of a row, as bits of a float.
template <class T>
SEMOE_LINES std::uint32_t largest_of_row(T const* row, index_t n) {
    __m512i most = _mm512_setzero_si512();
    for (index_t c = 0; c < n; c += 16)
        most = _mm512_maskz_max_epu32(0xffff, most, magnitude(lines::load_16(row + c, n - c)));
    alignas(64) std::uint32_t lanes[16];
    _mm512_store_si512(lanes, most);
    std::uint32_t all = 0;
    for (std::uint32_t const lane : lanes) all = max(all, lane);
    return all;
}
SEMOE_LINES inline std::uint32_t largest_of_row(bf16 const* row, index_t n) {
    __m512i most = _mm512_setzero_si512();
    __m512i const mask = _mm512_set1_epi16(0x7fff);
    for (index_t c = 0; c < n; c += 32)
        most =
            _mm512_maskz_max_epu16(~0u, most, _mm512_and_si512(lines::load(row + c, n - c), mask));
    alignas(64) std::uint16_t lanes[32];
    _mm512_store_si512(lanes, most);
    std::uint16_t all = 0;
    for (std::uint16_t const lane : lanes) all = max(all, lane);
    return std::uint32_t(all) << 16;
}

} // namespace detail

/// Products of weights in unsigned bytes, 128 too large, and tokens in signed bytes, each token by
/// a scale of its own. Sums are exact, so every instruction set has the same bits.
struct ByteProducts {
    static constexpr index_t step = 64; ///< elements of the depth that one step takes
    static constexpr index_t steps(index_t depth) { return (depth + step - 1) / step; }

    /// Rows of T become columns.
    template <class T>
    SEMOE_LINES static void pack(HostRows<T> const& m, TokenTiles const& to) {
        char* words = to.words;
        for (index_t block = 0; block < blocks_of_16(m.rows); ++block) {
            alignas(64) std::uint32_t most[16] = {};
            alignas(64) float inverse[16];
            for (index_t i = 0; i < 16 && block * 16 + i < m.rows; ++i)
                most[i] = detail::largest_of_row(m.row(block * 16 + i), m.cols);
            detail::ByteScales const scales(_mm512_load_si512(most));
            _mm512_store_ps(to.scales + block * 16, scales.scale);
            _mm512_store_ps(inverse, scales.inverse);
            __m512i sums = _mm512_setzero_si512();
            for (index_t c = 0; c < m.cols; c += step, words += tile_bytes) {
                __m512i x[16];
                for (index_t i = 0; i < 16; ++i)
                    x[i] = block * 16 + i < m.rows ? line(m.row(block * 16 + i) + c, m.cols - c,
                                                          _mm512_set1_ps(inverse[i]))
                                                   : _mm512_setzero_si512();
                lines::transpose_words(x);
                for (index_t i = 0; i < 16; ++i) {
                    _mm512_store_si512(words + i * line_bytes, x[i]);
                    sums = _mm512_add_epi32(sums, detail::sums_of_words(x[i]));
                }
            }
            store_offsets(to, block, sums);
        }
        to.spread(steps(m.cols));
    }
    /// Lanes become columns.
    template <class T>
    SEMOE_LINES static void pack(TokenLanes<T> const& m, index_t rows, TokenTiles const& to) {
        for (index_t block = 0; block < blocks_of_16(rows); ++block) {
            // As they are after rounding to T.
            alignas(64) T most[16];
            lines::store_16(most, 16,
                            _mm512_castsi512_ps(_mm512_load_si512(m.largest + block * 16)));
            detail::ByteScales const scales(_mm512_castps_si512(lines::load_16(most, 16)));
            _mm512_store_ps(to.scales + block * 16, scales.scale);
            __m512i sums = _mm512_setzero_si512();
            char* words = to.words + block * steps(m.depth) * tile_bytes;
            T const* from = m.at(block, 0);
            for (index_t k = 0; k < steps(m.depth) * step; k += 4, words += line_bytes) {
                __m512i word = _mm512_setzero_si512();
                for (index_t i = min(index_t(4), m.depth - k) - 1; i >= 0; --i) {
                    __m512i const byte =
                        detail::rounded(lines::load_16(from + (k + i) * 16, 16), scales.inverse);
                    word = _mm512_or_si512(_mm512_maskz_slli_epi32(0xffff, word, 8),
                                           _mm512_and_si512(byte, _mm512_set1_epi32(0xff)));
                }
                _mm512_store_si512(words, word);
                sums = _mm512_add_epi32(sums, detail::sums_of_words(word));
            }
            store_offsets(to, block, sums);
        }
        to.spread(steps(m.depth));
    }
    /// Sums of 16 tokens with one row of weights to numbers.
    SEMOE_LINES SEMOE_INLINE static __m512 number(float const* sums, TokenTiles const& tokens,
                                                  index_t block, std::uint8_t const* row_scales) {
        __m512i const exact = _mm512_sub_epi32(_mm512_load_si512(sums),
                                               _mm512_load_si512(tokens.offsets + block * 16));
        __m512 const scale = _mm512_mul_ps(_mm512_load_ps(tokens.scales + block * 16),
                                           _mm512_set1_ps(quant::detail::load_float(row_scales)));
        return _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, exact), scale);
    }

private:
    template <class T>
    SEMOE_LINES SEMOE_INLINE static __m512i line(T const* row, index_t n, __m512 inverse) {
        __m512i bytes = _mm512_setzero_si512();
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 0, inverse), 0);
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 16, inverse), 1);
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 32, inverse), 2);
        return _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 48, inverse), 3);
    }
    template <class T>
    SEMOE_LINES SEMOE_INLINE static __m128i part(T const* row, index_t n, index_t at,
                                                 __m512 inverse) {
        return _mm512_maskz_cvtepi32_epi8(
            0xffff, detail::rounded(lines::load_16(row + at, n - at), inverse));
    }
    SEMOE_LINES SEMOE_INLINE static void store_offsets(TokenTiles const& to, index_t block,
                                                       __m512i sums) {
        _mm512_store_si512(to.offsets + block * 16, _mm512_maskz_slli_epi32(0xffff, sums, 7));
    }
};

} // namespace semoe::ops::cpu
#endif
