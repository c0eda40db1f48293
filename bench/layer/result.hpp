#pragma once

#include "layer/row.hpp"

namespace bench {

/// A timed row and the limits it is compared with.
struct Result {
    Row row;
    Outcome outcome;
    double peak_flops = 0;

    double milliseconds() const { return outcome.seconds * 1e3; }
    double gflops() const { return outcome.cost.flops / outcome.seconds / 1e9; }
    double gbytes() const { return outcome.cost.bytes / outcome.seconds / 1e9; }
    /// 1 is what the machine can do.
    double roofline() const {
        return roofline_seconds(outcome.cost, peak_flops, outcome.bandwidth) / outcome.seconds;
    }
    /// How many times longer a baseline takes; 0 where it was not timed.
    double ratio(std::string const& name) const {
        for (auto const& [baseline, seconds] : outcome.baselines)
            if (baseline == name) return seconds / outcome.seconds;
        return 0;
    }
};

/// Where and how a table was made.
struct Setting {
    std::string processor, isa;
    int threads = 0;
    Roofs roofs;
    std::vector<std::string> baselines; ///< in the order of their columns
};

} // namespace bench
