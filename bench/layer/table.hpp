#pragma once

#include "layer/result.hpp"

#include <benchmark/benchmark.h>
#include <cstdio>

namespace bench {

/// Prints a line for each row as it is done.
class TableReporter final : public benchmark::BenchmarkReporter {
public:
    /// @param results  what the rows left so far, the newest last; all three outlive the reporter
    TableReporter(Setting const& setting, Probes const& probes, std::vector<Result> const& results)
      : setting_(setting)
      , probes_(probes)
      , results_(results) {}

    bool ReportContext(Context const&) override {
        std::printf("%s, %d threads, instruction set %s\n", setting_.processor.c_str(),
                    setting_.threads, setting_.isa.c_str());
        std::printf("roofs: %s\n\n", Roofs(probes_).text().c_str());
        std::printf("%-16s %-5s %-8s %-16s %5s %6s %9s %8s %6s %8s", "shape", "type", "routing",
                    "work", "T", "rows/e", "ms", "GFLOP/s", "GB/s", "roofline");
        for (auto const& name : setting_.baselines) std::printf(" %9s", name.c_str());
        std::printf("\n");
        std::fflush(stdout);
        return true;
    }
    void ReportRuns(std::vector<Run> const& runs) override {
        for (Run const& run : runs)
            if (std::string const* const error = error_of(run))
                std::printf("%s: %s\n", run.run_name.function_name.c_str(), error->c_str());
            else if (!results_.empty())
                print(results_.back());
        std::fflush(stdout);
    }

private:
    /// What it was skipped for, if it was; Google Benchmark 1.8 renamed both members.
    template <class R>
    static std::string const* error_of(R const& run) {
        if constexpr (requires { run.error_occurred; })
            return run.error_occurred ? &run.error_message : nullptr;
        else
            return run.skipped ? &run.skip_message : nullptr;
    }
    void print(Result const& r) const {
        std::printf("%-16s %-5s %-8s %-16s %5d %6.1f %9.2f %8.0f %6.1f %8.2f", r.row.shape.name,
                    to_string(r.row.weights), to_string(r.row.skew), to_string(r.row.work),
                    int(r.row.tokens), r.outcome.rows_per_expert, r.milliseconds(), r.gflops(),
                    r.gbytes(), r.roofline());
        for (auto const& name : setting_.baselines)
            if (double const ratio = r.ratio(name); ratio > 0)
                std::printf(" %8.2fx", ratio);
            else
                std::printf(" %9s", "");
        std::printf("\n");
    }

    Setting const& setting_;
    Probes const& probes_;
    std::vector<Result> const& results_;
};

} // namespace bench
