#pragma once

/// What of layers on processors depends on no type of the user's, compiled here: kernels for every
/// instruction set, loops of the shipped gates, losses and optimizers, and the parts of a layer on
/// one rank that know neither its gate nor its experts.
///
/// Without more, each translation unit compiles what it uses. A project of many may define
/// SEMOE_EXTERN_KERNELS for all of them, and include this header in one; the component `kernels` of
/// the CMake package does both.

#include "semoe/instances.hpp"

namespace semoe {
namespace ops {
namespace cpu {
SEMOE_KERNELS(template)
}
SEMOE_LOOPS(template)
} // namespace ops
SEMOE_PARTS(template)
} // namespace semoe
