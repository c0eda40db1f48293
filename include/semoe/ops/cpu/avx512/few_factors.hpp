#pragma once

#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/avx512/totals.hpp"
#include "semoe/ops/cpu/quantized/few.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// Few tokens, in groups of eight, by whole panels of half bytes, as factors, decoded in registers.
/// Lanes run along the depth, half a vector for each group of weights.
template <class Format>
class FewFactors {
public:
    FewFactors(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with those tokens, among all as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for_few_tokens(w_, panel, x_, results, [&](auto tokens, int s, index_t g, float* to) {
            tile<decltype(tokens)::value>(w_.panel_codes(s, panel), w_.group_scales(s, panel), g,
                                          fetch, to);
        });
    }

private:
    static constexpr auto& table = cpu::detail::factor_table<Format>;
    static_assert(table.sound);

    template <index_t Tokens>
    SEMOE_AVX512 SEMOE_NOINLINE void tile(std::uint8_t const* codes, std::uint8_t const* scales,
                                          index_t group, Fetch& shared_fetch,
                                          float* results) const {
        // So many rows at a time as there are registers for.
        constexpr index_t height = Tokens == 1 ? 8 : Tokens == 8 ? 2 : 4;
        constexpr std::make_integer_sequence<index_t, height> rows;
        std::int32_t const* const offsets = x_.offsets + x_.first_few + group * 8;
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(height) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m512i sums[height][Tokens] = {}, zeros[height] = {};
            std::uint8_t const *code = codes + r * line_bytes, *scale = scales + r * 4;
            char const *tokens = x_.few_group(group), *group_sums = x_.sums_of_group(group);
            for (index_t c = Format::chunks(w_.depth); c > 0; --c) {
                fetch.some(fetched);
                chunk<Tokens>(code, scale, tokens, group_sums, sums, zeros, rows);
                code += tile_bytes;
                scale += line_bytes;
                tokens += 2 * Tokens * line_bytes;
                group_sums += line_bytes;
            }
            alignas(64) std::uint32_t totals[16], zero[height][16];
            _mm512_store_si512(totals, totals_of(sums));
            std::memcpy(zero, zeros, sizeof(zero));
            take_off_zeros<Format, Tokens>(totals, zero, offsets);
            store_few<Tokens>(totals, height, results + r * 16);
        }
        shared_fetch = fetch;
    }
    template <index_t Tokens, index_t... R>
    SEMOE_AVX512 SEMOE_INLINE static void
    chunk(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
          char const* group_sums, __m512i (&sums)[sizeof...(R)][Tokens],
          __m512i (&zeros)[sizeof...(R)], std::integer_sequence<index_t, R...>) {
        (line(codes + R * line_bytes, scales + R * 4, tokens, group_sums, sums[R], zeros[R]), ...);
    }
    /// A line of codes, four groups; and their multipliers by the sums of tokens' groups.
    template <index_t Tokens>
    SEMOE_AVX512 SEMOE_INLINE static void
    line(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
         char const* group_sums, __m512i (&sums)[Tokens], __m512i& zeros) {
        constexpr std::make_integer_sequence<index_t, Tokens> all;
        __m512i const both = _mm512_loadu_si512(codes), by = multipliers(scales);
        add(detail::factors_of<Format, 0>(both, scales), two<0>(by), tokens, sums, all);
        add(detail::factors_of<Format, 1>(both, scales), two<2>(by), tokens + Tokens * line_bytes,
            sums, all);
        __m512i const four = _mm512_maskz_shuffle_epi8(
            ~__mmask64(0), by, _mm512_set1_epi64(std::int64_t(0x8003800280018000)));
        zeros = _mm512_add_epi32(zeros, _mm512_madd_epi16(four, _mm512_loadu_si512(group_sums)));
    }
    /// Those of four groups, as bytes, again and again.
    SEMOE_AVX512 SEMOE_INLINE static __m512i multipliers(std::uint8_t const* scales) {
        __m512i const by = spread(reinterpret_cast<char const*>(scales));
        if constexpr (Factors<Format>::scale_is_multiplier) {
            return by;
        } else {
            __m512i const of = _mm512_maskz_broadcast_i32x4(
                0xffff, _mm_load_si128(reinterpret_cast<__m128i const*>(table.short_multiplier)));
            return _mm512_maskz_shuffle_epi8(
                ~__mmask64(0), of, _mm512_maskz_min_epu8(~__mmask64(0), by, _mm512_set1_epi8(15)));
        }
    }
    /// In 16 bits, those of two groups that follow one another, each in half a vector.
    template <int First>
    SEMOE_AVX512 SEMOE_INLINE static __m512i two(__m512i by) {
        __m512i const places = _mm512_mask_mov_epi16(_mm512_set1_epi16(place(First)), ~0xffffu,
                                                     _mm512_set1_epi16(place(First + 1)));
        return _mm512_maskz_shuffle_epi8(~__mmask64(0), by, places);
    }
    /// For a shuffle of bytes: that one, and zero above.
    static constexpr std::int16_t place(int byte) { return std::int16_t(0x8000 | byte); }
    template <index_t... T>
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i factors, __m512i by, char const* tokens,
                                              __m512i (&sums)[sizeof...(T)],
                                              std::integer_sequence<index_t, T...>) {
        (add(factors, by, tokens + T * line_bytes, sums[T]), ...);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i factors, __m512i by, char const* token,
                                              __m512i& sum) {
        // Written out, or the compiler keeps sums in memory.
        [[maybe_unused]] __m512i product;
        __asm__("{vpmaddubsw %4, %2, %1|vpmaddubsw %1, %2, %4}\n\t"
                "{vpmaddwd %3, %1, %1|vpmaddwd %1, %1, %3}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+v"(sum), "=&v"(product)
                : "v"(factors), "v"(by), "m"(*reinterpret_cast<__m512i const*>(token)));
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx512
#endif
