#pragma once

#include "semoe/backend/cpu/allocator.hpp"

#include <new>
#include <vector>

namespace bench {

/// Memory from where the layer's comes: what is large lies in large pages.
template <class T>
struct HostAllocator {
    using value_type = T;

    HostAllocator() = default;
    template <class U>
    HostAllocator(HostAllocator<U> const&) {}

    T* allocate(std::size_t n) const {
        void* const memory = semoe::cpu::HostMemory::allocate(n * sizeof(T));
        if (!memory) throw std::bad_alloc();
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, std::size_t n) const noexcept {
        semoe::cpu::HostMemory::deallocate(memory, n * sizeof(T));
    }
    bool operator==(HostAllocator const&) const = default;
};
template <class T>
using HostVector = std::vector<T, HostAllocator<T>>;

} // namespace bench
