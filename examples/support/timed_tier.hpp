#pragma once

// A tier that measures how long its users wait. It is a policy like the one that it wraps, and can
// whatever that one can.

#include <semoe/core/trace.hpp>
#include <semoe/tier/concept.hpp>

#include <chrono>
#include <memory>
#include <span>
#include <utility>

namespace examples {

using semoe::BlockInfo;
using semoe::BlockKey;

inline double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Copies are the same tier; one host thread acquires. With a trace::Recorder, waiting shows on the
/// timeline's row "acquire".
template <class Tier, class Tracer = semoe::trace::Null>
class TimedTier {
public:
    explicit TimedTier(Tier tier, Tracer tracer = {})
      : tier_(std::move(tier))
      , tracer_(std::move(tracer)) {}

    template <class B>
    void declare(B& b, BlockKey key, BlockInfo info) {
        tier_.declare(b, key, info);
    }
    bool contains(BlockKey key) const { return tier_.contains(key); }
    BlockInfo info(BlockKey key) const { return tier_.info(key); }
    bool resident(BlockKey key) const { return tier_.resident(key); }
    bool arrived(BlockKey key) const requires semoe::HasArrival<Tier> { return tier_.arrived(key); }
    semoe::index_t max_pinned(semoe::BlockKind kind) const { return tier_.max_pinned(kind); }
    semoe::TierCounters counters() const { return tier_.counters(); }
    template <class B>
    [[nodiscard]] auto acquire(B& b, BlockKey key, semoe::Access access) {
        [[maybe_unused]] auto const span = tracer_.span("wait for a block", "acquire");
        auto const start = std::chrono::steady_clock::now();
        auto lease = tier_.acquire(b, key, access);
        *waited_ += seconds_since(start);
        return lease;
    }
    template <class B>
    [[nodiscard]] auto acquire_aside(B& b, BlockKey key,
                                     semoe::Access access) requires semoe::HasPrediction<Tier, B> {
        return tier_.acquire_aside(b, key, access);
    }
    template <class B>
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        tier_.prefetch(b, upcoming);
    }
    void predict(semoe::layer_id layer, std::span<BlockKey const> blocks) noexcept requires
        requires(Tier& tier) {
        tier.predict(layer, blocks);
    }
    { tier_.predict(layer, blocks); }
    void discard(BlockKey key) requires semoe::HasDiscard<Tier> { tier_.discard(key); }
    template <class B>
    void flush(B& b) {
        tier_.flush(b);
    }

    /// Seconds that acquire took so far.
    double waited() const { return *waited_; }

private:
    Tier tier_;
    Tracer tracer_;
    std::shared_ptr<double> waited_ = std::make_shared<double>(0);
};

} // namespace examples
