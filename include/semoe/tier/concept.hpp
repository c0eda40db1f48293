#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"

#include <concepts>
#include <span>

namespace semoe {

/// What a block is: how long, and in which physical order.
struct BlockInfo {
    index_t bytes = 0;
    LayoutId layout = LayoutId::row_major;
    friend bool operator==(BlockInfo const&, BlockInfo const&) = default;
};

/// What a tier has done so far; tests assert these instead of timing.
struct TierCounters {
    index_t acquires = 0, hits = 0, loads = 0, evictions = 0, write_backs = 0;
    index_t bytes_loaded = 0, bytes_stored = 0;
};

/// Bytes at rest. A handle is cheap to copy; copies are the same store.
template <class S, class B>
concept BlockStore = requires(S& s, B& b, BlockKey key, BlockInfo info, Bytes<space_of<B>> dst,
                              ConstBytes<space_of<B>> src) {
    /// Makes the block exist, zero-filled when it is new.
    /// Throws store_error naming both when it exists with another size or layout.
    s.declare(key, info);
    { s.contains(key) } -> std::same_as<bool>;
    { s.info(key) } -> std::same_as<BlockInfo>;
    /// Start a transfer after what b has been given so far; it is done when the event is. May
    /// complete out of order. An error surfaces where the event is waited for.
    { s.load(b, key, dst) } -> std::same_as<typename B::event_type>;
    { s.store(b, key, src) } -> std::same_as<typename B::event_type>;
};

/// Move-only: the block's slot is pinned until the lease dies. Release is queue-ordered: the slot
/// is reused only after the work, given to the acquiring queue so far, that reads it.
template <class L, class B>
concept Lease = std::movable<L> &&(!std::copyable<L>)&&requires(L const& l) {
    { l.bytes() } -> std::same_as<Bytes<space_of<B>>>;
};

template <class M, class B>
concept HasBlocks = requires(M& m, M const& cm, B& b, BlockKey key, BlockInfo info) {
    /// Makes the block exist; called once a block, before the first acquire.
    m.declare(b, key, info);
    { cm.contains(key) } -> std::same_as<bool>;
    { cm.info(key) } -> std::same_as<BlockInfo>;
    /// Whether acquire would find it in a slot.
    { cm.resident(key) } -> std::same_as<bool>;
    /// How many blocks of a kind may be leased at once.
    { cm.max_pinned(key.kind) } -> std::convertible_to<index_t>;
    { cm.counters() } -> std::same_as<TierCounters>;
};
template <class M, class B>
concept HasAcquire = requires(M& m, B& b, BlockKey key, Access access) {
    /// b's queue waits until the block is in its slot. Throws precondition_error when every slot
    /// of the kind is leased (the text says which knob to turn), store_error when the bytes could
    /// not be had.
    { m.acquire(b, key, access) } -> Lease<B>;
};
template <class M, class B>
concept HasPrefetch = requires(M& m, B& b, std::span<BlockKey const> upcoming) {
    /// The order in which acquire will be called. A hint: never blocks, never fails. Replaces the
    /// previous list.
    { m.prefetch(b, upcoming) }
    noexcept;
};
template <class M, class B>
concept HasFlush = requires(M& m, B& b) {
    /// Writes dirty slots back; on return the store has them, or store_error was thrown.
    m.flush(b);
};
/// Slots in backend memory over a store. A handle is cheap to copy; copies are the same tier.
template <class M, class B>
concept MemoryTier =
    std::copyable<M> && HasBlocks<M, B> && HasAcquire<M, B> && HasPrefetch<M, B> && HasFlush<M, B>;

} // namespace semoe
