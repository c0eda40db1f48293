#pragma once

/// The only header that asks which compiler reads it.

#if __cplusplus < 202002L
#error "semoe needs C++20: compile with -std=c++20 or newer"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) ||           \
    defined(__ASSOCIATIVE_MATH__)
#error "semoe: -ffast-math or a part of it breaks NaN checks and reproducible sums; leave it out"
#endif

#if defined(__CUDACC__)
#include <cuda_runtime.h>
/// Marks a function that host and device code may both call.
#define SEMOE_HD __host__ __device__
/// Marks a kernel. Each translation unit has its own, so units built for different devices link.
#define SEMOE_KERNEL static __global__
#else
#define SEMOE_HD
#endif

#if defined(__CUDA_ARCH__)
#define SEMOE_DEVICE_CODE 1
#else
#define SEMOE_DEVICE_CODE 0
#endif

#if defined(__x86_64__)
#define SEMOE_X86 1
#else
#define SEMOE_X86 0
#endif

#if defined(__aarch64__)
#define SEMOE_ARM 1
#else
#define SEMOE_ARM 0
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SEMOE_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#define SEMOE_ADDRESS_SANITIZER __has_feature(address_sanitizer)
#else
#define SEMOE_ADDRESS_SANITIZER 0
#endif

/// Before a loop whose turns touch different elements: it becomes vector code without a question
/// at run time whether its pointers overlap, which GCC's -O2 would not ask. Others need no word.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define SEMOE_INDEPENDENT _Pragma("GCC ivdep")
#else
#define SEMOE_INDEPENDENT
#endif

/// Compiles one function for an instruction set other than the translation unit's.
/// Lambdas inside such a function do not inherit the target: write loops.
#define SEMOE_TARGET(isa) __attribute__((target(isa)))
#define SEMOE_INLINE inline __attribute__((always_inline))
#define SEMOE_NOINLINE __attribute__((noinline))
/// What refuses: small code instead of fast code, out of the way. A caller that always calls it
/// would count as cold itself, loops and all.
#define SEMOE_COLD __attribute__((cold, noinline))
