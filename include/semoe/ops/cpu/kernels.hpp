#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/ops/cpu/avx2/kernels.hpp"
#include "semoe/ops/cpu/avx512/kernels.hpp"
#include "semoe/ops/cpu/neon/kernels.hpp"
#include "semoe/ops/cpu/portable/kernels.hpp"

namespace semoe::ops::cpu {

/// f(Kernels{}) with the kernels for an instruction set.
/// @pre is_available(isa)
template <class F>
auto with_kernels(Isa isa, F const& f) {
    switch (isa) {
#if SEMOE_X86
    case Isa::amx:
    case Isa::avx512_bf16:
    case Isa::avx512_vnni:
    case Isa::avx512:
        return f(Avx512Kernels{});
    case Isa::avx2:
        return f(Avx2Kernels{});
#elif SEMOE_ARM
    case Isa::neon_dot:
    case Isa::neon:
        return f(NeonKernels{});
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

/// Rows as ops/cpu/rows.hpp describes them.
template <class T, class Base>
void sum_rows(Isa isa, RowSum<T, Base> const& sum) {
    with_kernels(isa, [&](auto kernels) { kernels.sum_rows(sum); });
}
template <class T, class Row>
void weigh_row(Isa isa, RowWeight<T, Row> const& row) {
    with_kernels(isa, [&](auto kernels) { kernels.weigh_row(row); });
}
template <class A, class W>
void dot_rows(Isa isa, RowDots<A, W> const& dots) {
    with_kernels(isa, [&](auto kernels) { kernels.dot_rows(dots); });
}
/// Copies a row of bytes; past: it will not be read soon, so it may go past the caches, and
/// finish_copies() comes before another thread reads it.
inline void copy_row(Isa isa, std::byte const* from, std::size_t bytes, std::byte* to, bool past) {
    with_kernels(isa, [&](auto kernels) { kernels.copy_row(from, bytes, to, past); });
}
inline void finish_copies() {
#if SEMOE_X86
    _mm_sfence();
#endif
}

} // namespace semoe::ops::cpu
