#pragma once

#include "semoe/backend/cost.hpp"
#include "semoe/core/error.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace semoe::simulated {

/// Time on a virtual clock: whole picoseconds, so that sums are exact; enough for 100 days.
using Time = std::chrono::duration<std::int64_t, std::pico>;

inline double seconds(Time time) { return std::chrono::duration<double>(time).count(); }

/// Who does the work of several queues.
enum class Engines {
    own,   ///< each queue computes and copies by itself: queues never hinder one another
    shared ///< one engine computes and one copies, for all queues: each serves one piece of work
           ///< after another, in the order in which the host gave them
};

/// How fast the engines of a queue are, a second. What is infinite costs nothing.
struct Machine {
    static constexpr double infinite = std::numeric_limits<double>::infinity();

    double flops = infinite;        ///< floating-point operations of a functor
    double memory_bytes = infinite; ///< bytes that a functor reads and writes
    double link_bytes = infinite;   ///< bytes that copy() moves
    Engines engines = Engines::own;

    /// What takes longer: its operations at the peak, or its bytes.
    /// @throws precondition_error naming the rate that is not above 0, or at which this would take
    ///         two weeks
    Time compute(Cost const& cost) const {
        return std::max(time("flops", cost.flops, flops),
                        time("memory_bytes", cost.bytes, memory_bytes));
    }
    /// @throws precondition_error as compute()
    Time transfer(std::size_t bytes) const { return time("link_bytes", double(bytes), link_bytes); }

private:
    static Time time(char const* name, double work, double rate) {
        expects(rate > 0, "SimulatedBackend: machine.{} is {}, must be above 0", name, rate);
        double const picoseconds = work / rate * 1e12;
        expects(picoseconds >= 0 && picoseconds < 0x1p60,
                "SimulatedBackend: machine.{} is {} a second: the clock does not reach so far as "
                "{} of them take (is the rate in units of 1e9?)",
                name, rate, work);
        return Time(std::llround(picoseconds));
    }
};

} // namespace semoe::simulated
