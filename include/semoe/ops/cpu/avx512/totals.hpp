#pragma once

#include "semoe/ops/cpu/avx512/kernels.hpp"

#if SEMOE_X86
#include <utility>

namespace semoe::ops::cpu::avx512 {

namespace detail {

SEMOE_AVX512 SEMOE_INLINE __m512i add_words(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(0xffff, a, b),
                            _mm512_maskz_unpackhi_epi32(0xffff, a, b));
}
SEMOE_AVX512 SEMOE_INLINE __m512i add_pairs(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, a, b),
                            _mm512_maskz_unpackhi_epi64(0xff, a, b));
}
SEMOE_AVX512 SEMOE_INLINE __m512i add_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_maskz_shuffle_i32x4(0xffff, a, b, 0x88),
                            _mm512_maskz_shuffle_i32x4(0xffff, a, b, 0xdd));
}
/// Sum N of them; those of fewer than sixteen come round again.
template <index_t N, index_t Rows, index_t Tokens>
SEMOE_AVX512 SEMOE_INLINE __m512i nth(__m512i const (&sums)[Rows][Tokens]) {
    return sums[N / Tokens % Rows][N % Tokens];
}
template <index_t Rows, index_t Tokens, index_t... I>
SEMOE_AVX512 SEMOE_INLINE __m512i totals_of(__m512i const (&sums)[Rows][Tokens],
                                            std::integer_sequence<index_t, I...>) {
    __m512i const x[] = {add_words(nth<2 * I>(sums), nth<2 * I + 1>(sums))...};
    return add_quarters(add_quarters(add_pairs(x[0], x[1]), add_pairs(x[2], x[3])),
                        add_quarters(add_pairs(x[4], x[5]), add_pairs(x[6], x[7])));
}

} // namespace detail

/// A total of every sum, of 16 at most. No loop, whose index would keep sums in memory.
template <index_t Rows, index_t Tokens>
SEMOE_AVX512 SEMOE_INLINE __m512i totals_of(__m512i const (&sums)[Rows][Tokens]) {
    return detail::totals_of(sums, std::make_integer_sequence<index_t, 8>{});
}

} // namespace semoe::ops::cpu::avx512
#endif
