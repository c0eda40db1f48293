#pragma once

/// Everything that a plain C++ program needs: no CUDA, no MPI, no JSON. Checkpoints are a
/// component of their own, see checkpoint/; CUDA programs include semoe_cuda.cuh.

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/comm/self.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/core/trace.hpp"
#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/identity.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/adamw8.hpp"
#include "semoe/optim/clip.hpp"
#include "semoe/optim/learning_rate.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/schedule/sequential.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/resident.hpp"
#include "semoe/tier/ring.hpp"
#include "semoe/tier/store/host.hpp"
#include "semoe/version.hpp"

// For projects that compile the kernels once: see semoe/kernels.hpp.
#if defined(SEMOE_EXTERN_KERNELS)
#include "semoe/instances.hpp"
#endif
