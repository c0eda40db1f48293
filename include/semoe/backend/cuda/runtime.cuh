#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

#include <array>
#include <atomic>
#include <cuda_runtime.h>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace semoe::cuda {

/// @throws backend_error naming the call, the error and what `detail` adds
inline void check(cudaError_t status, char const* call, std::string const& detail = "") {
    if (status == cudaSuccess) return;
    cudaGetLastError(); // an error that is not sticky is reported once
    throw backend_error(std::string("CudaBackend: ") + call + detail + ": " +
                        cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

/// Makes a device current for the calling thread while it lives.
class DeviceScope {
public:
    explicit DeviceScope(int device) {
        check(cudaGetDevice(&previous_), "cudaGetDevice");
        if (previous_ == device) return;
        check(cudaSetDevice(device), "cudaSetDevice");
        changed_ = true;
    }
    DeviceScope(DeviceScope const&) = delete;
    DeviceScope& operator=(DeviceScope const&) = delete;
    ~DeviceScope() {
        if (changed_) cudaSetDevice(previous_);
    }

private:
    int previous_ = 0;
    bool changed_ = false;
};

/// A stream of its own that does not wait for the default stream.
class Stream {
public:
    explicit Stream(int device)
      : device_(device) {
        DeviceScope const scope(device);
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
    }
    Stream(Stream const&) = delete;
    Stream& operator=(Stream const&) = delete;
    /// Waits until the stream is empty.
    ~Stream() {
        cudaStreamSynchronize(stream_);
        cudaStreamDestroy(stream_);
    }

    cudaStream_t get() const { return stream_; }
    int device() const { return device_; }
    void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

private:
    int device_;
    cudaStream_t stream_ = nullptr;
};

/// The events of one stream, used in turn. An old event that has been taken again marks a later
/// point of the same stream, so waiting for it waits for at least what it first marked.
class EventRing {
public:
    explicit EventRing(int device) {
        DeviceScope const scope(device);
        for (cudaEvent_t& event : events_)
            check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                  "cudaEventCreateWithFlags");
    }
    EventRing(EventRing const&) = delete;
    EventRing& operator=(EventRing const&) = delete;
    ~EventRing() {
        for (cudaEvent_t event : events_)
            if (event) cudaEventDestroy(event);
    }

    cudaEvent_t record(cudaStream_t stream) {
        std::lock_guard lock(mutex_);
        cudaEvent_t const event = events_[next_++ % events_.size()];
        check(cudaEventRecord(event, stream), "cudaEventRecord");
        return event;
    }

private:
    std::mutex mutex_;
    std::size_t next_ = 0;
    std::array<cudaEvent_t, 64> events_{};
};

/// A point in a queue's order. Small, copyable; it may outlive its queue. A default event is done.
class Event {
public:
    Event() = default;
    Event(std::shared_ptr<EventRing> ring, cudaEvent_t event)
      : ring_(std::move(ring))
      , event_(event) {}

    cudaEvent_t get() const { return event_; }

private:
    std::shared_ptr<EventRing> ring_; ///< keeps event_ alive
    cudaEvent_t event_ = nullptr;
};

/// Device memory for any number of queues.
class Memory {
public:
    explicit Memory(int device)
      : stream_(device) {
        check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device),
              "cudaDeviceGetAttribute");
    }

    /// The stream holds nothing else, so the memory can be had at once and used on any queue.
    void* allocate(std::size_t bytes) {
        if (bytes == 0) return nullptr;
        DeviceScope const scope(stream_.device());
        void* memory = nullptr;
        check(cudaMallocAsync(&memory, bytes, stream_.get()), "cudaMallocAsync",
              " of " + std::to_string(bytes) + " bytes");
        stream_.synchronize();
        return memory;
    }

    int multiprocessors() const { return multiprocessors_; }

private:
    Stream stream_;
    int multiprocessors_ = 1;
};

/// A stream, its events, and the first error of a call that could not throw.
struct Queue {
    explicit Queue(int device)
      : stream(device)
      , events(std::make_shared<EventRing>(device)) {}

    void deallocate(void* memory) noexcept {
        cudaError_t const status = cudaFreeAsync(memory, stream.get());
        if (status == cudaSuccess) return;
        cudaGetLastError(); // or another call would be blamed
        cudaError_t none = cudaSuccess;
        postponed.compare_exchange_strong(none, status);
    }
    void synchronize() {
        stream.synchronize();
        check(postponed.exchange(cudaSuccess), "cudaFreeAsync");
    }

    Stream stream;
    std::shared_ptr<EventRing> events;
    std::atomic<cudaError_t> postponed{cudaSuccess};
};

} // namespace semoe::cuda
