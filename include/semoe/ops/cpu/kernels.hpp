#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/kernels.hpp"
#include "semoe/ops/cpu/avx512/kernels.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"

namespace semoe::ops::cpu {

/// Computes a PanelProduct with the kernels of an instruction set; the bits are always the same.
/// @pre is_available(isa)
template <class T>
void multiply(Isa isa, PanelProduct<T> const& product) {
    switch (isa) {
#if SEMOE_X86
    case Isa::amx:
    case Isa::avx512_bf16:
    case Isa::avx512:
        return Avx512Kernels::multiply(product);
    case Isa::avx2:
        return Avx2Kernels::multiply(product);
#endif
    default:
        return PortableKernels::multiply(product);
    }
}

/// Up to 16 rows of `depth` elements to one panel of floats: out[k][j] = from[j * ld + k], zero for
/// j >= rows.
template <class T>
void transpose(Isa isa, T const* from, index_t ld, int rows, index_t depth, float* out) {
    switch (isa) {
#if SEMOE_X86
    case Isa::amx:
    case Isa::avx512_bf16:
    case Isa::avx512:
        return Avx512Kernels::transpose(from, ld, rows, depth, out);
    case Isa::avx2:
        return Avx2Kernels::transpose(from, ld, rows, depth, out);
#endif
    default:
        return PortableKernels::transpose(from, ld, rows, depth, out);
    }
}

} // namespace semoe::ops::cpu
