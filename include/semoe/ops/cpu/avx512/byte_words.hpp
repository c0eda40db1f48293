#pragma once

#include "semoe/ops/cpu/avx512/block_kernel.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx512 {

// Words of four bytes, unsigned in rows and signed in columns. Sums are of 32 bits in what kernels
// carry as floats.

/// By the processor's dot product.
struct ByteDotWords : FloatWords {
    static constexpr int rows = 16; // of tiles, which lie beside each other
    static constexpr bool commutes = false;
    // Written out, so that one target serves all kernels.
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
    template <int>
    SEMOE_AVX512 SEMOE_INLINE static void add_word(__m512i a, char const* word, __m512& sum) {
        show_word(word);
        __asm__("{vpdpbusd %2%{1to16%}, %1, %0|vpdpbusd %0, %1, %2%{1to16%}}"
                : "+v"(sum)
                : "v"(a), "m"(*reinterpret_cast<Word const*>(word)));
    }
};
/// As products of 16 bits, the even bytes', then the odd ones'.
struct WidenedByteWords {
    static constexpr int parts = 2, lines = 1, rows = 16;
    static constexpr index_t few = 4;
    static constexpr bool commutes = false;
    template <int Part>
    SEMOE_AVX512 SEMOE_INLINE static __m512i row(__m512i words) {
        return Part == 0 ? _mm512_and_si512(words, _mm512_set1_epi16(0xff))
                         : _mm512_maskz_srli_epi16(~0u, words, 8);
    }
    template <int Part>
    SEMOE_AVX512 SEMOE_INLINE static __m512i column(__m512i words) {
        return _mm512_maskz_srai_epi16(
            ~0u, Part == 0 ? _mm512_maskz_slli_epi16(~0u, words, 8) : words, 8);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        sum = _mm512_castsi512_ps(
            _mm512_add_epi32(_mm512_castps_si512(sum), _mm512_madd_epi16(a, b)));
    }
    template <int Part>
    SEMOE_AVX512 SEMOE_INLINE static void add_word(__m512i a, char const* word, __m512& sum) {
        add(a, column<Part>(spread(word)), sum);
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
