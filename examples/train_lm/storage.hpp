#pragma once

// The blocks of MoE layers on disk: a file in the folder that --storage names, with as much of it
// in memory as --memory allows. The file also takes the dense parameters and the state of the run
// when it is flushed, all in one step, so that it alone is a run that can be continued.

#include "../support/timed_tier.hpp"
#include "dense.hpp"
#include "session.hpp"

#include <semoe/checkpoint/checkpoint.hpp>
#include <semoe/tier/store/file.hpp>

#include <cstdio>
#include <sstream>

namespace train_lm {

/// The state of a run as a block of text, "name=value" a line, padded with zeros.
class StoredRun {
public:
    static constexpr semoe::BlockKey key{.layer = 1'000'000}; // behind any model's
    static constexpr semoe::BlockInfo info{index_t(64) << 10};

    static std::string text(semoe::checkpoint::RunState const& state) {
        std::ostringstream out;
        out << "step=" << state.step << "\nseed=" << state.seed << "\n";
        for (auto const& [name, value] : state.fields) out << name << "=" << value << "\n";
        std::string text = out.str();
        text.resize(std::size_t(info.bytes));
        return text;
    }
    static semoe::checkpoint::RunState parse(std::string const& text) {
        semoe::checkpoint::RunState state;
        std::istringstream in(text.substr(0, text.find('\0')));
        for (std::string line; std::getline(in, line);) {
            auto const at = line.find('=');
            std::string const name = line.substr(0, at), value = line.substr(at + 1);
            if (name == "step")
                state.step = std::atoll(value.c_str());
            else if (name == "seed")
                state.seed = std::strtoull(value.c_str(), nullptr, 10);
            else
                state.fields[name] = value;
        }
        return state;
    }
};

/// Everything in memory.
class InMemory {
public:
    using Tier = semoe::tier::Resident<Backend>;
    InMemory(Backend& b, Options const&)
      : tier_(b) {}
    Tier& tier() { return tier_; }

private:
    Tier tier_;
};

class OnDisk {
public:
    /// As SE-MoE, a block that is written out has been used a few times, unless all are newer; what
    /// is announced, as all is in training, goes by when it is needed next.
    using Eviction = semoe::tier::eviction::Lfu;
    using Cached = semoe::tier::Cached<Backend, semoe::tier::FileStore, Eviction>;
    using Tier = examples::TimedTier<semoe::Sequenced<Cached>>;

    OnDisk(Backend& b, Options const& options)
      : store_(storage_file(options.storage))
      , tier_(semoe::Sequenced{
            Cached{b, store_, {.bytes = options.memory, .in_flight = 64}, Eviction{2}}}) {}

    Tier& tier() { return tier_; }

    /// Makes the file hold the run as it is now. @param visit_dense  calls f(b, name, view) for
    /// every dense tensor, always in the same order
    template <class VisitDense>
    void flush(Backend& b, semoe::checkpoint::RunState const& state, VisitDense&& visit_dense) {
        semoe::BlockKey key = StoredRun::key;
        std::string const text = StoredRun::text(state);
        store_.declare(key, StoredRun::info);
        b.wait(store_.store(
            b, key, {reinterpret_cast<std::byte const*>(text.data()), StoredRun::info.bytes}));
        DenseTensors dense{key, [&](semoe::BlockKey k, semoe::Bytes<semoe::HostSpace> bytes) {
                               store_.declare(k, {bytes.size});
                               b.wait(store_.store(b, k, bytes));
                           }};
        visit_dense(dense);
        tier_.flush(b);
    }
    /// The dense tensors as of the last flush.
    template <class VisitDense>
    void load_dense(Backend& b, VisitDense&& visit_dense) {
        DenseTensors dense{StoredRun::key,
                           [&](semoe::BlockKey k, semoe::Bytes<semoe::HostSpace> bytes) {
                               store_.declare(k, {bytes.size});
                               b.wait(store_.load(b, k, bytes));
                           }};
        visit_dense(dense);
    }

    /// Traffic since the beginning. @param seconds  that the run has taken, @param steps  its steps
    std::string traffic(double seconds, index_t steps) const {
        auto const c = tier_.counters();
        char text[200];
        double const n = double(std::max<index_t>(steps, 1));
        std::snprintf(text, sizeof text,
                      "%.2f GB read, %.2f GB written (a step %.0f MB and %.0f MB), %.1f %% hits, "
                      "stalled for %.1f %% of the time",
                      double(c.bytes_loaded) * 1e-9, double(c.bytes_stored) * 1e-9,
                      double(c.bytes_loaded) * 1e-6 / n, double(c.bytes_stored) * 1e-6 / n,
                      100 * double(c.hits) / double(std::max<index_t>(c.acquires, 1)),
                      100 * tier_.waited() / std::max(seconds, 1e-9));
        return text;
    }

private:
    /// Numbers the tensors that it is shown, behind the run's text.
    template <class F>
    struct DenseTensors {
        static constexpr bool states = true;
        semoe::BlockKey key;
        F f;
        template <class T>
        void operator()(Backend&, std::string const&, MatrixOf<T> m) {
            ++key.expert;
            f(key, semoe::as_writable_bytes(semoe::flat(m)));
        }
    };
    template <class F>
    DenseTensors(semoe::BlockKey, F) -> DenseTensors<F>;

    semoe::tier::FileStore store_;
    Tier tier_;
};

} // namespace train_lm
