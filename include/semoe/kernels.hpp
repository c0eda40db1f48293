#pragma once

/// The CPU kernels that depend on no type of the user's, compiled here for every instruction set.
///
/// Without more, each translation unit compiles the kernels that it uses. A project of many may
/// define SEMOE_EXTERN_KERNELS for all of them, and include this header in one.

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/ops/cpu/instances.hpp"

namespace semoe::ops::cpu {
SEMOE_KERNELS(template)
} // namespace semoe::ops::cpu
