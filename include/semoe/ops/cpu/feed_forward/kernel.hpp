#pragma once

#include "semoe/ops/cpu/amx/block_kernel.hpp"
#include "semoe/ops/cpu/avx2/block_kernel.hpp"
#include "semoe/ops/cpu/avx512/block_kernel.hpp"
#include "semoe/ops/cpu/neon/vectors.hpp"
#include "semoe/ops/cpu/portable/block_kernel.hpp"

#include <concepts>

namespace semoe::ops::cpu {

/// f(kernel) of two kernels: that of tiles of floats, or that of rows of bf16 by a few columns.
template <class T, class Floats, class FewWidened, class F>
void with_kernel_of_floats(TileForm form, F const& f) {
    if constexpr (!std::same_as<T, float>)
        if (!form.widens_rows<T>()) return f(FewWidened{});
    f(Floats{});
}
/// Calls f(kernel) with the BlockKernel of tiles in a form, made of elements of T.
/// @pre is_available(form.isa)
template <class T, class F>
void with_block_kernel(TileForm form, F const& f) {
    auto const with = [&](auto&& kernel) { f(static_cast<BlockKernel&>(kernel)); };
    if (form.isa == Isa::portable) {
        using V = portable::Vectors;
        with_kernel_of_floats<T, portable::FloatKernel<V>,
                              portable::FewKernel<portable::WidenedWords<V>>>(form, with);
        return;
    }
#if SEMOE_X86
    if (form.isa == Isa::avx2)
        with_kernel_of_floats<T, avx2::FloatKernel, avx2::FewKernel<avx2::WidenedWords>>(form,
                                                                                         with);
    else if constexpr (std::same_as<T, float>)
        form.lanes ? with(avx512::LanesKernel<avx512::FloatWords>{})
                   : with(avx512::VectorKernel<avx512::FloatWords>{});
    else if (form.isa == Isa::amx)
        with(amx::TileKernel<amx::HardwareTiles>{});
    else if (form.isa == Isa::avx512_bf16)
        form.lanes ? with(avx512::LanesKernel<avx512::DotWords>{})
                   : with(avx512::VectorKernel<avx512::DotWords>{});
    else
        form.lanes ? with(avx512::LanesKernel<avx512::FloatWords>{})
                   : with(avx512::FewKernel<avx512::WidenedWords>{});
#elif SEMOE_ARM
    using V = neon::Vectors;
    with_kernel_of_floats<T, portable::FloatKernel<V>,
                          portable::FewKernel<portable::WidenedWords<V>>>(form, with);
#endif
}

} // namespace semoe::ops::cpu
