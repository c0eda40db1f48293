#pragma once

// A store whose transfers show on the timeline; it is a policy like the one that it wraps.

#include <semoe/semoe.hpp>

#include <utility>

namespace serve_layers {

using semoe::BlockInfo;
using semoe::BlockKey;
using semoe::CpuBackend;

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

} // namespace serve_layers
