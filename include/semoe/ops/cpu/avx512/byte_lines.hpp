#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/avx512/lines.hpp"
#include "semoe/ops/cpu/quantized/decode.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx512 {

namespace detail {

inline constexpr std::uint32_t magnitude_bits = 0x7fffffffu;

SEMOE_AVX512 SEMOE_INLINE __m512i magnitude(__m512 x) {
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(int(magnitude_bits)));
}
/// Into bytes of 127 at most; what is not finite makes the scale NaN.
struct ByteScales {
    __m512 scale, inverse;

    /// @param largest  magnitudes, as bits of floats
    SEMOE_AVX512 SEMOE_INLINE explicit ByteScales(__m512i largest) {
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
SEMOE_AVX512 SEMOE_INLINE __m512i sums_of_words(__m512i words) {
    __m512i const pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), words);
    return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
SEMOE_AVX512 SEMOE_INLINE __m512i rounded(__m512 x, __m512 inverse) {
    return _mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(x, inverse));
}
/// The largest magnitude of a row, as bits of a float.
template <class T>
SEMOE_AVX512 std::uint32_t largest_of_row(T const* row, index_t n) {
    __m512i most = _mm512_setzero_si512();
    for (index_t c = 0; c < n; c += 16)
        most = _mm512_maskz_max_epu32(0xffff, most, magnitude(load_16(row + c, n - c)));
    alignas(64) std::uint32_t lanes[16];
    _mm512_store_si512(lanes, most);
    std::uint32_t all = 0;
    for (std::uint32_t const lane : lanes) all = max(all, lane);
    return all;
}
SEMOE_AVX512 inline std::uint32_t largest_of_row(bf16 const* row, index_t n) {
    __m512i most = _mm512_setzero_si512();
    __m512i const mask = _mm512_set1_epi16(0x7fff);
    for (index_t c = 0; c < n; c += 32)
        most = _mm512_maskz_max_epu16(~0u, most, _mm512_and_si512(load(row + c, n - c), mask));
    alignas(64) std::uint16_t lanes[32];
    _mm512_store_si512(lanes, most);
    std::uint16_t all = 0;
    for (std::uint16_t const lane : lanes) all = max(all, lane);
    return std::uint32_t(all) << 16;
}
/// Line I of those that 64 bytes of half bytes hold, by the tables of their groups' scales.
/// @param table  table(scale), aligned to 16 bytes
template <int I, class Table>
SEMOE_AVX512 SEMOE_INLINE __m512i looked_up(__m512i both, std::uint8_t const* scales,
                                            Table const& table) {
    auto const of = [&](std::uint8_t scale) {
        return reinterpret_cast<__m128i const*>(table(scale));
    };
    constexpr int first = 2 * I; // of two groups
    __m512i const lower = I == 0 ? both : _mm512_maskz_srli_epi16(~0u, both, 4);
    __m512i const one = _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128(of(scales[first])));
    __m512i const tables =
        _mm512_mask_broadcast_i32x4(one, 0xff00, _mm_load_si128(of(scales[first + 1])));
    return _mm512_maskz_shuffle_epi8(~__mmask64(0), tables,
                                     _mm512_and_si512(lower, _mm512_set1_epi8(15)));
}
/// As bytes.
template <class Format, int I>
SEMOE_AVX512 SEMOE_INLINE __m512i decoded(__m512i both, std::uint8_t const* scales) {
    return looked_up<I>(both, scales, Decode<Format>::table);
}
/// As factors.
template <class Format, int I>
SEMOE_AVX512 SEMOE_INLINE __m512i factors_of(__m512i both, std::uint8_t const* scales) {
    return looked_up<I>(both, scales, [](std::uint8_t scale) {
        return cpu::detail::factor_table<Format>.factor[scale];
    });
}

} // namespace detail

/// What ops/cpu/quantized/products.hpp asks of an instruction set.
struct ByteLines {
    template <class T>
    SEMOE_AVX512 static void pack(HostRows<T> const& m, TokenTiles const& to) {
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
            for (index_t c = 0; c < m.cols; c += line_bytes, words += tile_bytes) {
                __m512i x[16];
                for (index_t i = 0; i < 16; ++i)
                    x[i] = block * 16 + i < m.rows ? line(m.row(block * 16 + i) + c, m.cols - c,
                                                          _mm512_set1_ps(inverse[i]))
                                                   : _mm512_setzero_si512();
                transpose_words(x);
                for (index_t i = 0; i < 16; ++i) {
                    _mm512_store_si512(words + i * line_bytes, x[i]);
                    sums = _mm512_add_epi32(sums, detail::sums_of_words(x[i]));
                }
            }
            store_offsets(to, block, sums);
        }
        spread(to, byte_steps(m.cols));
    }
    template <class T>
    SEMOE_AVX512 static void pack(TokenLanes<T> const& m, index_t rows, TokenTiles const& to) {
        for (index_t block = 0; block < blocks_of_16(rows); ++block) {
            // As they are after rounding to T.
            alignas(64) T most[16];
            store_16(most, 16, _mm512_castsi512_ps(_mm512_load_si512(m.largest + block * 16)));
            detail::ByteScales const scales(_mm512_castps_si512(load_16(most, 16)));
            _mm512_store_ps(to.scales + block * 16, scales.scale);
            __m512i sums = _mm512_setzero_si512();
            index_t const steps = byte_steps(m.depth);
            char* words = to.words + block * steps * tile_bytes;
            T const* from = m.at(block, 0);
            for (index_t k = 0; k < steps * line_bytes; k += 4, words += line_bytes) {
                __m512i word = _mm512_setzero_si512();
                for (index_t i = min(index_t(4), m.depth - k) - 1; i >= 0; --i) {
                    __m512i const byte =
                        detail::rounded(load_16(from + (k + i) * 16, 16), scales.inverse);
                    word = _mm512_or_si512(_mm512_maskz_slli_epi32(0xffff, word, 8),
                                           _mm512_and_si512(byte, _mm512_set1_epi32(0xff)));
                }
                _mm512_store_si512(words, word);
                sums = _mm512_add_epi32(sums, detail::sums_of_words(word));
            }
            store_offsets(to, block, sums);
        }
        spread(to, byte_steps(m.depth));
    }
    SEMOE_AVX512 static void numbers_of(SumScales const& s, index_t rows, float* sums) {
        for (index_t r = 0; r < rows; ++r, sums += 16) {
            __m512i const exact =
                _mm512_sub_epi32(_mm512_load_si512(sums), _mm512_load_si512(s.offsets));
            __m512 const scale =
                _mm512_mul_ps(_mm512_load_ps(s.tokens),
                              _mm512_set1_ps(quant::detail::load_float(s.rows + 4 * r)));
            __m512 number = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, exact), scale);
            if (s.bias) number = _mm512_add_ps(number, _mm512_set1_ps(s.bias[r]));
            _mm512_store_ps(sums, number);
        }
    }
    SEMOE_AVX512 static void keep_largest(float const* rows, index_t n, std::uint32_t* largest) {
        __m512i most = _mm512_load_si512(largest);
        for (index_t r = 0; r < n; ++r)
            most = _mm512_maskz_max_epu32(0xffff, most,
                                          detail::magnitude(_mm512_load_ps(rows + r * 16)));
        _mm512_store_si512(largest, most);
    }
    template <class Format>
    SEMOE_AVX512 static void decode_tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                         char* tiles, Fetch& shared_fetch) {
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < tile_rows; ++r, codes += line_bytes, scales += 4) {
            fetch.some(fetched);
            __m512i const both = _mm512_loadu_si512(codes);
            _mm512_store_si512(tiles + r * line_bytes, detail::decoded<Format, 0>(both, scales));
            _mm512_store_si512(tiles + tile_bytes + r * line_bytes,
                               detail::decoded<Format, 1>(both, scales));
        }
        shared_fetch = fetch;
    }

private:
    /// Words of the last, few tokens to lines; zeros beyond the last step.
    SEMOE_AVX512 static void spread(TokenTiles const& t, index_t steps) {
        index_t const padded = TokenTiles::padded(steps), first = t.first_few / 16;
        for (index_t block = 0; block < blocks_of_16(t.few); ++block)
            for (index_t s = 0; s < padded; ++s) {
                __m512i x[16] = {};
                char const* const words = t.words + ((first + block) * steps + s) * tile_bytes;
                for (index_t i = 0; i < 16 && s < steps; ++i)
                    x[i] = _mm512_load_si512(words + i * line_bytes);
                transpose_words(x);
                for (index_t half = 0; half < 2 && block * 16 + half * 8 < t.few; ++half) {
                    index_t const group = 2 * block + half, lines = lines_of_group(t.few, group);
                    char* const to = t.few_group(group) + s * lines * line_bytes;
                    for (index_t n = 0; n < lines; ++n)
                        _mm512_store_si512(to + n * line_bytes, x[half * 8 + n]);
                }
            }
    }
    template <class T>
    SEMOE_AVX512 SEMOE_INLINE static __m512i line(T const* row, index_t n, __m512 inverse) {
        __m512i bytes = _mm512_setzero_si512();
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 0, inverse), 0);
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 16, inverse), 1);
        bytes = _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 32, inverse), 2);
        return _mm512_maskz_inserti32x4(0xffff, bytes, part(row, n, 48, inverse), 3);
    }
    template <class T>
    SEMOE_AVX512 SEMOE_INLINE static __m128i part(T const* row, index_t n, index_t at,
                                                  __m512 inverse) {
        return _mm512_maskz_cvtepi32_epi8(0xffff,
                                          detail::rounded(load_16(row + at, n - at), inverse));
    }
    SEMOE_AVX512 SEMOE_INLINE static void store_offsets(TokenTiles const& to, index_t block,
                                                        __m512i sums) {
        _mm512_store_si512(to.offsets + block * 16, _mm512_maskz_slli_epi32(0xffff, sums, 7));
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
