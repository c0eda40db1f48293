#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/resident.hpp"

#include <memory>
#include <mutex>
#include <span>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

namespace semoe::tier {

/// A lease of one of two tiers.
template <class Dense, class Sparse>
class SplitLease {
public:
    SplitLease(Dense lease)
      : lease_(std::in_place_index<0>, std::move(lease)) {}
    SplitLease(Sparse lease) requires(!std::same_as<Dense, Sparse>)
      : lease_(std::in_place_index<1>, std::move(lease)) {}

    auto bytes() const {
        return std::visit([](auto const& lease) { return lease.bytes(); }, lease_);
    }

private:
    std::variant<Dense, Sparse> lease_;
};

/// Two tiers as one: dense blocks (router, shared expert: those with a negative expert number),
/// which every step needs, lie in the first, experts, of which it needs some, in the second. Each
/// has slots, a store and a queue of transfers of its own, so neither waits for the other's:
///
///     tier::Split tier{tier::Resident{backend}, tier::Cached{backend, file, {.slots = 64}}};
///
/// A tier is told of announcements that name blocks of its own; other lists leave the one that it
/// has. So what the first does follows from the order of the program alone, not from which experts
/// were chosen. Copies are the same tier; any thread may call where both tiers allow it.
template <class Dense, class Sparse>
class Split {
public:
    Split(Dense dense, Sparse sparse)
      : state_(std::make_shared<State>(std::move(dense), std::move(sparse))) {}

    /// The tier of router and shared expert.
    Dense& dense() const { return state_->dense; }
    /// The tier of experts.
    Sparse& sparse() const { return state_->sparse; }

    template <class B>
    void declare(B& b, BlockKey key, BlockInfo info) {
        static_assert(MemoryTier<Dense, B>, "tier::Split: the tier of dense blocks is no "
                                            "MemoryTier (see tier/concept.hpp)");
        static_assert(MemoryTier<Sparse, B>, "tier::Split: the tier of experts is no MemoryTier "
                                             "(see tier/concept.hpp)");
        on_tier(key, [&](auto& tier) { tier.declare(b, key, info); });
        std::lock_guard lock(state_->mutex);
        state_->known.insert(key); // the tier may have had it before
        state_->list.resize(state_->known.size() * longest_list_per_block);
    }
    bool contains(BlockKey key) const {
        return on_tier(key, [&](auto& tier) { return tier.contains(key); });
    }
    BlockInfo info(BlockKey key) const {
        return on_tier(key, [&](auto& tier) { return tier.info(key); });
    }
    bool resident(BlockKey key) const {
        return on_tier(key, [&](auto& tier) { return tier.resident(key); });
    }
    bool arrived(BlockKey key) const requires HasArrival<Sparse> {
        return on_tier(key, [&](auto& tier) {
            if constexpr (HasArrival<std::remove_cvref_t<decltype(tier)>>)
                return tier.arrived(key);
            else
                return tier.resident(key);
        });
    }
    /// Of experts: they are leased in groups, dense blocks one by one.
    index_t max_pinned(BlockKind kind) const { return sparse().max_pinned(kind); }
    /// Of both tiers together.
    TierCounters counters() const {
        TierCounters all = dense().counters();
        TierCounters const more = sparse().counters();
        all.acquires += more.acquires;
        all.hits += more.hits;
        all.loads += more.loads;
        all.evictions += more.evictions;
        all.write_backs += more.write_backs;
        all.bytes_loaded += more.bytes_loaded;
        all.bytes_stored += more.bytes_stored;
        return all;
    }

    /// As the block's own tier.
    template <class B>
    [[nodiscard]] auto acquire(B& b, BlockKey key, Access access) {
        using DenseLease = decltype(dense().acquire(b, key, access));
        using SparseLease = decltype(sparse().acquire(b, key, access));
        using Lease = SplitLease<DenseLease, SparseLease>;
        return on_tier(key, [&](auto& tier) { return Lease(tier.acquire(b, key, access)); });
    }
    /// As acquire, out of turn.
    template <class B>
    [[nodiscard]] auto acquire_aside(B& b, BlockKey key,
                                     Access access) requires HasPrediction<Sparse, B> {
        using Lease = decltype(acquire(b, key, access));
        return on_tier(key, [&](auto& tier) {
            if constexpr (requires { tier.acquire_aside(b, key, access); })
                return Lease(tier.acquire_aside(b, key, access));
            else
                return Lease(tier.acquire(b, key, access));
        });
    }
    /// Tells the tier of experts what a layer will probably acquire.
    void predict(layer_id layer, std::span<BlockKey const> experts) noexcept requires
        requires(Sparse& tier) {
        tier.predict(layer, experts);
    }
    { sparse().predict(layer, experts); }
    void discard(BlockKey key) requires HasDiscard<Sparse> {
        on_tier(key, [&](auto& tier) {
            if constexpr (HasDiscard<std::remove_cvref_t<decltype(tier)>>) tier.discard(key);
        });
    }
    /// Tells each tier of its own blocks in the list, if there are any.
    /// @param upcoming  what goes beyond eight times the number of declared blocks is ignored
    template <class B>
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        std::lock_guard lock(state_->mutex);
        auto const tell = [&](auto& tier, bool dense_ones) {
            std::size_t n = 0;
            for (BlockKey key : upcoming)
                if (is_dense(key) == dense_ones && n < state_->list.size()) state_->list[n++] = key;
            if (n > 0) tier.prefetch(b, std::span<BlockKey const>(state_->list).first(n));
        };
        tell(dense(), true);
        tell(sparse(), false);
    }
    /// Each tier's own, one after the other. Over one file these are two commits: whoever dies in
    /// between leaves the dense blocks of one step and the experts of the last.
    template <class B>
    void flush(B& b) {
        dense().flush(b);
        sparse().flush(b);
    }

private:
    static constexpr std::size_t longest_list_per_block = 8;

    struct State {
        State(Dense d, Sparse s)
          : dense(std::move(d))
          , sparse(std::move(s)) {}

        Dense dense;
        Sparse sparse;
        std::mutex mutex;
        std::unordered_set<BlockKey, detail::BlockKeyHash> known; ///< declared here
        std::vector<BlockKey> list; ///< one tier's part of an announcement
    };

    static bool is_dense(BlockKey key) { return key.expert < 0; }
    template <class F>
    auto on_tier(BlockKey key, F const& f) const {
        return is_dense(key) ? f(state_->dense) : f(state_->sparse);
    }

    std::shared_ptr<State> state_;
};

static_assert(MemoryTier<Split<Resident<CpuBackend>, Resident<CpuBackend>>, CpuBackend>);

} // namespace semoe::tier
