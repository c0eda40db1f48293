#include "layer/plot.hpp"
#include "layer/record.hpp"
#include "layer/rows.hpp"
#include "layer/table.hpp"

#include <cstdlib>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string_view>

/// Whole layers over named shapes, beside the roofline and what else there is to do the same.
///
///     layer_bench [--quick] [--threads=2] [--seconds=1.5] [--rounds=5]
///                 [--svg=FILE] [--record=README] and the flags of Google Benchmark

namespace bench {
namespace {

struct Options {
    bool quick = false;
    int threads = 2;
    Budget budget{.seconds = 0, .rounds = 0};
    std::string svg, readme;

    /// Takes its own flags out of the arguments.
    Options(int& argc, char** argv) {
        if (char const* const n = std::getenv("SEMOE_BENCH_THREADS")) threads = std::atoi(n);
        int kept = 1;
        for (int i = 1; i < argc; ++i) {
            auto const takes = [&](std::string_view flag, auto&& set) {
                bool const taken = std::string_view(argv[i]).starts_with(flag);
                if (taken) set(argv[i] + flag.size());
                return taken;
            };
            bool const taken =
                takes("--quick", [&](char const*) { quick = true; }) ||
                takes("--threads=", [&](char const* v) { threads = std::atoi(v); }) ||
                takes("--seconds=", [&](char const* v) { budget.seconds = std::atof(v); }) ||
                takes("--rounds=", [&](char const* v) { budget.rounds = std::atoi(v); }) ||
                takes("--svg=", [&](char const* v) { svg = v; }) ||
                takes("--record=", [&](char const* v) { readme = v; });
            if (!taken) argv[kept++] = argv[i];
        }
        argc = kept;
        if (budget.seconds <= 0) budget.seconds = quick ? 0.4 : 1.5;
        if (budget.rounds <= 0) budget.rounds = quick ? 3 : 5;
        semoe::expects(threads >= 1, "{} threads", threads);
        semoe::expects(readme.empty() || threads == 2,
                       "the table of --record is of 2 threads, not of {}", threads);
    }
};

/// Runs rows that come in the order of their memory: each kind of stage is built once.
class Runner {
public:
    Runner(Options const& options, Setting const& setting, Probes& probes)
      : options_(options)
      , setting_(setting)
      , probes_(probes) {}

    std::vector<Result> const& results() const { return results_; }
    /// Whether a row ran, and none went wrong.
    bool all_well() const { return !results_.empty() && !failed_; }

    void run(benchmark::State& state, Row const& row) {
        for (auto _ : state) {
            try {
                Outcome const outcome = time(row);
                state.SetIterationTime(outcome.seconds);
                results_.push_back({row, outcome});
                count(state, results_.back());
            } catch (DoesNotFit const& e) {
                state.SkipWithError(e.what());
                break;
            } catch (std::exception const& e) {
                failed_ = true;
                state.SkipWithError(e.what());
                break;
            }
        }
    }

private:
    Outcome time(Row const& row) {
        using semoe::bf16, semoe::expert::SwiGlu, semoe::expert::Quantized;
        namespace quant = semoe::quant;
        switch (row.weights) {
        case Weights::floats:
            return time_on<SwiGlu<float>>(row);
        case Weights::int8:
            return time_on<Quantized<quant::Int8, SwiGlu<bf16>>>(row);
        case Weights::int4:
            return time_on<Quantized<quant::Int4, SwiGlu<bf16>>>(row);
        case Weights::mxfp4:
            return time_on<Quantized<quant::Mxfp4, SwiGlu<bf16>>>(row);
        case Weights::bf16:
            break;
        }
        return time_on<SwiGlu<bf16>>(row);
    }
    template <class X>
    Outcome time_on(Row const& row) {
        bool const states = is_step(row.work);
        std::string const key = std::string(row.shape.name) + " " + to_string(row.weights) +
                                (row.training() ? " training" : "") + (states ? " states" : "");
        if (key != key_) {
            stage_.reset();
            key_.clear();
            stage_ = std::make_unique<Stage<X>>(row.shape, row.training(), states, max_tokens,
                                                options_.threads);
            key_ = key;
        }
        return time_row(row, static_cast<Stage<X>&>(*stage_), probes_, options_.budget);
    }
    void count(benchmark::State& state, Result const& r) const {
        state.counters["GFLOP/s"] = r.gflops();
        state.counters["GB/s"] = r.gbytes();
        state.counters["memory GB/s"] = r.outcome.bandwidth / 1e9;
        state.counters["peak GFLOP/s"] = r.outcome.peak / 1e9;
        state.counters["roofline"] = r.roofline();
        state.counters["rows/expert"] = r.outcome.rows_per_expert;
        for (auto const& name : setting_.baselines)
            if (double const ratio = r.ratio(name); ratio > 0)
                state.counters[name + "/semoe"] = ratio;
    }

    Options const& options_;
    Setting const& setting_;
    Probes& probes_;
    std::string key_;
    std::unique_ptr<AnyStage> stage_;
    std::vector<Result> results_;
    bool failed_ = false;
};

int main(int argc, char** argv) {
    Options const options(argc, argv);
    Probes probes(options.threads);
    Setting setting{processor_name(), semoe::to_string(semoe::selected_isa()), options.threads, {}};
    std::istringstream names(baseline_names());
    for (std::string name; names >> name;) setting.baselines.push_back(name);

    benchmark::AddCustomContext("processor", setting.processor);
    benchmark::AddCustomContext("instruction_set", setting.isa);
    benchmark::AddCustomContext("threads", std::to_string(options.threads));
    benchmark::AddCustomContext("roofs", Roofs(probes).text());
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;

    Runner runner(options, setting, probes);
    for (Row const& row : options.quick ? quick_rows() : all_rows())
        benchmark::RegisterBenchmark(
            row.name().c_str(), [&runner, row](benchmark::State& state) { runner.run(state, row); })
            ->Iterations(1)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
    TableReporter table(setting, probes, runner.results());
    benchmark::RunSpecifiedBenchmarks(&table);
    Roofs const roofs(probes);
    if (!options.svg.empty()) write_plot(options.svg, setting, roofs, runner.results());
    if (!runner.all_well()) return 1;
    if (!options.readme.empty()) record(options.readme, roofs, runner.results());
    return 0;
}

} // namespace
} // namespace bench

int main(int argc, char** argv) {
    try {
        return bench::main(argc, argv);
    } catch (std::exception const& e) {
        std::fprintf(stderr, "layer_bench: %s\n", e.what());
        return 1;
    }
}
