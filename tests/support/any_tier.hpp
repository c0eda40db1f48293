#pragma once

#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"

#include <memory>
#include <span>
#include <utility>

namespace semoe::test {

/// One type for every tier that is a Cached over memory or wraps one: a layer is compiled once for
/// them all.
template <class B>
class AnyTier {
public:
    using lease_type = typename tier::Cached<B, tier::HostStore>::lease_type;

    template <class Tier>
    explicit AnyTier(Tier tier)
      : tier_(std::make_shared<Model<Tier>>(std::move(tier))) {}

    void declare(B& b, BlockKey key, BlockInfo info) { tier_->declare(b, key, info); }
    bool contains(BlockKey key) const { return tier_->contains(key); }
    BlockInfo info(BlockKey key) const { return tier_->info(key); }
    bool resident(BlockKey key) const { return tier_->resident(key); }
    bool arrived(BlockKey key) const { return tier_->arrived(key); }
    index_t max_pinned(BlockKind kind) const { return tier_->max_pinned(kind); }
    TierCounters counters() const { return tier_->counters(); }
    [[nodiscard]] lease_type acquire(B& b, BlockKey key, Access access) {
        return tier_->acquire(b, key, access);
    }
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        tier_->prefetch(b, upcoming);
    }
    void flush(B& b) { tier_->flush(b); }

private:
    struct Interface {
        virtual ~Interface() = default;
        virtual void declare(B& b, BlockKey key, BlockInfo info) = 0;
        virtual bool contains(BlockKey key) const = 0;
        virtual BlockInfo info(BlockKey key) const = 0;
        virtual bool resident(BlockKey key) const = 0;
        virtual bool arrived(BlockKey key) const = 0;
        virtual index_t max_pinned(BlockKind kind) const = 0;
        virtual TierCounters counters() const = 0;
        virtual lease_type acquire(B& b, BlockKey key, Access access) = 0;
        virtual void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept = 0;
        virtual void flush(B& b) = 0;
    };
    template <class Tier>
    struct Model final : Interface {
        explicit Model(Tier t)
          : tier(std::move(t)) {}
        void declare(B& b, BlockKey key, BlockInfo info) override { tier.declare(b, key, info); }
        bool contains(BlockKey key) const override { return tier.contains(key); }
        BlockInfo info(BlockKey key) const override { return tier.info(key); }
        bool resident(BlockKey key) const override { return tier.resident(key); }
        bool arrived(BlockKey key) const override { return tier.arrived(key); }
        index_t max_pinned(BlockKind kind) const override { return tier.max_pinned(kind); }
        TierCounters counters() const override { return tier.counters(); }
        lease_type acquire(B& b, BlockKey key, Access access) override {
            return tier.acquire(b, key, access);
        }
        void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept override {
            tier.prefetch(b, upcoming);
        }
        void flush(B& b) override { tier.flush(b); }
        Tier tier;
    };

    std::shared_ptr<Interface> tier_;
};

} // namespace semoe::test
