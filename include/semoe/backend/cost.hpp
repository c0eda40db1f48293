#pragma once

#include <concepts>

namespace semoe {

/// What work takes from the machine that does it.
struct Cost {
    double flops = 0;
    double bytes = 0; ///< of memory, read and written

    constexpr Cost& operator+=(Cost const& other) {
        flops += other.flops;
        bytes += other.bytes;
        return *this;
    }
    friend constexpr bool operator==(Cost const&, Cost const&) = default;
};

/// Capability of a functor: it says what all its indices take together. Only a backend that models
/// a machine asks (backend/simulated.hpp); elsewhere nobody calls cost(), so it compiles to
/// nothing.
template <class F>
concept HasCost = requires(F const& f) {
    { f.cost() } -> std::same_as<Cost>;
};

} // namespace semoe
