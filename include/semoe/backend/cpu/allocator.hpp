#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace semoe {

namespace cpu {

/// Aligned memory. Large blocks are whole pages of 2 MiB, which the system is asked for: weights
/// and rows are streamed, and a page of 4 KiB ends before the processor has got into its stride; in
/// scratch, lines of one large page do not crowd into the same part of a cache.
struct HostMemory {
    static constexpr std::size_t alignment = 64, large = std::size_t(1) << 20,
                                 large_page = std::size_t(2) << 20;

    static constexpr std::align_val_t alignment_of(std::size_t bytes) {
        return std::align_val_t{bytes >= large ? large_page : alignment};
    }
    /// @return null when there is no more
    static void* allocate(std::size_t bytes) noexcept {
        bool const whole = bytes >= large && bytes <= std::size_t(-1) - large_page;
        std::size_t const size = whole ? (bytes + large_page - 1) / large_page * large_page : bytes;
        void* const memory = ::operator new(size, alignment_of(bytes), std::nothrow);
#if defined(__linux__)
        // A wish: without such pages everything works as before.
        if (memory && whole) (void)::madvise(memory, size, MADV_HUGEPAGE);
#endif
        return memory;
    }
    /// @param bytes  as they were asked for
    static void deallocate(void* memory, std::size_t bytes) noexcept {
        ::operator delete(memory, alignment_of(bytes));
    }
};

} // namespace cpu

/// Where a backend's host memory comes from. Both functions may be called from any thread.
struct CpuAllocator {
    static constexpr std::size_t alignment = cpu::HostMemory::alignment;

    /// Memory aligned to 64 bytes, or null when there is no more.
    void* (*allocate)(std::size_t bytes, void* user) = [](std::size_t bytes, void*) -> void* {
        return cpu::HostMemory::allocate(bytes);
    };
    void (*deallocate)(void* memory, std::size_t bytes,
                       void* user) noexcept = [](void* memory, std::size_t bytes, void*) noexcept {
        cpu::HostMemory::deallocate(memory, bytes);
    };
    void* user = nullptr;
};

/// What a backend's memory has seen; tests assert these.
struct MemoryCounters {
    index_t allocations = 0, deallocations = 0;
    index_t bytes_in_use = 0, peak_bytes = 0;
};

namespace cpu {

/// An allocator that is checked and counted.
class Memory {
public:
    explicit Memory(CpuAllocator allocator)
      : allocator_(allocator) {}

    /// @return null for 0 bytes
    /// @throws backend_error naming the size when the allocator has no more, or breaks its word
    void* allocate(std::size_t bytes) {
        if (bytes == 0) return nullptr;
        void* memory = nullptr;
        try {
            memory = allocator_.allocate(bytes, allocator_.user);
        } catch (std::bad_alloc const&) { // reported below
        }
        auto const text = [&](char const* what) {
            return message("backend: {} ({} bytes asked for, {} in use)", what, bytes,
                           counters().bytes_in_use);
        };
        if (!memory) throw backend_error(text("out of memory"));
        if (reinterpret_cast<std::uintptr_t>(memory) % CpuAllocator::alignment != 0) {
            allocator_.deallocate(memory, bytes, allocator_.user);
            throw backend_error(text("the allocator's memory is not aligned to 64 bytes"));
        }
        allocations_.fetch_add(1, std::memory_order_relaxed);
        index_t const in_use =
            in_use_.fetch_add(index_t(bytes), std::memory_order_relaxed) + index_t(bytes);
        index_t peak = peak_.load(std::memory_order_relaxed);
        while (peak < in_use &&
               !peak_.compare_exchange_weak(peak, in_use, std::memory_order_relaxed)) {
        }
        return memory;
    }
    void deallocate(void* memory, std::size_t bytes) noexcept {
        if (!memory) return;
        deallocations_.fetch_add(1, std::memory_order_relaxed);
        in_use_.fetch_sub(index_t(bytes), std::memory_order_relaxed);
        allocator_.deallocate(memory, bytes, allocator_.user);
    }
    MemoryCounters counters() const {
        return {allocations_.load(std::memory_order_relaxed),
                deallocations_.load(std::memory_order_relaxed),
                in_use_.load(std::memory_order_relaxed), peak_.load(std::memory_order_relaxed)};
    }

private:
    CpuAllocator allocator_;
    std::atomic<index_t> allocations_{0}, deallocations_{0}, in_use_{0}, peak_{0};
};

} // namespace cpu
} // namespace semoe
