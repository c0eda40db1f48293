#pragma once

#include "semoe/ops/cpu/avx512/byte_lines.hpp"
#include "semoe/ops/cpu/quantized/weights.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

/// Up to eight tokens by whole panels of codes, decoded in registers. Sums of bytes are exact, so
/// their order is free, and lanes may run along the depth.
template <class Format>
class FewRows {
public:
    FewRows(QuantizedRows<Format> const& w, TokenTiles const& x, index_t rows)
      : w_(w)
      , tokens_(x.few)
      , rows_(rows) {}

    /// Sums of both streams with the tokens, as a BlockKernel leaves them.
    void multiply(index_t panel, Fetch& fetch, float* results) const {
        for (int s = 0; s < 2 && w_.panel_rows(s, panel) > 0; ++s) {
            auto const* codes = w_.panel_codes(s, panel);
            auto const* scales = w_.group_scales(s, panel);
            float* const to = results + s * tile_floats;
            if (rows_ == 1)
                tile<1>(codes, scales, fetch, to);
            else if (rows_ == 2)
                tile<2>(codes, scales, fetch, to);
            else if (rows_ <= 4)
                tile<4>(codes, scales, fetch, to);
            else
                tile<8>(codes, scales, fetch, to);
        }
    }

private:
    static_assert(Decode<Format>::lines == 2);

    /// As many rows at a time as there are registers for, beside their sums.
    template <index_t Tokens>
    void tile(std::uint8_t const* codes, std::uint8_t const* scales, Fetch& fetch,
              float* results) const {
        constexpr index_t height = min(16 / Tokens, index_t(8));
        for (index_t r = 0; r < tile_rows; r += height)
            rows<Tokens>(codes + r * line_bytes, scales + r * 4, fetch, results + r * 16,
                         std::make_integer_sequence<index_t, height>{});
    }
    template <index_t Tokens, index_t... R>
    SEMOE_AVX512 SEMOE_NOINLINE void rows(std::uint8_t const* codes, std::uint8_t const* scales,
                                          Fetch& shared_fetch, float* results,
                                          std::integer_sequence<index_t, R...> all) const {
        Fetch fetch = shared_fetch;
        int const fetched = fetch.wanted() ? int(sizeof...(R)) : 0;
        __m512i sums[sizeof...(R)][Tokens] = {};
        char const* tokens = tokens_;
        for (index_t c = Format::chunks(w_.depth); c > 0; --c) {
            fetch.some(fetched);
            line<0>(codes, scales, tokens, sums, all,
                    std::make_integer_sequence<index_t, Tokens>{});
            line<1>(codes, scales, tokens + Tokens * line_bytes, sums, all,
                    std::make_integer_sequence<index_t, Tokens>{});
            codes += tile_bytes;
            scales += line_bytes;
            tokens += 2 * Tokens * line_bytes;
        }
        (store_totals(sums[R], results + R * 16, std::make_integer_sequence<index_t, Tokens>{}),
         ...);
        shared_fetch = fetch;
    }
    /// Line I of the rows by that of every token, which is loaded once for them all.
    template <int I, index_t... R, index_t... T>
    SEMOE_AVX512 SEMOE_INLINE static void
    line(std::uint8_t const* codes, std::uint8_t const* scales, char const* tokens,
         __m512i (&sums)[sizeof...(R)][sizeof...(T)], std::integer_sequence<index_t, R...> rows,
         std::integer_sequence<index_t, T...>) {
        __m512i const weights[] = {
            detail::decoded<Format, I>(codes + R * line_bytes, scales + R * 4)...};
        (token<T>(weights, _mm512_load_si512(tokens + T * line_bytes), sums, rows), ...);
    }
    template <index_t T, index_t Tokens, index_t... R>
    SEMOE_AVX512 SEMOE_INLINE static void token(__m512i const (&weights)[sizeof...(R)],
                                                __m512i line, __m512i (&sums)[sizeof...(R)][Tokens],
                                                std::integer_sequence<index_t, R...>) {
        (add(weights[R], line, sums[R][T]), ...);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i weights, __m512i token, __m512i& sum) {
        // Written out, so that one target serves all kernels.
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(weights), "v"(token));
    }
    /// Of a row by every token. No loop, whose index would keep sums in memory.
    template <index_t... T>
    SEMOE_AVX512 SEMOE_INLINE static void store_totals(__m512i const (&sums)[sizeof...(T)],
                                                       float* to,
                                                       std::integer_sequence<index_t, T...>) {
        std::int32_t const totals[] = {total(sums[T])...};
        std::memcpy(to, totals, sizeof(totals));
    }
    SEMOE_AVX512 SEMOE_INLINE static std::int32_t total(__m512i sums) {
        alignas(64) std::int32_t lanes[16];
        _mm512_store_si512(lanes, sums);
        std::int32_t all = 0;
        for (std::int32_t const lane : lanes) all += lane;
        return all;
    }

    QuantizedRows<Format> const& w_;
    char const* tokens_;
    index_t rows_;
};

} // namespace semoe::ops::cpu::avx512
#endif
