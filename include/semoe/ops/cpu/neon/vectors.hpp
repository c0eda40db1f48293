#pragma once

#include "semoe/ops/cpu/feed_forward/tiles.hpp"
#include "semoe/ops/cpu/neon/kernels.hpp"

#if SEMOE_ARM
#include <cstdint>

namespace semoe::ops::cpu::neon {

/// What ops/cpu/portable/vectors.hpp describes.
struct Vectors {
    using Floats = float32x4_t;
    using Words = uint32x4_t;
    static constexpr int registers = 24;

    template <class T>
    SEMOE_INLINE static Floats load(T const* p) {
        return NeonKernels::load(p);
    }
    template <class T>
    SEMOE_INLINE static void store(T* p, Floats x) {
        NeonKernels::store(p, x);
    }
    SEMOE_INLINE static Words load_words(void const* p) {
        return vreinterpretq_u32_u8(vld1q_u8(static_cast<std::uint8_t const*>(p)));
    }
    SEMOE_INLINE static void store_words(void* p, Words words) {
        vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_u32(words));
    }
    SEMOE_INLINE static Floats as_floats(Words words) { return vreinterpretq_f32_u32(words); }
    SEMOE_INLINE static Words as_words(Floats x) { return vreinterpretq_u32_f32(x); }

    SEMOE_INLINE static Floats multiply_add(Floats sum, Floats a, float b) {
        return vfmaq_n_f32(sum, a, b);
    }
    SEMOE_INLINE static Words larger(Words a, Words b) { return vmaxq_u32(a, b); }
    SEMOE_INLINE static Words rounded(Floats x, Floats inverse) {
        return vreinterpretq_u32_s32(vcvtnq_s32_f32(vmulq_f32(x, inverse)));
    }
    SEMOE_INLINE static void store_bytes(char* to, Words low, Words high) {
        vst1_u8(reinterpret_cast<std::uint8_t*>(to),
                vmovn_u16(vcombine_u16(vmovn_u32(low), vmovn_u32(high))));
    }
    SEMOE_INLINE static Words sums_of_bytes(Words words) {
        return vreinterpretq_u32_s32(vpaddlq_s16(vpaddlq_s8(vreinterpretq_s8_u32(words))));
    }
    SEMOE_INLINE static void transpose_four(char const* from, index_t ld, char* to) {
        Words const a = load_words(from), b = load_words(from + ld), c = load_words(from + 2 * ld),
                    d = load_words(from + 3 * ld);
        store_pairs<false>(vtrn1q_u32(a, b), vtrn1q_u32(c, d), to);
        store_pairs<false>(vtrn2q_u32(a, b), vtrn2q_u32(c, d), to + line_bytes);
        store_pairs<true>(vtrn1q_u32(a, b), vtrn1q_u32(c, d), to + 2 * line_bytes);
        store_pairs<true>(vtrn2q_u32(a, b), vtrn2q_u32(c, d), to + 3 * line_bytes);
    }
    SEMOE_INLINE static void look_up(std::uint8_t const* table, std::uint8_t const* codes,
                                     bool upper, char* to) {
        uint8x16_t const both = vld1q_u8(codes);
        vst1q_u8(reinterpret_cast<std::uint8_t*>(to),
                 vqtbl1q_u8(vld1q_u8(table),
                            upper ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15))));
    }

private:
    template <bool High>
    SEMOE_INLINE static void store_pairs(Words low, Words high, char* to) {
        uint64x2_t const a = vreinterpretq_u64_u32(low), b = vreinterpretq_u64_u32(high);
        store_words(to, vreinterpretq_u32_u64(High ? vtrn2q_u64(a, b) : vtrn1q_u64(a, b)));
    }
};

} // namespace semoe::ops::cpu::neon
#endif
