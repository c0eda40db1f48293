#pragma once

#include "semoe/ops/cpu/kernels.hpp"

#include <type_traits>

namespace semoe::ops {

/// f() within a functor: on the host, compiled for the host's instruction set. F's operator() and
/// what that calls in its inner loops are SEMOE_INLINE, or they stay what the user's flags make of
/// them; loops of 16 over local arrays become vector code. It takes a call, so f is a whole row's
/// loop, and one that several functors share rather than a functor's own: each F is compiled once
/// an instruction set.
template <class F>
SEMOE_HD std::invoke_result_t<F const&> vectorised(F const& f) {
#if SEMOE_DEVICE_CODE
    return f();
#else
    return cpu::with_kernels(selected_isa(), [&](auto kernels) { return kernels.call(f); });
#endif
}

} // namespace semoe::ops
