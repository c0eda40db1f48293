#pragma once

// Wrappers that watch: a tier that measures how long its users wait, a store whose transfers show
// on the timeline. Both are policies like those that they wrap.

#include <semoe/semoe.hpp>

#include <chrono>
#include <memory>
#include <span>
#include <utility>

namespace serve_layers {

using semoe::BlockInfo;
using semoe::BlockKey;
using semoe::CpuBackend;
using semoe::index_t;

inline double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A store whose transfers are spans of the timeline's row "storage".
template <class Store>
class TracedStore {
public:
    /// @param on  else it only passes on: the timeline's queue waits for every transfer, and would
    ///            hear of a failure before the tier does
    TracedStore(CpuBackend backend, Store store, semoe::trace::Recorder recorder, bool on)
      : store_(std::move(store))
      , watch_(backend.fork())
      , recorder_(std::move(recorder))
      , on_(on) {}

    void declare(BlockKey key, BlockInfo info) { store_.declare(key, info); }
    bool contains(BlockKey key) const { return store_.contains(key); }
    BlockInfo info(BlockKey key) const { return store_.info(key); }
    auto load(CpuBackend& b, BlockKey key, semoe::Bytes<semoe::HostSpace> dst) {
        return watched(b, "load", [&] { return store_.load(b, key, dst); });
    }
    auto store(CpuBackend& b, BlockKey key, semoe::ConstBytes<semoe::HostSpace> src) {
        return watched(b, "store", [&] { return store_.store(b, key, src); });
    }
    void commit() { store_.commit(); }

private:
    template <class F>
    auto watched(CpuBackend& b, char const* name, F const& transfer) {
        if (!on_) return transfer();
        watch_.wait(b.record());
        auto const span = recorder_.span(watch_, name, "storage");
        auto const done = transfer();
        watch_.wait(done);
        return done;
    }

    Store store_;
    CpuBackend watch_;
    semoe::trace::Recorder recorder_;
    bool on_;
};

/// A tier that knows how long acquire took.
template <class Tier>
class WatchedTier {
public:
    WatchedTier(Tier tier, semoe::trace::Recorder recorder)
      : tier_(std::move(tier))
      , recorder_(std::move(recorder)) {}

    void declare(CpuBackend& b, BlockKey key, BlockInfo info) { tier_.declare(b, key, info); }
    bool contains(BlockKey key) const { return tier_.contains(key); }
    BlockInfo info(BlockKey key) const { return tier_.info(key); }
    bool resident(BlockKey key) const { return tier_.resident(key); }
    bool arrived(BlockKey key) const requires semoe::HasArrival<Tier> { return tier_.arrived(key); }
    index_t max_pinned(semoe::BlockKind kind) const { return tier_.max_pinned(kind); }
    semoe::TierCounters counters() const { return tier_.counters(); }
    auto acquire(CpuBackend& b, BlockKey key, semoe::Access access) {
        auto const span = recorder_.span("wait for a block", "acquire");
        auto const start = std::chrono::steady_clock::now();
        auto lease = tier_.acquire(b, key, access);
        *waited_ += seconds_since(start);
        return lease;
    }
    void prefetch(CpuBackend& b, std::span<BlockKey const> upcoming) noexcept {
        tier_.prefetch(b, upcoming);
    }
    void flush(CpuBackend& b) { tier_.flush(b); }
    void predict(semoe::layer_id layer, std::span<BlockKey const> blocks) noexcept requires
        semoe::HasPrediction<Tier, CpuBackend> {
        tier_.predict(layer, blocks);
    }
    auto acquire_aside(CpuBackend& b, BlockKey key,
                       semoe::Access access) requires semoe::HasPrediction<Tier, CpuBackend> {
        return tier_.acquire_aside(b, key, access);
    }

    /// Seconds that acquire took so far, of one host thread.
    double waited() const { return *waited_; }

private:
    Tier tier_;
    semoe::trace::Recorder recorder_;
    std::shared_ptr<double> waited_ = std::make_shared<double>(0);
};

} // namespace serve_layers
