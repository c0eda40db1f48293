#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#include <cstdint>
#include <cstring>

namespace semoe::ops::cpu::portable {

/// Vectors of four words, of which the lines, tiles and kernels in this folder are made: as
/// compilers make them for any machine. An instruction set with vectors of that length gives the
/// same functions, in its own words.
struct Vectors {
    using Floats = float __attribute__((vector_size(16)));
    using Words = std::uint32_t __attribute__((vector_size(16)));
    static constexpr int registers = 8; ///< for sums, beside what they are made of: half of x86's

    /// Four numbers from or to memory that need not be aligned.
    template <class T>
    SEMOE_INLINE static Floats load(T const* p) {
        return Floats{float(p[0]), float(p[1]), float(p[2]), float(p[3])};
    }
    template <class T>
    SEMOE_INLINE static void store(T* p, Floats x) {
        for (int i = 0; i < 4; ++i) p[i] = T(x[i]);
    }
    /// The same for words of whatever type.
    SEMOE_INLINE static Words load_words(void const* p) {
        Words words;
        std::memcpy(&words, p, sizeof(words));
        return words;
    }
    SEMOE_INLINE static void store_words(void* p, Words words) {
        std::memcpy(p, &words, sizeof(words));
    }
    SEMOE_INLINE static Floats as_floats(Words words) { return Floats(words); }
    SEMOE_INLINE static Words as_words(Floats x) { return Words(x); }

    SEMOE_INLINE static Floats multiply_add(Floats sum, Floats a, float b) {
        return sum + a * Floats{b, b, b, b};
    }
    SEMOE_INLINE static Words larger(Words a, Words b) {
        return Words{max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])};
    }
    /// Products to the nearest whole numbers, each in the lowest byte of a word.
    SEMOE_INLINE static Words rounded(Floats x, Floats inverse) {
        float const shift = 12582912.0f; // 1.5 * 2^23: the adder rounds, to the lowest bits
        return as_words(x * inverse + Floats{shift, shift, shift, shift});
    }
    /// The lowest bytes of eight words.
    SEMOE_INLINE static void store_bytes(char* to, Words low, Words high) {
        for (int i = 0; i < 4; ++i) to[i] = char(low[i]), to[i + 4] = char(high[i]);
    }
    /// For every word the sum of its four signed bytes.
    SEMOE_INLINE static Words sums_of_bytes(Words words) {
        Words out;
        for (int i = 0; i < 4; ++i) {
            std::uint32_t const w = words[i];
            out[i] = std::uint32_t(std::int8_t(w) + std::int8_t(w >> 8) + std::int8_t(w >> 16) +
                                   std::int8_t(w >> 24));
        }
        return out;
    }
    /// Four words of four rows, `ld` bytes apart, to quarters of four lines.
    SEMOE_INLINE static void transpose_four(char const* from, index_t ld, char* to) {
        for (index_t r = 0; r < 4; ++r)
            for (index_t word = 0; word < 4; ++word)
                std::memcpy(to + word * line_bytes + r * 4, from + r * ld + word * 4, 4);
    }
    /// Sixteen half bytes in the lower or the upper halves of bytes, by a table.
    SEMOE_INLINE static void look_up(std::uint8_t const* table, std::uint8_t const* codes,
                                     bool upper, char* to) {
        for (int i = 0; i < 16; ++i) to[i] = char(table[upper ? codes[i] >> 4 : codes[i] & 15]);
    }
};

} // namespace semoe::ops::cpu::portable
