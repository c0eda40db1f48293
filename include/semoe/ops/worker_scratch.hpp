#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/ops/cpu/product.hpp"

#include <algorithm>

namespace semoe::ops {

/// Bytes of scratch that every host worker should have for operations to run at full speed.
constexpr std::size_t worker_scratch_bytes() { return cpu::scratch_bytes(); }

/// Asks a backend with host workers for that scratch, or for `bytes` where an expert wants more;
/// does nothing on others. For the making of contexts, before steps begin. Operations give the same
/// bits without it, more slowly.
/// @sync may wait until the workers are idle
template <Backend B>
void reserve_worker_scratch(B& b, std::size_t bytes = 0) {
    if constexpr (HasWorkers<B>) b.reserve_scratch(std::max(bytes, worker_scratch_bytes()));
}

} // namespace semoe::ops
