#pragma once

#include "semoe/ops/cpu/avx512/block_kernel.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::avx512 {

// Words of four bytes for VectorKernel: rows are of unsigned bytes, columns of signed ones. Sums
// are of 32 bits in what the kernel carries as floats.

/// By the processor's dot product.
struct ByteDotWords {
    using Left = __m512i;
    using Right = __m512i;
    SEMOE_AVX512 SEMOE_INLINE static Left spread(std::uint32_t word) {
        return _mm512_set1_epi32(int(word));
    }
    SEMOE_AVX512 SEMOE_INLINE static Right load(char const* line) {
        return _mm512_load_si512(line);
    }
    SEMOE_AVX512 SEMOE_INLINE static Left load_rows(char const* line) { return load(line); }
    SEMOE_AVX512 SEMOE_INLINE static Right spread_column(std::uint32_t word) {
        return spread(word);
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(Left a, Right b, __m512& sum) {
        // Written out, so that one target serves all kernels.
        __asm__("{vpdpbusd %2, %1, %0|vpdpbusd %0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
    }
};

/// As products of 16 bits, the even bytes' and the odd ones'.
struct WidenedByteWords {
    struct Pair {
        __m512i even, odd;
    };
    using Left = Pair;
    using Right = Pair;
    SEMOE_AVX512 SEMOE_INLINE static Left unsigned_pair(__m512i words) {
        __m512i const low = _mm512_set1_epi16(0xff);
        return {_mm512_and_si512(words, low), _mm512_maskz_srli_epi16(~0u, words, 8)};
    }
    SEMOE_AVX512 SEMOE_INLINE static Right signed_pair(__m512i words) {
        return {_mm512_maskz_srai_epi16(~0u, _mm512_maskz_slli_epi16(~0u, words, 8), 8),
                _mm512_maskz_srai_epi16(~0u, words, 8)};
    }
    SEMOE_AVX512 SEMOE_INLINE static Left spread(std::uint32_t word) {
        return unsigned_pair(_mm512_set1_epi32(int(word)));
    }
    SEMOE_AVX512 SEMOE_INLINE static Right load(char const* line) {
        return signed_pair(_mm512_load_si512(line));
    }
    SEMOE_AVX512 SEMOE_INLINE static Left load_rows(char const* line) {
        return unsigned_pair(_mm512_load_si512(line));
    }
    SEMOE_AVX512 SEMOE_INLINE static Right spread_column(std::uint32_t word) {
        return signed_pair(_mm512_set1_epi32(int(word)));
    }
    SEMOE_AVX512 SEMOE_INLINE static void add(Left const& a, Right const& b, __m512& sum) {
        __m512i const even = _mm512_madd_epi16(a.even, b.even);
        __m512i const odd = _mm512_madd_epi16(a.odd, b.odd);
        __m512i const both = _mm512_add_epi32(even, odd);
        sum = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), both));
    }
};

} // namespace semoe::ops::cpu::avx512
#endif
