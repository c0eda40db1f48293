#pragma once

#include "semoe/ops/cpu/avx2/kernels.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#if SEMOE_X86
#include <cmath>
#include <cstring>

namespace semoe::ops::cpu::amx {

/// The processor's eight tiles of 16 rows of 64 bytes, configured while this lives: one
/// configuration serves everything. Tiles are named by number.
///
/// The instructions are written out: the compilers' own names for them do not take template
/// parameters as numbers, and an assembler knows them whatever the compiler targets.
class HardwareTiles {
public:
    HardwareTiles() {
        struct alignas(64) {
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } config;
        for (int i = 0; i < 8; ++i) {
            config.row_bytes[i] = line_bytes;
            config.rows[i] = tile_rows;
        }
        __asm__ volatile("ldtilecfg %0" ::"m"(config));
    }
    ~HardwareTiles() { __asm__ volatile("tilerelease" ::); }
    HardwareTiles(HardwareTiles const&) = delete;
    HardwareTiles& operator=(HardwareTiles const&) = delete;

    template <int Tile>
    SEMOE_INLINE void zero() {
        __asm__ volatile("{tilezero %%tmm%c0|tilezero tmm%c0}" ::"i"(Tile));
    }
    /// 16 rows of 64 bytes, `stride` bytes apart.
    template <int Tile>
    SEMOE_INLINE void load(void const* from, index_t stride) {
        __asm__ volatile("{tileloadd (%0,%1,1), %%tmm%c2|tileloadd tmm%c2, [%0+%1*1]}" ::"r"(from),
                         "r"(stride), "i"(Tile)
                         : "memory");
    }
    template <int Tile>
    SEMOE_INLINE void store(void* to, index_t stride) {
        __asm__ volatile("{tilestored %%tmm%c2, (%0,%1,1)|tilestored [%0+%1*1], tmm%c2}" ::"r"(to),
                         "r"(stride), "i"(Tile)
                         : "memory");
    }
    /// C[r][c] += sum over 16 pairs of A[r][pair] * B[pair][c]: A holds rows of 32 bf16, B pairs of
    /// bf16 in 16 columns, C rows of 16 floats.
    template <int C, int A, int B>
    SEMOE_INLINE void dot() {
        __asm__ volatile("{tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0|"
                         "tdpbf16ps tmm%c0, tmm%c1, tmm%c2}" ::"i"(C),
                         "i"(A), "i"(B));
    }
};

/// The same tiles in memory, with the same bits: for machines without them. A product takes the
/// even and the odd elements of the depth as two chains of fused multiply-adds from zero, and adds
/// their sum to C; subnormal numbers count as zero.
class EmulatedTiles {
public:
    template <int Tile>
    void zero() {
        std::memset(tiles_[Tile], 0, tile_bytes);
    }
    template <int Tile>
    void load(void const* from, index_t stride) {
        for (index_t r = 0; r < tile_rows; ++r)
            std::memcpy(tiles_[Tile][r], static_cast<char const*>(from) + r * stride, line_bytes);
    }
    template <int Tile>
    void store(void* to, index_t stride) {
        for (index_t r = 0; r < tile_rows; ++r)
            std::memcpy(static_cast<char*>(to) + r * stride, tiles_[Tile][r], line_bytes);
    }
    template <int C, int A, int B>
    SEMOE_AVX2 void dot() {
        unsigned const flush_to_zero = 0x8000, denormals_are_zero = 0x0040;
        unsigned const before = _mm_getcsr();
        _mm_setcsr(before | flush_to_zero | denormals_are_zero);
        for (index_t r = 0; r < tile_rows; ++r) {
            float c[16], even[16] = {}, odd[16] = {};
            std::memcpy(c, tiles_[C][r], sizeof(c));
            for (index_t pair = 0; pair < 16; ++pair) {
                bf16 a[2], b[32];
                std::memcpy(a, tiles_[A][r] + pair * 4, sizeof(a));
                std::memcpy(b, tiles_[B][pair], sizeof(b));
                for (index_t j = 0; j < 16; ++j) {
                    even[j] = std::fma(float(a[0]), float(b[2 * j]), even[j]);
                    odd[j] = std::fma(float(a[1]), float(b[2 * j + 1]), odd[j]);
                }
            }
            for (index_t j = 0; j < 16; ++j) c[j] += even[j] + odd[j];
            std::memcpy(tiles_[C][r], c, sizeof(c));
        }
        _mm_setcsr(before);
    }

protected:
    alignas(64) char tiles_[8][tile_rows][line_bytes] = {};
};

} // namespace semoe::ops::cpu::amx
#endif
