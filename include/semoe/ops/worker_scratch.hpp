#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/product.hpp"

namespace semoe::ops {

/// Bytes of scratch that every host worker should have for operations to run at full speed.
constexpr std::size_t worker_scratch_bytes() { return cpu::scratch_bytes(); }

/// Asks a backend with host workers for that scratch; does nothing on others. For the making of
/// contexts, before steps begin. Operations give the same bits without it, more slowly.
/// @sync may wait until the workers are idle
template <Backend B>
void reserve_worker_scratch(B& b) {
    if constexpr (HasWorkers<B>) b.reserve_scratch(worker_scratch_bytes());
}

} // namespace semoe::ops
