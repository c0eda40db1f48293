#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/avx2/lines.hpp"
#include "semoe/ops/cpu/quantized/decode.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"

#if SEMOE_X86
#include <bit>
#include <utility>

namespace semoe::ops::cpu::avx2 {

namespace detail {

SEMOE_AVX2 SEMOE_INLINE __m256i magnitude(__m256 x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
/// Eight numbers as bytes, each in the lowest byte of a word.
SEMOE_AVX2 SEMOE_INLINE __m256i rounded(__m256 x, __m256 inverse) {
    return _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)), _mm256_set1_epi32(255));
}
template <class T>
SEMOE_AVX2 float largest_of_row(T const* row, index_t n) {
    __m256i most = _mm256_setzero_si256();
    index_t c = 0;
    for (; c + 8 <= n; c += 8) most = _mm256_max_epu32(most, magnitude(Avx2Kernels::load(row + c)));
    alignas(32) std::uint32_t lanes[8];
    store_half(lanes, most);
    std::uint32_t all = 0;
    for (std::uint32_t const lane : lanes) all = max(all, lane);
    for (; c < n; ++c) all = max(all, std::bit_cast<std::uint32_t>(float(row[c])) & 0x7fffffffu);
    return std::bit_cast<float>(all);
}

/// Bytes' lower halves, or their upper ones, as factors of a group with that scale.
template <class Format, int Upper>
SEMOE_AVX2 SEMOE_INLINE __m256i factors_of(__m256i codes, std::uint8_t scale) {
    __m256i const table = _mm256_broadcastsi128_si256(_mm_load_si128(
        reinterpret_cast<__m128i const*>(cpu::detail::factor_table<Format>.factor[scale])));
    __m256i const lower = Upper == 0 ? codes : _mm256_srli_epi16(codes, 4);
    return _mm256_shuffle_epi8(table, _mm256_and_si256(lower, _mm256_set1_epi8(15)));
}
/// A total of eight lanes of every sum.
SEMOE_AVX2 SEMOE_INLINE __m128i totals(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i const halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
template <index_t N, index_t Rows, index_t Tokens>
SEMOE_AVX2 SEMOE_INLINE __m256i nth(__m256i const (&sums)[Rows][Tokens]) {
    return sums[N / Tokens][N % Tokens];
}
/// No loop, whose index would keep sums in memory.
template <index_t Rows, index_t Tokens, index_t... Quads>
SEMOE_AVX2 SEMOE_INLINE void store_totals(__m256i const (&sums)[Rows][Tokens], void* to,
                                          std::integer_sequence<index_t, Quads...>) {
    (_mm_storeu_si128(static_cast<__m128i*>(to) + Quads,
                      totals(nth<4 * Quads>(sums), nth<4 * Quads + 1>(sums),
                             nth<4 * Quads + 2>(sums), nth<4 * Quads + 3>(sums))),
     ...);
}
/// Of so many as are four times any number.
template <index_t Rows, index_t Tokens>
SEMOE_AVX2 SEMOE_INLINE void store_totals(__m256i const (&sums)[Rows][Tokens], void* to) {
    store_totals(sums, to, std::make_integer_sequence<index_t, Rows * Tokens / 4>{});
}

} // namespace detail

/// What ops/cpu/quantized/products.hpp asks of an instruction set.
struct ByteLines {
    template <class T>
    SEMOE_AVX2 static void pack(HostRows<T> const& m, TokenTiles const& to) {
        index_t const steps = byte_steps(m.cols);
        for (index_t block = 0; block < blocks_of_16(m.rows); ++block) {
            float inverse[16];
            for (index_t i = 0; i < 16; ++i) {
                index_t const r = block * 16 + i;
                ByteScale const s(r < m.rows ? detail::largest_of_row(m.row(r), m.cols) : 0);
                to.scales[r] = s.scale;
                inverse[i] = s.inverse;
            }
            char* words = to.words + block * steps * tile_bytes;
            for (index_t c = 0; c < m.cols; c += line_bytes, words += tile_bytes) {
                alignas(64) char rows[tile_bytes] = {};
                for (index_t i = 0; i < min(m.rows - block * 16, tile_rows); ++i)
                    byte_line(m.row(block * 16 + i) + c, m.cols - c, inverse[i],
                              rows + i * line_bytes);
                transpose_words(rows, line_bytes, words);
            }
            store_sums(to, block, steps);
        }
        spread(to, steps);
    }
    template <class T>
    SEMOE_AVX2 static void pack(TokenLanes<T> const& m, index_t rows, TokenTiles const& to) {
        index_t const steps = byte_steps(m.depth);
        for (index_t block = 0; block < blocks_of_16(rows); ++block) {
            alignas(32) float inverse[16];
            for (index_t i = 0; i < 16; ++i) {
                // As it is after rounding to T.
                T const most(std::bit_cast<float>(m.largest[block * 16 + i]));
                ByteScale const s{float(most)};
                to.scales[block * 16 + i] = s.scale;
                inverse[i] = s.inverse;
            }
            char* words = to.words + block * steps * tile_bytes;
            for (index_t half = 0; half < 2; ++half) {
                __m256 const by = _mm256_load_ps(inverse + half * 8);
                T const* const from = m.at(block, 0) + half * 8;
                for (index_t k = 0; k < steps * line_bytes; k += 4) {
                    __m256i word = _mm256_setzero_si256();
                    for (index_t i = min(index_t(4), m.depth - k) - 1; i >= 0; --i)
                        word = _mm256_or_si256(
                            _mm256_slli_epi32(word, 8),
                            detail::rounded(Avx2Kernels::load(from + (k + i) * 16), by));
                    store_half(words + k / 4 * line_bytes + half * 32, word);
                }
            }
            store_sums(to, block, steps);
        }
        spread(to, steps);
    }
    SEMOE_AVX2 static void numbers_of(SumScales const& s, index_t rows, float* sums) {
        for (index_t r = 0; r < rows; ++r, sums += 16) {
            __m256 const row = _mm256_set1_ps(quant::detail::load_float(s.rows + 4 * r));
            for (index_t half = 0; half < 16; half += 8) {
                __m256i const exact =
                    _mm256_sub_epi32(load_half(sums + half), load_half(s.offsets + half));
                __m256 number = _mm256_mul_ps(_mm256_cvtepi32_ps(exact),
                                              _mm256_mul_ps(_mm256_loadu_ps(s.tokens + half), row));
                if (s.bias) number = _mm256_add_ps(number, _mm256_set1_ps(s.bias[r]));
                _mm256_storeu_ps(sums + half, number);
            }
        }
    }
    SEMOE_AVX2 static void keep_largest(float const* rows, index_t n, std::uint32_t* largest) {
        for (index_t half = 0; half < 16; half += 8) {
            __m256i most = load_half(largest + half);
            for (index_t r = 0; r < n; ++r)
                most = _mm256_max_epu32(most,
                                        detail::magnitude(_mm256_loadu_ps(rows + r * 16 + half)));
            store_half(largest + half, most);
        }
    }

private:
    /// Words of few tokens to lines, too, and sums of their groups; zeros beyond the last step.
    SEMOE_AVX2 static void spread(TokenTiles const& t, index_t steps) {
        for (index_t group = 0; group < few_groups(t.few); ++group) {
            index_t const bytes = lines_of_group(t.few, group) * line_bytes;
            index_t const block = t.first_few / 16 + group / 2, half = group % 2;
            char* to = t.few_group(group);
            for (index_t s = 0; s < steps; ++s, to += bytes) {
                alignas(64) char lines[tile_bytes];
                transpose_words(t.words + (block * steps + s) * tile_bytes, line_bytes, lines);
                std::memcpy(to, lines + half * 8 * line_bytes, std::size_t(bytes));
            }
            std::memset(to, 0, std::size_t((TokenTiles::padded(steps) - steps) * bytes));
            spread_sums(t.group_sums + block * 2 * steps * line_bytes + half * 32, 2 * steps,
                        t.sums_of_group(group));
        }
    }
    /// Pairs of eight tokens' sums to one for each of four groups.
    SEMOE_AVX2 static void spread_sums(char const* pairs, index_t groups, char* to) {
        for (index_t g = 0; g < (groups + 7) / 8 * 8; g += 4, to += line_bytes) {
            __m256i sums[4] = {};
            for (index_t i = 0; i < min(index_t(4), groups - g); ++i, pairs += line_bytes)
                sums[i] = _mm256_madd_epi16(load_half(pairs), _mm256_set1_epi16(1));
            __m256i const a = _mm256_packs_epi32(sums[0], sums[2]), // of 0 to 3, 4 to 7 in halves
                b = _mm256_packs_epi32(sums[1], sums[3]);
            __m256i const first = _mm256_unpacklo_epi16(a, b), last = _mm256_unpackhi_epi16(a, b);
            __m256i const low = _mm256_unpacklo_epi32(first, last),
                          high = _mm256_unpackhi_epi32(first, last);
            store_half(to, _mm256_permute2x128_si256(low, high, 0x20));
            store_half(to + 32, _mm256_permute2x128_si256(low, high, 0x31));
        }
    }
    /// The first n numbers of a row as 64 bytes.
    template <class T>
    SEMOE_AVX2 SEMOE_INLINE static void byte_line(T const* row, index_t n, float inverse,
                                                  char* to) {
        T rest[line_bytes] = {};
        if (n < line_bytes) {
            std::memcpy(rest, row, std::size_t(n) * sizeof(T));
            row = rest;
        }
        __m256 const by = _mm256_set1_ps(inverse);
        __m256i const order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for (index_t half = 0; half < 2; ++half, row += 32, to += 32) {
            __m256i const low =
                _mm256_packus_epi32(detail::rounded(Avx2Kernels::load(row), by),
                                    detail::rounded(Avx2Kernels::load(row + 8), by));
            __m256i const high =
                _mm256_packus_epi32(detail::rounded(Avx2Kernels::load(row + 16), by),
                                    detail::rounded(Avx2Kernels::load(row + 24), by));
            store_half(to, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
        }
    }
    /// Sums of a block's groups of eight words, and what weights 128 too large add to all of them.
    SEMOE_AVX2 static void store_sums(TokenTiles const& to, index_t block, index_t steps) {
        for (index_t half = 0; half < 2; ++half) {
            char const* word = to.words + block * steps * tile_bytes + half * 32;
            char* sums = to.group_sums + block * steps * 2 * line_bytes + half * 32;
            __m256i all = _mm256_setzero_si256();
            for (index_t group = 0; group < 2 * steps; ++group, sums += line_bytes) {
                __m256i pairs = _mm256_setzero_si256();
                for (index_t i = 0; i < 8; ++i, word += line_bytes)
                    pairs = _mm256_add_epi16(
                        pairs, _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_half(word)));
                store_half(sums, pairs);
                all = _mm256_add_epi32(all, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            store_half(to.offsets + block * 16 + half * 8, _mm256_slli_epi32(all, 7));
        }
    }
};

} // namespace semoe::ops::cpu::avx2
#endif
