#pragma once

#include "semoe/core/config.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

/// Replaces the program's operator new by one that counts, and fails on demand. Include it in one
/// translation unit of a test program.

namespace semoe::test {

/// Calls of operator new since the program started, by all threads.
inline std::atomic<long> num_allocations{0};

/// While it is true operator new has nothing for this thread.
inline thread_local bool no_memory = false;

inline void* counted_allocation(std::size_t bytes, std::size_t alignment) {
    ++num_allocations;
    if (no_memory) return nullptr;
    return std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
}
inline void* counted_allocation_or_throw(std::size_t bytes, std::size_t alignment) {
    void* const memory = counted_allocation(bytes, alignment);
    if (!memory) throw std::bad_alloc();
    return memory;
}

} // namespace semoe::test

// Not inlined, or the compiler sees free() meet operator new.
SEMOE_NOINLINE void* operator new(std::size_t n) {
    return semoe::test::counted_allocation_or_throw(n, alignof(std::max_align_t));
}
SEMOE_NOINLINE void* operator new(std::size_t n, std::align_val_t a) {
    return semoe::test::counted_allocation_or_throw(n, std::size_t(a));
}
SEMOE_NOINLINE void* operator new(std::size_t n, std::nothrow_t const&) noexcept {
    return semoe::test::counted_allocation(n, alignof(std::max_align_t));
}
SEMOE_NOINLINE void* operator new(std::size_t n, std::align_val_t a,
                                  std::nothrow_t const&) noexcept {
    return semoe::test::counted_allocation(n, std::size_t(a));
}
SEMOE_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
SEMOE_NOINLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }
SEMOE_NOINLINE void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
SEMOE_NOINLINE void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
    std::free(p);
}
SEMOE_NOINLINE void operator delete(void* p, std::nothrow_t const&) noexcept { std::free(p); }
SEMOE_NOINLINE void operator delete(void* p, std::align_val_t, std::nothrow_t const&) noexcept {
    std::free(p);
}
