#pragma once

#include "semoe/ops/cpu/amx/tiles.hpp"

#if SEMOE_X86

namespace semoe::ops::cpu::amx {

/// HardwareTiles whose products are of bytes: C[r][c] += sum over 64 of A[r][k] * B[k][c], exactly,
/// in 32 bits. A holds rows of 64 unsigned bytes, B words of four signed ones in 16 columns.
class HardwareByteTiles : public HardwareTiles {
public:
    template <int C, int A, int B>
    SEMOE_INLINE void dot() {
        __asm__ volatile("{tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0|"
                         "tdpbusd tmm%c0, tmm%c1, tmm%c2}" ::"i"(C),
                         "i"(A), "i"(B));
    }
};

/// The same in memory.
class EmulatedByteTiles : public EmulatedTiles {
public:
    template <int C, int A, int B>
    void dot() {
        for (index_t r = 0; r < tile_rows; ++r) {
            std::uint32_t c[16]; // unsigned: sums wrap around, as the processor's do
            std::memcpy(c, tiles_[C][r], sizeof(c));
            for (index_t k = 0; k < line_bytes; ++k) {
                int const a = static_cast<unsigned char>(tiles_[A][r][k]);
                for (index_t j = 0; j < 16; ++j) {
                    int const bits = static_cast<unsigned char>(tiles_[B][k / 4][j * 4 + k % 4]);
                    int const b = (bits ^ 128) - 128; // signed
                    c[j] += std::uint32_t(a * b);
                }
            }
            std::memcpy(tiles_[C][r], c, sizeof(c));
        }
    }
};

} // namespace semoe::ops::cpu::amx
#endif
