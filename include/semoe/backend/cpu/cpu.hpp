#pragma once
// placeholder until the real one lands: inline, one thread
#include "semoe/backend/concept.hpp"

#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace semoe {
struct CpuBackend {
    using space = HostSpace;
    struct event_type {};
    int threads = 0;
    std::shared_ptr<std::vector<std::byte>> scratch = std::make_shared<std::vector<std::byte>>();

    void* allocate(std::size_t n) { return ::operator new(n, std::align_val_t{64}); }
    void deallocate(void* p, std::size_t) noexcept { ::operator delete(p, std::align_val_t{64}); }
    void copy(void* d, void const* s, std::size_t n) {
        if (n) std::memcpy(d, s, n);
    }
    event_type record() { return {}; }
    void wait(event_type) {}
    void synchronize() {}
    CpuBackend fork() { return *this; }
    template <class F>
    void parallel_for(index_t n, F f) {
        for (index_t i = 0; i < n; ++i) f(i);
    }
    template <class F>
    void parallel_tasks(index_t n, F f) {
        for (index_t i = 0; i < n; ++i) f(i, std::span<std::byte>(*scratch));
    }
    void reserve_scratch(std::size_t n) {
        if (scratch->size() < n) scratch->resize(n);
    }
};
static_assert(Backend<CpuBackend> && HasWorkers<CpuBackend>);
} // namespace semoe
