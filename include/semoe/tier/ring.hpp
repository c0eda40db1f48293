#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/core/error.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/layer_cycle.hpp"
#include "semoe/tier/eviction.hpp"
#include "semoe/tier/store/host.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace semoe::tier {

struct RingOptions {
    index_t slots = 2;     ///< layers whose blocks lie in backend memory at once
    index_t contexts = 1;  ///< forwards that run at once, each of which leases its share of a layer
    int in_flight = 8;     ///< loads under way at a time
    bool pin_dense = true; ///< dense blocks never lose their place; else they take part

    /// @throws precondition_error naming the field
    void validate() const {
        expects(slots >= 1, "RingOptions: slots is {}, must be at least 1", slots);
        expects(contexts >= 1, "RingOptions: contexts is {}, must be at least 1", contexts);
        expects(in_flight >= 1 && in_flight <= 64,
                "RingOptions: in_flight is {}, must be between 1 and 64", in_flight);
    }
};

/// Layers that take turns in the memory of a few: while one computes, the next ones arrive, and
/// behind the last comes the first again, for the next token (the ring of memory sections of
/// SE-MoE, arXiv 2205.10034, section 3.3.2: compute, release, load). It needs no knowledge of what
/// tokens will choose, so it suits batches that use most experts of a layer; for single tokens, of
/// which each needs a few, see Cached.
///
///     tier::FileStore store{"experts.semoe", {.read_only = true}};
///     tier::Ring tier{backend, store, {.slots = 3}};
///
/// Memory for `slots` layers is taken in `declare` and divided into places of one block. A block's
/// place goes to the block of the layer that is `slots` further on as soon as the work that reads
/// it is done, so the unit in which layers replace each other is an expert. Layers may also be gone
/// through backwards, as in training: the ring turns with whoever uses it. Everything that a Cached
/// promises, this tier does: it is one, told what comes next.
template <class B, class Store>
class Ring {
    using Tier = Cached<B, Store, eviction::Lru>;

public:
    using lease_type = typename Tier::lease_type;

    /// @throws precondition_error naming a value that is out of range
    Ring(B backend, Store store, RingOptions options = {})
      : state_(std::make_shared<State>(std::move(backend), std::move(store), options)) {}

    /// As Cached::declare. @cost places for `slots` layers of the kind, as far as they are missing
    void declare(B& b, BlockKey key, BlockInfo info) {
        std::lock_guard lock(state_->mutex);
        bool const present = tier().contains(key);
        try {
            tier().declare(b, key, info);
        } catch (...) { // there may be no memory for a place, which an acquire asks for once more
            if (!present && tier().contains(key)) state_->add(key);
            throw;
        }
        if (!present) state_->add(key);
    }
    bool contains(BlockKey key) const { return tier().contains(key); }
    BlockInfo info(BlockKey key) const { return tier().info(key); }
    bool resident(BlockKey key) const { return tier().resident(key); }
    bool arrived(BlockKey key) const { return tier().arrived(key); }
    index_t max_pinned(BlockKind kind) const { return tier().max_pinned(kind); }
    TierCounters counters() const { return tier().counters(); }
    Store& store() { return tier().store(); }

    /// As Cached::acquire. @sync when a layer begins, loads of the next ones are enqueued
    [[nodiscard]] lease_type acquire(B& b, BlockKey key, Access access) {
        auto lease = tier().acquire(b, key, access);
        std::lock_guard lock(state_->mutex);
        if (state_->cycle.begin(key.layer)) state_->announce_after(b, key);
        return lease;
    }
    /// As acquire, out of turn: the ring does not move. For who predicts.
    [[nodiscard]] lease_type acquire_aside(B& b, BlockKey key, Access access) {
        return tier().acquire(b, key, access);
    }
    /// What the present layer will acquire; the next layers come behind it.
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        std::lock_guard lock(state_->mutex);
        state_->announce(b, upcoming);
    }
    void discard(BlockKey key) { tier().discard(key); }
    void flush(B& b) { tier().flush(b); }

private:
    struct State {
        State(B backend, Store store, RingOptions o)
          : options((o.validate(), o))
          , tier(std::move(backend), std::move(store),
                 {.contexts = o.contexts,
                  .layers = o.slots,
                  .in_flight = o.in_flight,
                  .pin_dense = o.pin_dense,
                  .raised_by = "RingOptions::slots"}) {}

        void add(BlockKey key) {
            if (++blocks * longest_list_per_block > list.capacity())
                list.reserve(2 * blocks * longest_list_per_block);
            bool const turns = key.expert >= 0 || !options.pin_dense;
            if (turns && key.kind == BlockKind::weight) cycle.add(key);
        }
        /// A layer has begun with this block: the rest of it, and the next layers. A dense block
        /// may be needed once more, as the router is for the gate of a shared expert.
        void announce_after(B& b, BlockKey first) noexcept {
            list.clear();
            cycle.for_each_ahead(0, options.slots, [&](BlockKey key) {
                if (key != first || key.expert < 0) append(key);
            });
            tier.prefetch(b, list);
        }
        /// These, and the next layers.
        void announce(B& b, std::span<BlockKey const> upcoming) noexcept {
            list.clear();
            for (BlockKey const key : upcoming) append(key);
            cycle.for_each_ahead(1, options.slots, [&](BlockKey key) { append(key); });
            tier.prefetch(b, list);
        }
        void append(BlockKey key) {
            if (list.size() < list.capacity()) list.push_back(key);
        }

        static constexpr std::size_t longest_list_per_block = 9;
        RingOptions options;
        std::mutex mutex;
        Tier tier;
        detail::LayerCycle cycle;
        std::vector<BlockKey> list;
        std::size_t blocks = 0;
    };
    Tier& tier() const { return state_->tier; }

    std::shared_ptr<State> state_;
};

static_assert(MemoryTier<Ring<CpuBackend, HostStore>, CpuBackend>);

} // namespace semoe::tier
