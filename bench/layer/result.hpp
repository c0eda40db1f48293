#pragma once

#include "layer/row.hpp"

#include <cstdio>

namespace bench {

/// A timed row.
struct Result {
    Row row;
    Outcome outcome;

    double milliseconds() const { return outcome.seconds * 1e3; }
    double gflops() const { return outcome.cost.flops / outcome.seconds / 1e9; }
    double gbytes() const { return outcome.cost.bytes / outcome.seconds / 1e9; }
    /// 1 is what the machine can do.
    double roofline() const {
        return roofline_seconds(outcome.cost, outcome.peak, outcome.bandwidth) / outcome.seconds;
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
    std::vector<std::string> baselines; ///< in the order of their columns
};

/// Limits of the machine, as far as they are known by now.
struct Roofs {
    double bf16_gflops, float_gflops, byte_gflops, half_byte_gflops, memory_gbytes;

    explicit Roofs(Probes const& probes)
      : bf16_gflops(probes.bf16_peak.best() / 1e9)
      , float_gflops(probes.float_peak.best() / 1e9)
      , byte_gflops(probes.byte_peak.best() / 1e9)
      , half_byte_gflops(probes.half_byte_peak.best() / 1e9)
      , memory_gbytes(median(probes.bandwidths) / 1e9) {}
    std::string text() const {
        char line[128];
        std::snprintf(line, sizeof line,
                      "bf16 %.0f, float %.0f GFLOP/s, int8 %.0f, int4 %.0f GOP/s, memory %.1f GB/s",
                      bf16_gflops, float_gflops, byte_gflops, half_byte_gflops, memory_gbytes);
        return line;
    }
};

} // namespace bench
