#pragma once

#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/few.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// Few tokens, in groups of eight, by whole panels of bytes. Their sums are exact, so the order is
/// free, and lanes may run along the depth.
class FewBytes {
public:
    FewBytes(QuantizedRows<quant::Int8> const& w, TokenTiles const& x)
      : w_(w)
      , x_(x) {}

    /// Sums of both streams with those tokens, among all as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for_few_tokens(w_, panel, x_, results, [&](auto tokens, int s, index_t g, float* to) {
            tile<decltype(tokens)::value>(w_.panel_codes(s, panel), g, fetch, to);
        });
    }

private:
    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_NOINLINE void tile(std::uint8_t const* codes, index_t group,
                                        Fetch& shared_fetch, float* results) const {
        // So many rows at a time as make four or eight sums.
        constexpr index_t height = Tokens == 1 ? 4 : Tokens == 8 ? 1 : 2;
        constexpr std::make_integer_sequence<index_t, height> rows;
        std::int32_t const* const offsets = x_.offsets + x_.first_few + group * 8;
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(height) : 0;
        for (index_t r = 0; r < tile_rows; r += height) {
            __m256i sums[height][Tokens] = {};
            std::uint8_t const* code = codes + r * line_bytes;
            char const* tokens = x_.few_group(group);
            for (index_t steps = byte_steps(w_.depth); steps > 0; --steps) {
                fetch.some(fetched);
                step<Tokens>(code, tokens, sums, rows);
                code += tile_bytes;
                tokens += Tokens * line_bytes;
            }
            std::int32_t totals[height * Tokens];
            detail::store_totals(sums, totals);
            for (index_t i = 0; i < height * Tokens; ++i) totals[i] += offsets[i % Tokens];
            store_few<Tokens>(totals, height, results + r * 16);
        }
        shared_fetch = fetch;
    }
    /// A line of some rows, in halves.
    template <index_t Tokens, index_t... R>
    SEMOE_AVX2 SEMOE_INLINE static void step(std::uint8_t const* codes, char const* tokens,
                                             __m256i (&sums)[sizeof...(R)][Tokens],
                                             std::integer_sequence<index_t, R...>) {
        constexpr std::make_integer_sequence<index_t, Tokens> all;
        ((add(load_half(codes + R * line_bytes), tokens, sums[R], all),
          add(load_half(codes + R * line_bytes + 32), tokens + 32, sums[R], all)),
         ...);
    }
    /// As weights without their 128, of which pairs of products fit 16 bits.
    template <index_t... T>
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, char const* tokens,
                                            __m256i (&sums)[sizeof...(T)],
                                            std::integer_sequence<index_t, T...>) {
        __m256i const w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        __m256i const size = _mm256_abs_epi8(w);
        (add(w, size, load_half(tokens + T * line_bytes), sums[T]), ...);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, __m256i size, __m256i token,
                                            __m256i& sum) {
        // Written out, or the compiler keeps sums in memory.
        __asm__("{vpsignb %2, %1, %1|vpsignb %1, %1, %2}\n\t"
                "vpmaddubsw %1, %3, %1\n\t"
                "{vpmaddwd %4, %1, %1|vpmaddwd %1, %1, %4}\n\t"
                "{vpaddd %1, %0, %0|vpaddd %0, %0, %1}"
                : "+x"(sum), "+&x"(token)
                : "x"(weights), "x"(size), "xm"(_mm256_set1_epi16(1)));
    }

    QuantizedRows<quant::Int8> const& w_;
    TokenTiles const& x_;
};

} // namespace semoe::ops::cpu::avx2
#endif
