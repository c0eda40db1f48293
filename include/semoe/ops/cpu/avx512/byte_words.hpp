#pragma once

#include "semoe/ops/cpu/avx512/block_kernel.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx512 {

// Words of four bytes, unsigned in rows and signed in columns. Sums are of 32 bits in what kernels
// carry as floats.

/// By the processor's dot product.
struct ByteDotWords : FloatWords {
    static constexpr int rows = 16; // of tiles, which lie beside each other
    static constexpr index_t columns = 32;
    static constexpr bool commutes = false;
    // Written out, so that one target serves all kernels.
    SEMOE_AVX512 SEMOE_INLINE static void add(__m512i a, __m512i b, __m512& sum) {
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
    SEMOE_AVX512 SEMOE_INLINE static void add_word(__m512i a, char const* word, __m512& sum) {
        show_word(word);
        __asm__("{vpdpbusd %2%{1to16%}, %1, %0|vpdpbusd %0, %1, %2%{1to16%}}"
                : "+v"(sum)
                : "v"(a), "m"(*reinterpret_cast<Word const*>(word)));
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
