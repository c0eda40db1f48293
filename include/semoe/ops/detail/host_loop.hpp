#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/kernels.hpp"

namespace semoe::ops::detail {

/// A functor compiled for the host's instruction set. Its operator() and what that calls in its
/// inner loops are SEMOE_INLINE, or they stay what the user's flags make of them; loops of 16 over
/// local arrays become vector code.
template <class F>
struct HostLoop {
    Isa isa;
    F f;
    void operator()(index_t i) const {
        cpu::with_kernels(isa, [&](auto kernels) { kernels.call(f, i); });
    }
};

/// b.parallel_for(n, f), with f compiled for the instruction set where the workers are the host's.
template <Backend B, class F>
void vector_for(B& b, index_t n, F const& f) {
    if constexpr (HasWorkers<B>)
        b.parallel_for(n, HostLoop<F>{selected_isa(), f});
    else
        b.parallel_for(n, f);
}

} // namespace semoe::ops::detail
