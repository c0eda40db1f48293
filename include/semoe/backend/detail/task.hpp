#pragma once

#include "semoe/backend/concept.hpp"

#include <cstddef>
#include <new>
#include <utility>

namespace semoe::detail {

/// Room for one callable of any type up to a fixed size, run once and destroyed in place.
class Task {
public:
    static constexpr std::size_t capacity = max_functor_bytes + 128; // the functor and its loop

    template <class F>
    void set(F&& f) {
        using Function = std::remove_cvref_t<F>;
        static_assert(sizeof(Function) <= capacity && alignof(Function) <= 64,
                      "semoe: a functor given to a queue is larger than max_functor_bytes or "
                      "aligned to more than 64 bytes; keep the data in backend memory and let the "
                      "functor hold a view of it (backend/concept.hpp)");
        ::new (static_cast<void*>(storage_)) Function(std::forward<F>(f));
        run_ = [](void* storage) {
            struct Destroy {
                Function* function;
                ~Destroy() { function->~Function(); }
            } destroy{std::launder(static_cast<Function*>(storage))};
            (*destroy.function)();
        };
    }
    /// Runs and destroys what was set, even when it throws.
    void run() { run_(storage_); }

private:
    alignas(64) std::byte storage_[capacity];
    void (*run_)(void*) = nullptr;
};

} // namespace semoe::detail
