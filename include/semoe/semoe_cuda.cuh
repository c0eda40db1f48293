#pragma once

/// Everything that a program built by nvcc needs, and the only door to CudaBackend: whoever sees
/// the backend also sees every body that an operation has for it.

#include "semoe/backend/cuda/cuda.cuh"
#include "semoe/semoe.hpp"
