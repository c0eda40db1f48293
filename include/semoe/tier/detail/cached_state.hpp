#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/tier/cached_options.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/detail/slot_pool.hpp"
#include "semoe/tier/detail/slot_shares.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace semoe::tier::detail {

/// What the copies of a Cached share.
///
/// `mutex_` guards the bookkeeping and is never held while the host waits for a transfer.
/// `settling_`, taken before it, is held by whoever waits for transfers that may have failed. A
/// queue tells of a failure once, to whoever waits first; so one waits at a time, and after a
/// failure every load is forgotten that nobody has seen succeed. Who holds it may also keep all
/// others from starting transfers and making slots: a Quiet.
template <class B, class Store, class Eviction>
class CachedState {
    using Pool = SlotPool<B, Eviction>;
    using Block = typename Pool::Block;
    using Event = typename B::event_type;
    using Events = typename AccessOrder<Event>::Events;
    using Lock = std::unique_lock<std::mutex>;

public:
    using Slot = typename Pool::Slot;

    CachedState(B& b, Store store, CachedOptions options, Eviction const& eviction)
      : options_((options.validate(), options))
      , store_(std::move(store))
      , stores_(fails_late<Store> ? std::optional<Store>(store_) : std::nullopt)
      , copies_(b.fork())
      , witness_(fails_late<Store> ? std::optional<B>(b.fork()) : std::nullopt)
      , pools_{Pool(eviction, fails_late<Store>), Pool(eviction, fails_late<Store>),
               Pool(eviction, fails_late<Store>), Pool(eviction, fails_late<Store>)} {
        if constexpr (eviction::HasValidation<Eviction>) eviction.validate();
    }
    CachedState(CachedState const&) = delete;
    CachedState& operator=(CachedState const&) = delete;
    ~CachedState() {
        for_each_slot([&](Slot& slot) { retire(slot); });
        drain();
    }

    Store& store() { return store_; }
    index_t max_pinned(BlockKind kind) const {
        if (options_.bytes == 0 && options_.layers == 0) return options_.slots / options_.contexts;
        std::lock_guard lock(mutex_);
        return std::max<index_t>(1, shares_[std::size_t(kind)] / options_.contexts);
    }
    bool contains(BlockKey key) const {
        std::lock_guard lock(mutex_);
        return blocks_.contains(key);
    }
    BlockInfo info(BlockKey key) const {
        std::lock_guard lock(mutex_);
        return declared<precondition_error>(blocks_, key, name).info;
    }
    bool resident(BlockKey key) const {
        std::lock_guard lock(mutex_);
        auto const found = blocks_.find(key);
        return found != blocks_.end() && found->second.slot;
    }
    bool arrived(BlockKey key) const {
        std::lock_guard lock(mutex_);
        auto const found = blocks_.find(key);
        if (found == blocks_.end() || !found->second.slot) return false;
        Slot const& slot = *found->second.slot;
        return slot.settled || slot.order.before(Access::read).reached(copies_);
    }
    TierCounters counters() const {
        std::lock_guard lock(mutex_);
        return counters_;
    }

    void declare(B& b, BlockKey key, BlockInfo info) {
        expect_possible(name, key, info);
        std::lock_guard settling(settling_);
        Lock lock(mutex_);
        if (auto const found = blocks_.find(key); found != blocks_.end())
            expect_same<precondition_error>(name, key, found->second.info, info);
        else
            add(b, lock, key, info);
        // A budget's slots are shared out again with each block, so they are made when first used.
        if (options_.bytes == 0) add_slots();
    }

    /// The block's slot, pinned; b waits until the bytes are there.
    Slot& acquire(B& b, BlockKey key, Access access) {
        for (;;)
            if (Slot* const slot = try_acquire(b, key, access)) return *slot;
    }
    void release(Slot& slot, B& b, Access access) noexcept {
        std::lock_guard lock(mutex_);
        try {
            slot.order.after(b, access);
        } catch (...) { // the queue has failed, and says so where it is synchronised
        }
        if (access != Access::read) slot.dirty = true;
        unpin(slot, access);
    }

    void discard(BlockKey key) {
        std::lock_guard lock(mutex_);
        Block& block = declared<precondition_error>(blocks_, key, name);
        block.discarded = true;
        if (block.slot) drop_discarded(*block.slot);
    }

    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        Lock const settling(settling_, std::try_to_lock);
        Lock lock(mutex_);
        try {
            add_slots();
        } catch (...) { // an acquire tries again, and throws
        }
        for (Pool& pool : pools_) pool.forget();
        index_t position = 0;
        for (BlockKey key : upcoming)
            if (auto const found = blocks_.find(key); found != blocks_.end())
                pool_of(key).announce(found->second, position++);
        for (Pool& pool : pools_) pool.link();
        if (settling) settle_unwanted(b, lock);
        load_announced();
    }

    void flush(B& b) {
        std::lock_guard settling(settling_);
        Lock lock(mutex_);
        Quiet const quiet(*this, lock);
        write_back_all(b, lock);
        Events all;
        all.add(copies_.record());
        lock.unlock();
        if constexpr (!fails_late<Store>) { // else each transfer has been heard out
            all.follow(b);                  // some may be of slots that other blocks have now
            b.synchronize();
        }
        if constexpr (HasCommit<Store>) store_.commit();
    }

private:
    static constexpr char const* name = "tier::Cached";

    /// No load means more than that it has to be made again.
    struct LoadError : store_error {
        using store_error::store_error;
    };
    /// While it lives, only who has settling_ starts transfers, makes slots or drops them; others
    /// use what is there. @pre settling_ and the lock are held; the lock may be let go meanwhile
    struct Quiet {
        CachedState& state;
        Lock& lock;

        Quiet(CachedState& s, Lock& l)
          : state(s)
          , lock(l) {
            state.quiet_ = true;
        }
        ~Quiet() {
            if (!lock.owns_lock()) lock.lock();
            state.quiet_ = false;
            state.load_announced();
        }
    };

    Pool& pool_of(BlockKey key) { return pools_[std::size_t(key.kind)]; }
    template <class F>
    void for_each_slot(F const& f) {
        for (Pool& pool : pools_) pool.for_each_slot(f);
    }
    /// As many as each kind's share, unless it is quiet. @cost none when they are there
    void add_slots() {
        for (std::size_t kind = 0; !quiet_ && kind < pools_.size(); ++kind)
            while (pools_[kind].num_slots() < shares_[kind]) pools_[kind].add_slot(copies_);
    }
    /// A block more. @pre settling_ and lock are held; the lock is let go where slots are replaced
    void add(B& b, Lock& lock, BlockKey key, BlockInfo info) {
        bool const pinned = options_.pin_dense && key.expert < 0;
        Demands demands;
        for (std::size_t kind = 0; kind < pools_.size(); ++kind)
            demands[kind] = pools_[kind].demand();
        Pool& pool = pool_of(key);
        Demand& demand = demands[std::size_t(key.kind)];
        demand = pool.demand_with(key, info, pinned);
        SlotShares const shares = detail::shares(options_, demands);
        store_.declare(key, info);
        bool const larger = demand.slot_bytes > pool.demand().slot_bytes;
        for (Pool& p : pools_)
            if ((larger && &p == &pool) || p.num_slots() > shares[std::size_t(&p - pools_.data())])
                drop_slots(b, lock, p, key, info);
        auto const block = blocks_.try_emplace(key, Block{key, info}).first;
        try {
            pool.add(copies_, block->second, pinned);
        } catch (...) {
            blocks_.erase(block);
            throw;
        }
        shares_ = shares;
    }
    /// Writes a kind's slots back and frees them, for a block that changes their size or number.
    /// @pre settling_ and lock are held; the lock is let go meanwhile
    void drop_slots(B& b, Lock& lock, Pool& pool, BlockKey key, BlockInfo info) {
        if (pool.num_slots() == 0) return;
        Quiet const quiet(*this, lock);
        for (bool dirty = true; dirty;) { // others may write to what is there
            write_back_all(b, lock);
            dirty = false;
            pool.for_each_shared_slot([&](Slot const& slot) { dirty |= slot.dirty; });
        }
        pool.for_each_shared_slot([&](Slot const& slot) {
            expects(slot.pins == 0, [&] {
                return message(
                    "{}: {}, {}, needs other slots while one is leased; declare it earlier", name,
                    to_string(key), to_string(info));
            });
        });
        pool.for_each_shared_slot([&](Slot& slot) { retire(slot); });
        pool.drop_slots();
        lock.unlock();
        drain(); // they are gone before others are made
        lock.lock();
    }
    /// @pre it is quiet, and lock is held; it is let go meanwhile
    void write_back_all(B& b, Lock& lock) {
        lock.unlock();
        b.synchronize();
        lock.lock();
        for_each_slot([](Slot const& slot) { expect_no_writer(slot); });
        std::string lost, not_loaded;
        std::exception_ptr misuse;
        auto const gather = [&](auto const& work) {
            try {
                work();
            } catch (LoadError const& error) {
                if (not_loaded.empty()) not_loaded = error.what();
            } catch (store_error const& error) {
                lost += (lost.empty() ? "" : "; ") + std::string(error.what());
            } catch (precondition_error const&) { // is there at the next flush as well
                misuse = std::current_exception();
            }
        };
        gather([&] {
            if (unheard_) std::rethrow_exception(std::exchange(unheard_, nullptr));
        });
        for_each_slot([&](Slot& slot) {
            gather([&] {
                if (slot.dirty) {
                    expect_no_writer(slot); // who came since would change what is being written
                    clean(b, lock, slot, true);
                } else if (!slot.settled) {
                    observe(b, lock, slot, slot.order.before(Access::read), true);
                }
            });
        });
        if (!lost.empty()) throw store_error(lost);
        if (misuse) std::rethrow_exception(misuse);
        if (!not_loaded.empty()) throw LoadError(not_loaded);
    }
    static void expect_no_writer(Slot const& slot) {
        expects(slot.writers == 0 || !slot.block, [&] {
            return message("{}: flush while {} is leased for writing; release the lease first",
                           name, to_string(slot.block->key));
        });
    }
    /// What the exception being handled means for the block.
    static std::string failure_of(Block const& block, char const* what) {
        std::string text = message("{}: {} {}: ", name, to_string(block.key), what);
        try {
            throw;
        } catch (std::exception const& error) {
            text += error.what();
        } catch (...) {
            text += "unknown exception";
        }
        return text;
    }

    /// @return null where it has to be tried once more
    Slot* try_acquire(B& b, BlockKey key, Access access) {
        Lock lock(mutex_);
        Block& block = declared<precondition_error>(blocks_, key, name);
        if (unheard_) std::rethrow_exception(std::exchange(unheard_, nullptr));
        bool const hit = secure(b, lock, block, access);
        block.discarded = false;
        Slot& slot = *block.slot;
        ++slot.pins;
        slot.writers += access != Access::read;
        ++counters_.acquires;
        counters_.hits += hit;
        pool_of(key).used(block, access);
        auto const give_up = [&] {
            --counters_.acquires;
            counters_.hits -= hit;
            unpin(slot, access);
        };
        try {
            if (slot.settled) {
                Events const before = before_access(slot, access), readers = slot.order.readers();
                lock.unlock();
                if (access != Access::read) readers.follow(b);
                before.wait(b);
                return &slot;
            }
            lock.unlock();
            std::lock_guard settling(settling_);
            lock.lock();
            if (slot.block == &block) { // else forgotten, since another load failed
                Events const before = before_access(slot, access);
                if (access == Access::overwrite)
                    settle(b, lock, slot, before);
                else
                    observe(b, lock, slot, before, false);
            }
            if (slot.block == &block) {
                load_announced();
                return &slot;
            }
        } catch (...) {
            if (!lock.owns_lock()) lock.lock();
            bool const empty = !hit && access == Access::overwrite && slot.block == &block;
            block.discarded |= empty;
            give_up();
            if (empty && block.slot == &slot && slot.pins == 0) forget(slot);
            throw;
        }
        block.discarded = access == Access::overwrite; // or it might be loaded ahead once more
        give_up();
        return nullptr;
    }
    /// But for readers, which a slot that is still loading has none of.
    static Events before_access(Slot const& slot, Access access) {
        Events before = slot.order.before(Access::read);
        if (access != Access::read) before.add(slot.stored); // a write-back may still be reading
        return before;
    }
    void unpin(Slot& slot, Access access) noexcept {
        --slot.pins;
        slot.writers -= access != Access::read;
        drop_discarded(slot);
        load_announced();
    }
    /// Frees the slot of a block whose contents nobody wants, once nobody has it.
    void drop_discarded(Slot& slot) {
        if (!slot.block || !slot.block->discarded || slot.pins > 0 || !slot.settled) return;
        slot.dirty = slot.store_failed = false;
        if (!slot.block->own) forget(slot);
    }

    /// Brings the block into a slot, or on its way there. @return whether it was
    bool secure(B& b, Lock& lock, Block& block, Access access) {
        Pool& pool = pool_of(block.key);
        Lock settling(settling_, std::defer_lock);
        while (!block.slot) {
            add_slots();
            Slot* const slot = quiet_ ? nullptr : pool.slot_for(block);
            bool const unheard = fails_late<Store> && slot && !slot->settled;
            if (slot && !slot->dirty && !unheard) {
                take(block, *slot, access);
                return false;
            }
            if (!settling.owns_lock()) { // who has it may also have pinned a slot for a while
                lock.unlock();
                settling.lock();
                lock.lock();
                continue;
            }
            expects(slot != nullptr, [&] {
                return message("{}: all {} {} slots are leased while {} is acquired; raise {} or "
                               "release leases earlier{}",
                               name, pool.num_slots(), to_string(block.key.kind),
                               to_string(block.key), options_.knob(), options_.hint());
            });
            if (unheard)
                settle(b, lock, *slot, slot->order.before(Access::read));
            else
                clean(b, lock, *slot, false);
        }
        return true;
    }
    /// Gives the block a slot, evicting what lies there, and starts the load. One that is refused
    /// fails like one that was accepted: where it is observed.
    void take(Block& block, Slot& slot, Access access) noexcept {
        if (slot.block) {
            ++counters_.evictions;
            forget(slot);
        }
        if (access != Access::overwrite) {
            try {
                slot.order.before(Access::write).follow(copies_); // their errors are not the load's
                slot.order.written(
                    store_.load(copies_, block.key, slot.memory.view().part(0, block.info.bytes)));
                ++counters_.loads;
                counters_.bytes_loaded += block.info.bytes;
            } catch (...) {
                slot.order.written(copies_.record()); // some of it may have been enqueued
                slot.refused = std::current_exception();
            }
        }
        pool_of(block.key).place(slot, block);
        slot.settled = slot.heard = access == Access::overwrite; // nothing is on its way then
        in_flight_ += !slot.settled;
    }
    void forget(Slot& slot) {
        if (!slot.settled) --in_flight_;
        pool_of(slot.block->key).remove(slot);
    }
    /// Starts writing a dirty slot back. Later transfers start after it. Our queue does not wait
    /// for it: an error would move on, past those who wait to hear of it.
    void write_back(Slot& slot) {
        slot.store_failed = true;
        try {
            slot.order.before(Access::read).wait(copies_);
            Store& store = stores_ ? *stores_ : store_;
            Events stored;
            stored.add(store.store(copies_, slot.block->key, slot.bytes()));
            stored.follow(copies_);
            stored.add(copies_.record()); // what the block's writers threw
            slot.stored = stored;
        } catch (...) {
            throw store_error(failure_of(*slot.block, "could not be written back"));
        }
        slot.dirty = slot.store_failed = false;
        ++counters_.write_backs;
        counters_.bytes_stored += slot.block->info.bytes;
    }

    /// Writes a dirty slot back and lets b wait for it; the slot stays dirty if that fails.
    /// @pre settling_ and lock are held; the lock is let go while b waits
    void clean(B& b, Lock& lock, Slot& slot, bool on_host) {
        write_back(slot);
        Events const stored = slot.stored;
        ++slot.pins;
        lock.unlock();
        try {
            await(b, stored, on_host);
        } catch (...) {
            std::string const failure = failure_of(*slot.block, "could not be written back");
            lock.lock();
            --slot.pins;
            slot.dirty = slot.store_failed = true;
            throw store_error(failure + drop_suspects(lock));
        }
        lock.lock();
        --slot.pins;
    }
    /// Lets b wait for what lies `before` an access to a slot that may still be loading.
    /// @pre settling_ and lock are held; the lock is let go while b waits
    /// @throws LoadError when nothing is lost that the store does not have, else store_error
    void observe(B& b, Lock& lock, Slot& slot, Events const& before, bool on_host) {
        Block* const block = slot.block;
        for_each_slot([&](Slot& other) { // what was loaded may be older than what was lost
            if (other.displaced == block) settle(b, lock, other, other.order.before(Access::read));
        });
        if (slot.block != block) return;
        Block const* const displaced = slot.displaced;
        std::exception_ptr const refused = slot.refused;
        Events const stored = slot.stored;
        ++slot.pins;
        lock.unlock();
        bool written_back = !displaced, told = false;
        try {
            if (displaced) {
                await(b, stored, on_host);
                written_back = true;
            }
            await(b, before, on_host);
            told = true;
            if (refused) std::rethrow_exception(refused);
        } catch (...) {
            std::string const failure =
                written_back ? failure_of(*block, "could not be loaded")
                             : failure_of(*displaced, "could not be written back and is lost");
            lock.lock();
            --slot.pins;
            slot.displaced = nullptr;
            block->discarded |= written_back; // or it would be loaded ahead, and fail, for ever
            std::string lost;
            if (told)
                forget(slot);
            else
                lost = drop_suspects(lock);
            if (written_back && lost.empty()) throw LoadError(failure);
            throw store_error(failure + lost);
        }
        lock.lock();
        --slot.pins;
        if (slot.settled) return;
        slot.settled = slot.heard = true;
        slot.displaced = nullptr;
        --in_flight_;
    }
    /// As observe, for a load whose bytes nobody wants, before something else takes the slot: our
    /// queue must not wait, or an error would move on, past those who wait to hear of it. A load
    /// that failed is forgotten, and so is made once more when the block is acquired.
    /// @throws store_error when what the store does not have may be lost
    void settle(B& b, Lock& lock, Slot& slot, Events const& before) {
        try {
            observe(b, lock, slot, before, false);
        } catch (LoadError const&) {
        }
    }
    /// What has arrived and is announced no more would keep its slot from what is.
    void settle_unwanted(B& b, Lock& lock) noexcept {
        if constexpr (fails_late<Store> && HasEventQuery<B>)
            for_each_slot([&](Slot& slot) {
                if (unheard_ || slot.settled || slot.pins > 0) return;
                if (slot.block->next_use != Pool::never || slot.displaced) return;
                if (!slot.order.before(Access::read).reached(copies_)) return;
                try {
                    settle(b, lock, slot, slot.order.before(Access::read));
                } catch (...) {
                    unheard_ = std::current_exception();
                }
            });
    }
    /// b waits for the events, and the host first where they may bring an error: a queue would tell
    /// of it to its own user alone, and others would read what never arrived.
    void await(B& b, Events const& events, bool on_host) {
        if constexpr (fails_late<Store>) {
            events.wait(*witness_);
            witness_->synchronize();
        }
        events.wait(b);
        if (on_host) b.synchronize();
    }
    /// After a failed transfer: forgets every load that nobody has seen succeed.
    /// @return which blocks may be lost, since they were written back just ahead of such a load
    std::string drop_suspects(Lock& lock) {
        lock.unlock();
        drain();
        lock.lock();
        if constexpr (fails_late<Store>) { // others may start some whenever the lock is let go
            for (bool all = false; !all;) {
                all = true;
                for_each_slot([&](Slot& slot) {
                    if (slot.settled || slot.heard) return;
                    all = false;
                    hear_out(lock, slot);
                });
            }
        }
        std::string lost;
        for_each_slot([&](Slot& slot) {
            if (slot.settled) return;
            if (slot.displaced)
                lost += message("; {} was being written back and may be lost",
                                to_string(slot.displaced->key));
            forget(slot);
        });
        return lost;
    }
    /// Waits for a suspect's load, which a store may run on a queue of its own, where it may fail
    /// as well. The lock is let go meanwhile.
    void hear_out(Lock& lock, Slot& slot) noexcept {
        Events const loading = slot.order.before(Access::read);
        slot.heard = true; // a load that is started meanwhile makes it false again
        lock.unlock();
        try {
            loading.wait(*witness_);
            witness_->synchronize();
        } catch (...) { // the load will be forgotten in any case
        }
        lock.lock();
    }
    /// Waits for all transfers. What failed among them has been dealt with, or is suspect.
    void drain() noexcept {
        try {
            copies_.synchronize();
        } catch (...) {
        }
    }
    /// Before a slot is freed: our queue waits for whoever uses it.
    void retire(Slot& slot) noexcept {
        if (slot.block) forget(slot);
        slot.order.retire(copies_);
    }

    /// Starts loads of announced blocks, the nearest first, while there are slots for them.
    void load_announced() noexcept {
        bool full[num_block_kinds] = {};
        while (!quiet_ && in_flight_ < options_.in_flight) {
            Pool* nearest = nullptr;
            for (Pool& pool : pools_)
                if (!full[&pool - pools_.data()] && pool.next() &&
                    (!nearest || pool.next_position() < nearest->next_position()))
                    nearest = &pool;
            if (!nearest) return;
            if (Slot* const slot = nearest->slot_for_next())
                load_ahead(*nearest->next(), *slot);
            else
                full[nearest - pools_.data()] = true;
        }
    }
    /// One load, behind the write-back of what lay in the slot.
    void load_ahead(Block& block, Slot& slot) noexcept {
        Block* const displaced = slot.dirty ? slot.block : nullptr;
        try {
            if (slot.dirty) write_back(slot);
        } catch (...) {
            return; // it stays where it is; whoever has to evict or flush it will be told
        }
        take(block, slot, Access::read);
        slot.displaced = displaced;
    }

    CachedOptions options_;
    Store store_;
    std::optional<Store> stores_; ///< a copy for write-backs, which so hear of no load's failure
    B copies_;
    std::optional<B> witness_; ///< waits for transfers that may have failed
    mutable std::mutex mutex_;
    std::mutex settling_;
    std::array<Pool, num_block_kinds> pools_;
    SlotShares shares_{};
    BlockMap<Block> blocks_;
    int in_flight_ = 0; ///< slots that are not settled
    bool quiet_ = false;
    std::exception_ptr unheard_; ///< tells of lost blocks, and nobody was there to be told
    TierCounters counters_;
};

} // namespace semoe::tier::detail
