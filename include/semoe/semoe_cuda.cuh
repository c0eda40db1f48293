#pragma once

/// The whole library for translation units that nvcc compiles, and the only door to CudaBackend:
/// whoever sees the backend also sees every operation's body for it.

#include "semoe/backend/cuda/cuda.cuh"
