#pragma once

#include "semoe/core/quant.hpp"
#include "semoe/ops/cpu/neon/lines.hpp"
#include "semoe/ops/cpu/quantized/decode.hpp"
#include "semoe/ops/cpu/quantized/tokens.hpp"

#if SEMOE_ARM
#include <bit>

namespace semoe::ops::cpu::neon {

namespace detail {

SEMOE_INLINE uint32x4_t magnitude(float32x4_t x) {
    return vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffffff));
}
SEMOE_INLINE int32x4_t rounded(float32x4_t x, float32x4_t inverse) {
    return vcvtnq_s32_f32(vmulq_f32(x, inverse));
}
SEMOE_INLINE int8x16_t load_bytes(char const* p) {
    return vld1q_s8(reinterpret_cast<std::int8_t const*>(p));
}
/// What a block's tokens add to sums with weights that are 128 too large.
inline void offsets_of(char const* words, index_t steps, std::int32_t* offsets) {
    int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (index_t i = 0; i < 16 * steps; ++i, words += line_bytes)
        for (index_t q = 0; q < 4; ++q)
            sums[q] = vaddq_s32(sums[q], vpaddlq_s16(vpaddlq_s8(load_bytes(words + 16 * q))));
    for (index_t q = 0; q < 4; ++q) vst1q_s32(offsets + 4 * q, vshlq_n_s32(sums[q], 7));
}

} // namespace detail

/// What ops/cpu/quantized/products.hpp asks of an instruction set.
struct ByteLines {
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
            char* words = to.words + block * steps * tile_bytes;
            for (index_t c = 0; c < m.cols; c += line_bytes, words += tile_bytes) {
                alignas(64) char rows[tile_bytes] = {};
                for (index_t i = 0; i < min(m.rows - block * 16, tile_rows); ++i)
                    byte_line(m.row(block * 16 + i) + c, m.cols - c, inverse[i],
                              rows + i * line_bytes);
                transpose_words(rows, line_bytes, words);
            }
            detail::offsets_of(to.words + block * steps * tile_bytes, steps,
                               to.offsets + block * 16);
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
            char* words = to.words + block * steps * tile_bytes;
            for (index_t k = 0; k < steps * line_bytes; k += 4, words += line_bytes)
                for (index_t q = 0; q < 16; q += 4) {
                    int32x4_t word = vdupq_n_s32(0);
                    for (index_t i = min(index_t(4), m.depth - k) - 1; i >= 0; --i)
                        word = vorrq_s32(
                            vshlq_n_s32(word, 8),
                            vandq_s32(detail::rounded(NeonKernels::load(m.at(block, k + i) + q),
                                                      vld1q_f32(inverse + q)),
                                      vdupq_n_s32(255)));
                    store_words(words + q * 4, vreinterpretq_u8_s32(word));
                }
            detail::offsets_of(to.words + block * steps * tile_bytes, steps,
                               to.offsets + block * 16);
        }
    }
    static void numbers_of(SumScales const& s, index_t rows, float* sums) {
        for (index_t r = 0; r < rows; ++r, sums += 16) {
            float const row = quant::detail::load_float(s.rows + 4 * r);
            for (index_t q = 0; q < 16; q += 4) {
                int32x4_t const exact = vsubq_s32(vreinterpretq_s32_u32(load_words(sums + q)),
                                                  vld1q_s32(s.offsets + q));
                float32x4_t number =
                    vmulq_f32(vcvtq_f32_s32(exact), vmulq_n_f32(vld1q_f32(s.tokens + q), row));
                if (s.bias) number = vaddq_f32(number, vdupq_n_f32(s.bias[r]));
                vst1q_f32(sums + q, number);
            }
        }
    }
    static void keep_largest(float const* rows, index_t n, std::uint32_t* largest) {
        for (index_t q = 0; q < 16; q += 4) {
            uint32x4_t most = vld1q_u32(largest + q);
            for (index_t r = 0; r < n; ++r)
                most = vmaxq_u32(most, detail::magnitude(vld1q_f32(rows + r * 16 + q)));
            vst1q_u32(largest + q, most);
        }
    }
    template <class Format>
    static void decode_tile(std::uint8_t const* codes, std::uint8_t const* scales, char* tiles,
                            Fetch& fetch) {
        auto* to = reinterpret_cast<std::uint8_t*>(tiles);
        int const fetched = fetch.wanted() ? 1 : 0;
        for (index_t r = 0; r < tile_rows; ++r, scales += 4) {
            fetch.some(fetched);
            for (index_t q = 0; q < 4; ++q, codes += 16, to += 16) {
                uint8x16_t const both = vld1q_u8(codes);
                vst1q_u8(to, vqtbl1q_u8(vld1q_u8(Decode<Format>::table(scales[q / 2])),
                                        vandq_u8(both, vdupq_n_u8(15))));
                vst1q_u8(to + tile_bytes,
                         vqtbl1q_u8(vld1q_u8(Decode<Format>::table(scales[2 + q / 2])),
                                    vshrq_n_u8(both, 4)));
            }
        }
    }

private:
    template <class T>
    static float largest_of_row(T const* row, index_t n) {
        uint32x4_t most = vdupq_n_u32(0);
        index_t c = 0;
        for (; c + 4 <= n; c += 4)
            most = vmaxq_u32(most, detail::magnitude(NeonKernels::load(row + c)));
        std::uint32_t all = vmaxvq_u32(most);
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
        auto const half = [by = vdupq_n_f32(inverse)](T const* from) {
            return vcombine_s16(vmovn_s32(detail::rounded(NeonKernels::load(from), by)),
                                vmovn_s32(detail::rounded(NeonKernels::load(from + 4), by)));
        };
        for (index_t i = 0; i < line_bytes; i += 8)
            vst1_s8(reinterpret_cast<std::int8_t*>(to + i), vmovn_s16(half(row + i)));
    }
};

} // namespace semoe::ops::cpu::neon
#endif
