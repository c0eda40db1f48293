#pragma once

/// The backends that a test's translation unit runs on: the same source is built by the C++
/// compiler and, where CUDA is enabled, by nvcc. The backend alone and not semoe_cuda.cuh, which
/// would compile the whole library in every test: no operation has a body of its own for CUDA.
#if defined(__CUDACC__)
#include "semoe/semoe_cuda.cuh"
#define SEMOE_TEST_BACKENDS semoe::CudaBackend
#else
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/delayed_backend.hpp"
#define SEMOE_TEST_BACKENDS semoe::CpuBackend, semoe::testing::DelayedBackend
#endif
