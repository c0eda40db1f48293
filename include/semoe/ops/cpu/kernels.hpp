#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/kernels.hpp"
#include "semoe/ops/cpu/avx512/kernels.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"

namespace semoe::ops::cpu {

/// Calls f(Kernels{}) with the kernels for an instruction set.
/// @pre is_available(isa)
template <class F>
void with_kernels(Isa isa, F const& f) {
    switch (isa) {
#if SEMOE_X86
    case Isa::amx:
    case Isa::avx512_bf16:
    case Isa::avx512:
        return f(Avx512Kernels{});
    case Isa::avx2:
        return f(Avx2Kernels{});
#endif
    default:
        return f(PortableKernels{});
    }
}

/// Computes a PanelProduct; the bits are the same for every instruction set.
template <class T>
void multiply(Isa isa, PanelProduct<T> const& product) {
    with_kernels(isa, [&](auto kernels) { kernels.multiply(product); });
}
/// Up to 16 rows of `depth` elements to one panel of floats: out[k][j] = from[j * ld + k], zero for
/// j >= rows.
template <class T>
void transpose(Isa isa, T const* from, index_t ld, int rows, index_t depth, float* out) {
    with_kernels(isa, [&](auto kernels) { kernels.transpose(from, ld, rows, depth, out); });
}
/// to[r * to_ld + i] = from[r * ld + i] for i < cols.
template <class T>
void widen(Isa isa, T const* from, index_t ld, index_t rows, index_t cols, float* to,
           index_t to_ld) {
    with_kernels(isa, [&](auto kernels) { kernels.widen(from, ld, rows, cols, to, to_ld); });
}
/// As widen, rounded to nearest, ties to even.
template <class T>
void narrow(Isa isa, float const* from, index_t ld, index_t rows, index_t cols, T* to,
            index_t to_ld) {
    with_kernels(isa, [&](auto kernels) { kernels.narrow(from, ld, rows, cols, to, to_ld); });
}

} // namespace semoe::ops::cpu
