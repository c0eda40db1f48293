#pragma once

#include "semoe/core/view.hpp"

#include <type_traits>

namespace semoe::ops {

/// Somebody who takes the gradients of a group's experts piece by piece, each out of the cache of
/// the worker that computed it, so that they never go to memory: taker(i, first, values) gets some
/// of those of the group's expert i, from element `first` of its block on. Workers call it at the
/// same time, never twice for the same elements. Takers travel by value into queues.
template <class F>
concept GradientTaker = std::is_trivially_copyable_v<F> &&
    requires(F const& f, int i, index_t first, VectorView<float const, HostSpace> values) {
    f(i, first, values);
};

/// The taker of one expert's gradients, whatever its type; null: there is none.
struct ExpertTaker {
    using Values = VectorView<float const, HostSpace>;

    void const* taker = nullptr;
    void (*call)(void const* taker, int expert, index_t first, Values values) = nullptr;
    int expert = 0;

    template <GradientTaker F>
    static ExpertTaker of(F const& f, int number) {
        return {&f,
                [](void const* object, int i, index_t first, Values values) {
                    (*static_cast<F const*>(object))(i, first, values);
                },
                number};
    }
    explicit operator bool() const { return call != nullptr; }
    void operator()(index_t first, Values values) const { call(taker, expert, first, values); }
};

} // namespace semoe::ops
