#pragma once

#include "semoe/core/types.hpp"

#include <concepts>

namespace semoe::cpu {

/// A call of f(task, worker) that does not own f; f must outlive it and never throws.
class TaskRef {
public:
    template <class F>
        requires(!std::same_as<F, TaskRef>)
    explicit TaskRef(F const& f)
      : object_(&f)
      , call_([](void const* object, index_t task, int worker) noexcept {
          (*static_cast<F const*>(object))(task, worker);
      }) {}
    TaskRef() = default;

    void operator()(index_t task, int worker) const noexcept { call_(object_, task, worker); }

private:
    void const* object_ = nullptr;
    void (*call_)(void const*, index_t, int) noexcept = nullptr;
};

/// Somebody else's threads in place of the backend's own: CpuBackend{.executor = &mine}.
/// The executor outlives every copy of the backend. The backend calls run() from one thread at a
/// time, and never from inside a task.
struct Executor {
    virtual ~Executor() = default;
    /// How many tasks may run at the same time; fixed, at least 1.
    virtual int concurrency() const = 0;
    /// Calls task(i, worker) once for every i in [0, n) and returns when all calls have returned.
    /// Tasks should be taken one by one in rising order. worker lies in [0, concurrency()) and no
    /// two calls that overlap in time have the same one. The tasks never throw.
    virtual void run(index_t n, TaskRef task) = 0;
};

} // namespace semoe::cpu
