#pragma once

#include "semoe/backend/concept.hpp"

#include <cstddef>
#include <cstring>
#include <span>

namespace semoe::detail {

/// A functor's loop without the functor's type. Each functor is compiled into one plain loop, and
/// all that surrounds it once, which is most of what a user's compiler saves. Does not own the
/// functor.
class LoopRef {
public:
    /// The loop that calls f(i).
    template <class F>
    static LoopRef over_indices(F const& f) {
        return {&f, [](void const* functor, index_t begin, index_t end, std::span<std::byte>) {
                    F const& each = *static_cast<F const*>(functor);
                    for (index_t i = begin; i < end; ++i) each(i);
                }};
    }
    /// The loop that calls f(i, scratch).
    template <class F>
    static LoopRef over_tasks(F const& f) {
        return {&f,
                [](void const* functor, index_t begin, index_t end, std::span<std::byte> scratch) {
                    F const& task = *static_cast<F const*>(functor);
                    for (index_t i = begin; i < end; ++i) task(i, scratch);
                }};
    }

    void operator()(index_t begin, index_t end, std::span<std::byte> scratch) const {
        run_(functor_, begin, end, scratch);
    }
    /// The same loop over a copy of the functor.
    LoopRef over_copy(void const* functor) const { return {functor, run_}; }
    void const* functor() const { return functor_; }

private:
    using Run = void (*)(void const*, index_t, index_t, std::span<std::byte>);
    LoopRef(void const* functor, Run run)
      : functor_(functor)
      , run_(run) {}

    void const* functor_;
    Run run_;
};

/// A loop with its functor, which is trivially copyable and at most max_functor_bytes.
class CopiedLoop {
public:
    CopiedLoop(LoopRef loop, std::size_t functor_bytes)
      : loop_(loop)
      , bytes_(functor_bytes) {
        std::memcpy(functor_, loop.functor(), bytes_);
    }
    CopiedLoop(CopiedLoop const& other)
      : CopiedLoop(other.ref(), other.bytes_) {}
    CopiedLoop& operator=(CopiedLoop const&) = delete;

    LoopRef ref() const { return loop_.over_copy(functor_); }

private:
    LoopRef loop_;
    std::size_t bytes_;
    alignas(64) std::byte functor_[max_functor_bytes];
};

} // namespace semoe::detail
