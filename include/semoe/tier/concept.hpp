#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"

#include <concepts>
#include <span>
#include <string>

namespace semoe {

/// What a block is: how long, in which physical order, and of what.
struct BlockInfo {
    index_t bytes = 0;
    LayoutId layout = LayoutId::row_major;
    std::uint64_t contents = 0; ///< as BlockLayout::contents; 0: unknown, and equal to any
    friend bool operator==(BlockInfo const&, BlockInfo const&) = default;
};

/// As error texts name a block: "block (layer 3, expert 5, weight)".
inline std::string to_string(BlockKey key) {
    std::string const whose = key.expert == router_block   ? "router"
                              : key.expert == shared_block ? "shared expert"
                                                           : message("expert {}", key.expert);
    return message("block (layer {}, {}, {})", key.layer, whose, to_string(key.kind));
}
/// "4096 bytes, row_major"; of a layout of others than the library's own "4096 bytes, layout 100".
inline std::string to_string(BlockInfo info) {
    auto const number = std::uint32_t(info.layout);
    return message("{} bytes, {}", info.bytes,
                   number < num_layout_ids ? to_string(info.layout) : message("layout {}", number));
}

/// What a tier has done so far; tests assert these instead of timing.
struct TierCounters {
    index_t acquires = 0;    ///< leases given
    index_t hits = 0;        ///< of those, blocks found in a slot or on their way into one
    index_t loads = 0;       ///< transfers started from the store, prefetches among them
    index_t evictions = 0;   ///< blocks that lost their slot to another
    index_t write_backs = 0; ///< transfers started to the store
    index_t bytes_loaded = 0, bytes_stored = 0;
    friend bool operator==(TierCounters const&, TierCounters const&) = default;
};

template <class S>
concept HasStoredBlocks = requires(S& s, S const& cs, BlockKey key, BlockInfo info) {
    /// Makes the block exist, zero-filled when it is new.
    /// Throws store_error naming both when it exists with another size or layout.
    s.declare(key, info);
    { cs.contains(key) } -> std::same_as<bool>;
    /// Throws store_error naming the key when there is no such block.
    { cs.info(key) } -> std::same_as<BlockInfo>;
};
template <class S, class B>
concept HasTransfers = requires(S& s, B& b, BlockKey key, Bytes<space_of<B>> dst,
                                ConstBytes<space_of<B>> src) {
    /// Start a transfer of the whole block after what b has been given so far; it is done when the
    /// event is. Transfers may complete out of order: who needs an order waits for the event. An
    /// error is thrown here or where the event is waited for.
    { s.load(b, key, dst) } -> std::same_as<typename B::event_type>;
    { s.store(b, key, src) } -> std::same_as<typename B::event_type>;
};
/// Whether a transfer that the store has accepted may fail afterwards. A store of memory says
/// `static constexpr bool fails_late = false;`, and the host never waits for its transfers.
template <class S>
inline constexpr bool fails_late = true;
template <class S>
    requires requires { S::fails_late; }
inline constexpr bool fails_late<S> = S::fails_late;

/// Capability: a store that outlives the process.
template <class S>
concept HasCommit = requires(S& s) {
    /// Makes every store whose event is done last, all of them in one step: whoever opens the store
    /// later, also after the process or the machine died at any moment, finds the blocks as they
    /// were at one commit, the last that returned or one that was under way. Called while no
    /// transfer is. Throws store_error; the last commit then holds. The host waits for the device.
    s.commit();
};

/// Bytes at rest. A handle is cheap to copy; copies are the same store. Any thread may call.
template <class S, class B>
concept BlockStore = std::copyable<S> && HasStoredBlocks<S> && HasTransfers<S, B>;

/// Move-only: the block's slot is pinned until the lease dies. Release is queue-ordered: the slot
/// is reused only after the work, given to the acquiring queue so far, that reads it.
/// Several leases of one block may live at once: readers on any queues; a writer only beside leases
/// acquired through the same queue.
template <class L, class B>
concept Lease = std::movable<L> &&(!std::copyable<L>)&&requires(L const& l) {
    { l.bytes() } -> std::same_as<Bytes<space_of<B>>>;
};

template <class M, class B>
concept HasBlocks = requires(M& m, M const& cm, B& b, BlockKey key, BlockInfo info) {
    /// Makes the block exist, before its first acquire; again with the same info does nothing.
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
    /// of the kind is leased (the text says which knob to turn) or the block was never declared,
    /// store_error when the bytes could not be had; the block may be acquired again after that. If
    /// b's queue is not inline, what goes wrong later is thrown where b synchronises.
    { m.acquire(b, key, access) } -> Lease<B>;
};
template <class M, class B>
concept HasPrefetch = requires(M& m, B& b, std::span<BlockKey const> upcoming) {
    /// The order in which acquire will be called to read or to write; what will be overwritten is
    /// left out. A hint: never blocks, never fails. Replaces the previous list.
    { m.prefetch(b, upcoming) }
    noexcept;
};
template <class M, class B>
concept HasFlush = requires(M& m, B& b) {
    /// Writes dirty slots back, and commits where the store HasCommit; on return the store has
    /// them, or store_error was thrown.
    m.flush(b);
};
/// Capability: a tier that knows what acquire would have to wait for.
template <class M>
concept HasArrival = requires(M const& m, BlockKey key) {
    /// Whether the block's bytes are in its slot by now, as far as the backend can tell.
    { m.arrived(key) } -> std::same_as<bool>;
};
/// Capability: a tier that takes guesses.
template <class M, class B>
concept HasPrediction = requires(M& m, B& b, BlockKey key, std::span<BlockKey const> blocks) {
    /// What a layer will probably acquire next, for as long as it has not said so itself.
    { m.predict(key.layer, blocks) }
    noexcept;
    /// As acquire, but it says nothing of the order in which blocks are needed.
    { m.acquire_aside(b, key, Access::read) } -> Lease<B>;
};
/// Capability: a tier that can be told what is of no more use.
template <class M>
concept HasDiscard = requires(M& m, BlockKey key) {
    /// What the block holds will be overwritten before anybody reads it: it costs no more transfer.
    m.discard(key);
};
/// Slots in backend memory over a store. A handle is cheap to copy; copies are the same tier.
template <class M, class B>
concept MemoryTier =
    std::copyable<M> && HasBlocks<M, B> && HasAcquire<M, B> && HasPrefetch<M, B> && HasFlush<M, B>;

} // namespace semoe
