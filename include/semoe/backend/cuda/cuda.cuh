#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cuda/runtime.cuh"

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>

namespace semoe {

namespace cuda {

/// The functor stays in the constant bank of parameters: threads do not copy its tables.
template <class F>
SEMOE_KERNEL void for_each_index(F const __grid_constant__ functor, index_t n) {
    index_t const step = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) functor(i);
}

} // namespace cuda

/// One NVIDIA device; a queue is a stream. Errors of work that has been enqueued surface at a
/// later call, at the latest at synchronize(), as backend_error naming that call.
struct CudaBackend {
    using space = DeviceSpace;
    using event_type = cuda::Event;

    int device = 0; ///< read once, at construction

    std::shared_ptr<cuda::Memory> memory = std::make_shared<cuda::Memory>(device);
    std::shared_ptr<cuda::Queue> queue = std::make_shared<cuda::Queue>(device);

    /// @return usable on every queue at once; null for n = 0
    /// @sync the host waits for the allocation alone @throws backend_error naming the size
    void* allocate(std::size_t n) { return memory->allocate(n); }
    /// @sync enqueues
    void deallocate(void* p, std::size_t) noexcept {
        if (p) queue->deallocate(p);
    }
    /// @sync enqueues; from or to pageable host memory the runtime may wait
    void copy(void* to, void const* from, std::size_t n) {
        if (n == 0) return;
        cuda::DeviceScope const scope(device);
        cuda::check(cudaMemcpyAsync(to, from, n, cudaMemcpyDefault, stream()), "cudaMemcpyAsync");
    }

    /// @cost none: the event comes from a fixed ring
    event_type record() { return {queue->events, queue->events->record(stream())}; }
    /// @sync enqueues the wait
    void wait(event_type const& event) {
        if (!event.get()) return;
        cuda::DeviceScope const scope(device);
        cuda::check(cudaStreamWaitEvent(stream(), event.get(), 0), "cudaStreamWaitEvent");
    }
    /// @sync the host waits until the queue is empty
    void synchronize() { queue->synchronize(); }
    CudaBackend fork() {
        CudaBackend other = *this;
        other.queue = std::make_shared<cuda::Queue>(device);
        return other;
    }

    /// Calls functor(i) for i in [0, n), each index on one thread.
    /// @sync enqueues @cost one kernel launch, none for n = 0
    template <class F>
    void parallel_for(index_t n, F const& functor) {
        static_assert(std::is_trivially_copyable_v<F>,
                      "CudaBackend: parallel_for needs a trivially copyable functor of named type "
                      "with `SEMOE_HD void operator()(semoe::index_t) const` "
                      "(backend/concept.hpp)");
        static_assert(sizeof(F) <= max_functor_bytes,
                      "CudaBackend: the functor is larger than max_functor_bytes; keep the data in "
                      "backend memory and let the functor hold a view of it (backend/concept.hpp)");
        if (n <= 0) return;
        constexpr index_t threads = 256;
        index_t const blocks =
            std::min((n + threads - 1) / threads, index_t(memory->multiprocessors()) * 32);
        cuda::DeviceScope const scope(device);
        cuda::for_each_index<<<unsigned(blocks), unsigned(threads), 0, stream()>>>(functor, n);
        cuda::check(cudaGetLastError(), "kernel launch");
    }

    cudaStream_t stream() const { return queue->stream.get(); }
};

static_assert(Backend<CudaBackend>);

} // namespace semoe
