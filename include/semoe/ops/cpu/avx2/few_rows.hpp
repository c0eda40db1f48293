#pragma once

#include "semoe/ops/cpu/avx2/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx2 {

/// Up to four tokens by whole panels of codes, decoded in registers. Sums of bytes are exact, so
/// their order is free, and lanes may run along the depth.
template <class Format>
class FewRows {
public:
    FewRows(QuantizedRows<Format> const& w, TokenTiles const& x)
      : w_(w)
      , tokens_(x) {}

    /// Sums of both streams with the tokens, as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for (int s = 0; s < 2 && w_.panel_rows(s, panel) > 0; ++s)
            for (index_t r = 0; r < tile_rows; r += height) {
                auto const* codes = w_.panel_codes(s, panel) + r * line_bytes;
                auto const* scales = w_.group_scales(s, panel) + r * 4;
                float* const to = results + s * tile_floats + r * 16;
                tokens_.few == 1   ? rows<1>(codes, scales, fetch, to)
                : tokens_.few == 2 ? rows<2>(codes, scales, fetch, to)
                                   : rows<4>(codes, scales, fetch, to);
            }
    }

private:
    static constexpr index_t height = 2; ///< rows at a time

    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_NOINLINE void rows(std::uint8_t const* codes, std::uint8_t const* scales,
                                        Fetch& shared_fetch, float* results) const {
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? 1 : 0;
        __m256i sums[height][Tokens] = {};
        char const* tokens = tokens_.few_lines;
        for (index_t c = Format::chunks(w_.depth); c > 0; --c) {
            fetch.some(fetched);
            row<Tokens>(codes, scales, tokens, sums[0]);
            fetch.some(fetched);
            row<Tokens>(codes + line_bytes, scales + 4, tokens, sums[1]);
            codes += tile_bytes;
            scales += line_bytes;
            tokens += 2 * Tokens * line_bytes;
        }
        store_totals(sums[0], results, std::make_integer_sequence<index_t, Tokens>{});
        store_totals(sums[1], results + 16, std::make_integer_sequence<index_t, Tokens>{});
        shared_fetch = fetch;
    }
    /// Two lines of a row, in halves.
    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static void row(std::uint8_t const* codes, std::uint8_t const* scales,
                                            char const* tokens, __m256i (&sums)[Tokens]) {
        __m256i const first = load_half(codes), second = load_half(codes + 32);
        add<Tokens>(detail::decoded<Format, 0>(first, scales[0]), tokens, sums);
        add<Tokens>(detail::decoded<Format, 0>(second, scales[1]), tokens + 32, sums);
        tokens += Tokens * line_bytes;
        add<Tokens>(detail::decoded<Format, 1>(first, scales[2]), tokens, sums);
        add<Tokens>(detail::decoded<Format, 1>(second, scales[3]), tokens + 32, sums);
    }
    /// As weights without their 128, of which pairs of products fit 16 bits.
    template <index_t Tokens>
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, char const* tokens,
                                            __m256i (&sums)[Tokens]) {
        __m256i const w = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
        __m256i const size = _mm256_abs_epi8(w);
        add(w, size, tokens, sums[0]);
        if constexpr (Tokens >= 2) add(w, size, tokens + line_bytes, sums[1]);
        if constexpr (Tokens == 4) add(w, size, tokens + 2 * line_bytes, sums[2]);
        if constexpr (Tokens == 4) add(w, size, tokens + 3 * line_bytes, sums[3]);
    }
    SEMOE_AVX2 SEMOE_INLINE static void add(__m256i weights, __m256i size, char const* tokens,
                                            __m256i& sum) {
        __m256i const pairs =
            _mm256_maddubs_epi16(size, _mm256_sign_epi8(load_half(tokens), weights));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    /// Of a row by every token. No loop, whose index would keep sums in memory.
    template <index_t... T>
    SEMOE_AVX2 SEMOE_INLINE void store_totals(__m256i const (&sums)[sizeof...(T)], float* to,
                                              std::integer_sequence<index_t, T...>) const {
        std::int32_t const totals[] = {total(sums[T]) + tokens_.offsets[T]...};
        std::memcpy(to, totals, sizeof(totals));
    }
    SEMOE_AVX2 SEMOE_INLINE static std::int32_t total(__m256i sums) {
        alignas(32) std::int32_t lanes[8];
        store_half(lanes, sums);
        std::int32_t all = 0;
        for (std::int32_t const lane : lanes) all += lane;
        return all;
    }

    QuantizedRows<Format> const& w_;
    TokenTiles const& tokens_;
};

} // namespace semoe::ops::cpu::avx2
#endif
