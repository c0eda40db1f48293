#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/core/error.hpp"
#include "semoe/tier/cached_options.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/cached_state.hpp"
#include "semoe/tier/detail/slot_lease.hpp"
#include "semoe/tier/eviction.hpp"
#include "semoe/tier/store/host.hpp"

#include <memory>
#include <span>
#include <utility>

namespace semoe::tier {

/// A few slots of backend memory over a store that holds every block: weights, gradients, masters
/// and moments may together be larger than the memory they are used in. Copies are the same tier,
/// and belong to one rank: ranks that are threads make one each. Of a rank any number of threads
/// may use it, each with its own queue.
///
///     tier::HostStore store;
///     tier::Cached tier{backend, store, {.slots = 3}};
///
/// Transfers run on a queue forked from the backend, beside the computation. `prefetch` takes the
/// order in which blocks will be acquired and starts loading them, also later, whenever a lease is
/// released: always the first that is missing, into the slot whose block is needed last, never one
/// needed before it (the aggressive rule of Cao, Felten, Karlin and Li, SIGMETRICS 1995). A
/// released slot is reused once the work that the acquiring queue had been given by then is done.
///
/// Dense blocks, which every token needs, have memory of their own and are never evicted; experts'
/// blocks share slots, each as large as its kind's largest block so far. How many there are is
/// counted, a kind or by layers, or follows from a budget for everything together:
///
///     tier::Cached tier{backend, store, {.bytes = index_t(2) << 30}};
///
/// Memory is taken in `declare`, at most one slot a block; with a budget of bytes, whose slots are
/// shared out anew with each block, at the first acquire or prefetch after it. A block that changes
/// the size or the number of slots replaces them, after they were written back. Nothing else
/// allocates.
///
/// What a writer leaves is in the slot alone until it is evicted or flushed, and lost if the last
/// handle dies before. A write-back that fails while an acquire or a flush waits for it leaves the
/// bytes in their slot, dirty. One that was started by a prefetch, was accepted by the store and
/// fails afterwards loses them: the error says so, at the next acquire or flush. Where the failure
/// was met by somebody else's wait, it names every block that may be the one. What the work threw
/// that wrote the bytes is such a failure, too, and lost with the last handle if a prefetch began
/// the write-back and nobody waited for it; any other error of a queue's work is left to the queue.
template <class B, class Store, class Eviction = eviction::Lru>
class Cached {
    static_assert(HasMemory<B>, "tier::Cached: Backend lacks space, allocate, deallocate or copy "
                                "(see backend/concept.hpp)");
    static_assert(HasQueue<B>, "tier::Cached: Backend lacks event_type, record, wait, synchronize "
                               "or fork (see backend/concept.hpp)");
    static_assert(HasStoredBlocks<Store>, "tier::Cached: Store lacks declare(key, info), "
                                          "contains(key) const or info(key) const "
                                          "(see tier/concept.hpp)");
    static_assert(HasTransfers<Store, B>,
                  "tier::Cached: Store lacks load(backend, key, dst) or store(backend, key, src) "
                  "that return the backend's event_type (see tier/concept.hpp)");
    static_assert(BlockStore<Store, B>, "tier::Cached: Store must be copyable, a handle whose "
                                        "copies are the same store (see tier/concept.hpp)");
    static_assert(eviction::HasSlotState<Eviction>,
                  "tier::Cached: Eviction must be copyable and have a type SlotState, copyable and "
                  "default-constructible (see tier/eviction.hpp)");
    static_assert(eviction::HasNotices<Eviction>,
                  "tier::Cached: Eviction lacks placed(SlotState&) or used(SlotState&) "
                  "(see tier/eviction.hpp)");
    static_assert(eviction::HasVictimOrder<Eviction>,
                  "tier::Cached: Eviction lacks bool before(Candidate, Candidate) const "
                  "(see tier/eviction.hpp)");
    using State = detail::CachedState<B, Store, Eviction>;

public:
    using lease_type = detail::SlotLease<State, typename State::Slot, B>;

    /// @throws precondition_error naming a value that is out of range
    /// @cost a forked queue; where transfers may fail late, another and a copy of the store
    Cached(B backend, Store store, CachedOptions options, Eviction eviction = {})
      : state_(std::make_shared<State>(backend, std::move(store), options, eviction)) {}

    /// Makes the block exist here and in the store, where it may have existed before.
    /// @throws precondition_error or store_error naming both sizes and layouts when it exists with
    ///         others; precondition_error when its size is negative, when slots have to be replaced
    ///         while one is leased, or when the budget is too small: it says the least that would
    ///         do
    /// @sync waits for threads that wait for transfers; where slots are replaced, b and every
    ///       transfer are waited for, and others start none meanwhile
    /// @cost slots, as above
    void declare(B& b, BlockKey key, BlockInfo info) { state_->declare(b, key, info); }

    bool contains(BlockKey key) const { return state_->contains(key); }
    /// @throws precondition_error naming the key when there is no such block
    BlockInfo info(BlockKey key) const { return state_->info(key); }
    /// Whether the block lies in a slot or is on its way into one.
    bool resident(BlockKey key) const { return state_->resident(key); }
    /// Whether acquire would find it without waiting.
    bool arrived(BlockKey key) const { return state_->arrived(key); }
    /// With a budget of bytes or layers: for the blocks declared so far.
    index_t max_pinned(BlockKind kind) const { return state_->max_pinned(kind); }
    TierCounters counters() const { return state_->counters(); }
    Store& store() { return state_->store(); }

    /// @param access  read or write load the block unless it is in a slot; overwrite loads nothing.
    ///                After write or overwrite the slot is dirty.
    /// @throws precondition_error when every slot of the kind is leased, or the block was never
    ///         declared; store_error naming the block that could not be loaded or written back
    /// @sync b waits for the block; the host too if b's queue is inline, or if the block is new to
    ///       its slot and the store fails_late: nobody reads what has not arrived. There it also
    ///       waits for the load that it evicts, if nobody has
    /// @cost on a hit one look-up; else looks at every slot of the kind, one transfer, and one more
    ///       before it if the evicted block was dirty. No allocation
    [[nodiscard]] lease_type acquire(B& b, BlockKey key, Access access) {
        typename State::Slot& slot = state_->acquire(b, key, access);
        return lease_type(state_, slot, slot.bytes(), b, access);
    }
    /// @param upcoming  the order in which blocks will be acquired to read or to write; replaces
    ///                  the last such list. Undeclared ones are ignored, as is what goes beyond
    ///                  eight times the number of declared blocks of a kind
    /// @sync enqueues, at most in_flight loads at a time: the others follow as these are acquired
    /// @cost one look-up an entry, no allocation; where the store fails_late one look at each slot,
    ///       and a hand-over to another thread for each load that has come in vain
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        state_->prefetch(b, upcoming);
    }
    /// Nobody but those who lease it now will read what the block holds before it is overwritten:
    /// it is neither written back nor loaded ahead. @throws precondition_error when the block was
    /// never declared
    void discard(BlockKey key) { state_->discard(key); }
    /// @throws store_error naming every block that could not be written back (it stays, dirty) or
    ///         is lost; else precondition_error when a writer's lease is alive, or is taken
    ///         meanwhile; else store_error naming the first block that a prefetch could not load
    /// @sync the host waits for b and for every transfer; others start none until it returns
    void flush(B& b) { state_->flush(b); }

private:
    std::shared_ptr<State> state_;
};

static_assert(MemoryTier<Cached<CpuBackend, HostStore>, CpuBackend>);

} // namespace semoe::tier
