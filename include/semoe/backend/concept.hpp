#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"

#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>

namespace semoe {

namespace detail {
struct NoopFn {
    SEMOE_HD void operator()(index_t) const {}
};
struct NoopTask {
    void operator()(index_t, std::span<std::byte>) const {}
};
} // namespace detail

/// How large a functor may be that a queue carries by value. Larger tables belong into backend
/// memory, with a view of them in the functor.
inline constexpr std::size_t max_functor_bytes = 2048;

/// A handle to memory and one in-order queue. Copies of a handle share the queue.
/// Every function that enqueues work takes the backend first.
template <class B>
using space_of = typename B::space;

template <class B>
concept HasMemory = requires(B& b, void* p, void const* s, std::size_t n) {
    typename B::space;
    /// Uninitialised, aligned to 64 bytes. Throws backend_error when there is no more.
    { b.allocate(n) } -> std::same_as<void*>;
    /// Takes effect in queue order. n is what was asked for.
    { b.deallocate(p, n) }
    noexcept;
    /// Queue-ordered copy between any two spaces that the backend reaches. Host memory on
    /// either side must stay as it is until the copy has run.
    b.copy(p, s, n);
};

template <class B>
concept HasQueue = std::copyable<B> && requires(B& b, typename B::event_type event) {
    requires std::copyable<typename B::event_type>;
    /// Marks the work enqueued so far. Never blocks, never allocates.
    { b.record() } -> std::same_as<typename B::event_type>;
    /// Work enqueued later starts after the event; a default event is always done. The host does
    /// not wait, unless the queue is inline. Throws what the work before the event threw.
    b.wait(event);
    /// Waits on the host until the queue is empty. Throws what the queue's work threw.
    b.synchronize();
    /// A second queue over the same memory, for copies and messages that overlap compute.
    { b.fork() } -> std::same_as<B>;
};

template <class B>
concept HasParallelFor = requires(B& b, index_t n) {
    /// Enqueues functor(i) for i in [0, n), in any order, copying the functor.
    b.parallel_for(n, detail::NoopFn{});
};

template <class B>
concept Backend = HasMemory<B> && HasQueue<B> && HasParallelFor<B>;

/// Capability: host workers that take coarse tasks, each with a scratch area of its own.
/// Tuned operations for processors ask for this, never for a certain backend.
template <class B>
concept HasWorkers = std::same_as<space_of<B>, HostSpace> && requires(B& b, index_t n) {
    /// Enqueues task(i, scratch) for i in [0, n), taken one by one in rising order by whichever
    /// worker is free. scratch is the worker's own, of the size last reserved, aligned to 64 bytes.
    b.parallel_tasks(n, detail::NoopTask{});
    /// Grows every worker's scratch area to at least n bytes, for tasks that begin later. Called
    /// while contexts are made, not by a task.
    b.reserve_scratch(std::size_t{});
};

/// Capability: forked queues go on by themselves, so that a functor over one index may wait on the
/// host for what a functor of another queue does; tasks of workers may not, which all queues share.
/// Such a backend says `static constexpr bool may_block = true;`.
template <class B>
inline constexpr bool may_block = false;
template <class B>
    requires requires { B::may_block; }
inline constexpr bool may_block<B> = B::may_block;

/// Capability: the host may ask whether an event has been reached, without waiting.
template <class B>
concept HasEventQuery = requires(B const& b, typename B::event_type event) {
    { b.reached(event) } -> std::same_as<bool>;
};

/// Capability: a wait that takes no error, for who orders work and has nobody to tell of one. Where
/// events carry no errors, wait is one.
template <class B>
concept HasFollow = requires(B& b, typename B::event_type event) {
    /// As wait, but what the work before the event threw is left to whoever else waits for it.
    b.follow(event);
};

/// Capability: a wait that shares an error, for who builds on work of somebody who must learn of
/// it, too. Where events carry no errors, wait is one.
template <class B>
concept HasObserve = requires(B& b, typename B::event_type event) {
    /// As wait, but what the work before the event threw is told to whoever else waits for it, too.
    b.observe(event);
};

/// Capability: memory that the host may touch directly once the queue is synchronised.
template <class B>
inline constexpr bool host_reachable = std::same_as<space_of<B>, HostSpace>;

} // namespace semoe
