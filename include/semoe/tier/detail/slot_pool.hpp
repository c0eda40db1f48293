#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/access_order.hpp"
#include "semoe/tier/eviction.hpp"

#include <exception>
#include <vector>

namespace semoe::tier::detail {

/// The slots of one kind of block, what lies in them, and which blocks are announced. Bookkeeping
/// alone: it moves no bytes, takes no lock, and allocates only in add_block and add_slot.
template <class B, class Eviction>
class SlotPool {
public:
    using Event = typename B::event_type;
    using Candidate = eviction::Candidate<typename Eviction::SlotState>;
    static constexpr index_t never = Candidate::never;
    static constexpr std::size_t announcements_per_block = 8;

    struct Slot;
    struct Block {
        BlockKey key;
        BlockInfo info;
        Slot* slot = nullptr;
        index_t next_use = never;        ///< place of the first announcement that is still to come
        std::exception_ptr failure = {}; ///< why a prefetch could not load it
    };
    struct Slot {
        Buffer<std::byte, B> memory;
        AccessOrder<Event> order = {};
        typename Eviction::SlotState use = {};
        Block* block = nullptr;
        int pins = 0, writers = 0;
        bool dirty = false;         ///< the store lacks what a released writer wrote
        bool settled = true;        ///< the load is known to have succeeded, or there was none
        bool store_failed = false;  ///< the last write-back was refused; prefetch keeps off
        Block* displaced = nullptr; ///< written back just ahead of an unsettled load
        Event stored = {};          ///< of the last write-back

        Bytes<space_of<B>> bytes() const { return memory.view().part(0, block->info.bytes); }
    };

    SlotPool(index_t max_slots, Eviction eviction)
      : eviction_(eviction)
      , max_slots_(max_slots) {
        slots_.reserve(std::size_t(max_slots)); // blocks and leases point at slots
    }

    std::vector<Slot>& slots() { return slots_; }
    index_t slot_bytes() const { return slot_bytes_; }
    bool wants_slot() const { return index_t(slots_.size()) < max_slots_; }

    /// Announcements are kept in memory reserved here; the rest of a longer list is ignored.
    void add_block() {
        max_announced_ += announcements_per_block;
        if (announced_.capacity() < max_announced_) announced_.reserve(2 * max_announced_);
    }
    void add_slot(B& b) {
        slots_.push_back({Buffer<std::byte, B>(b, slot_bytes_)});
        slots_.back().order.written(b.record());
    }
    void drop_slots(index_t slot_bytes) {
        slots_.clear();
        slot_bytes_ = slot_bytes;
    }

    // The announced list, in the order in which the blocks will be acquired.
    void forget() {
        for (Announcement const& a : announced_) a.block->next_use = never;
        announced_.clear();
        next_ = 0;
    }
    void announce(Block& block, index_t position) {
        if (announced_.size() < max_announced_) announced_.push_back({&block, position, never});
    }
    /// Once all are announced.
    void link() {
        for (std::size_t i = announced_.size(); i-- > 0;) {
            announced_[i].next_use = announced_[i].block->next_use;
            announced_[i].block->next_use = index_t(i);
        }
    }
    /// The block has been acquired: its next announcement is over.
    void used(Block& block) {
        if (block.next_use != never)
            block.next_use = announced_[std::size_t(block.next_use)].next_use;
        eviction_.used(block.slot->use);
    }
    /// The first announced block that is neither in a slot nor known to fail; null at the end.
    Block* next() {
        for (; next_ < announced_.size(); ++next_) {
            Block& block = *announced_[next_].block;
            bool const over = block.next_use > index_t(next_);
            if (!over && !block.slot && !block.failure) return &block;
        }
        return nullptr;
    }
    /// Where next() stood in the list that it was announced with.
    index_t next_position() const { return announced_[next_].position; }

    /// A free slot, or the best one to evict for an acquire; null when every slot is leased.
    /// @cost looks at every slot
    Slot* victim() { return victim(-1, true); }
    /// As above for the block that next() found: nothing announced before it gives way.
    Slot* victim_for_next() { return victim(index_t(next_), false); }

    void place(Slot& slot, Block& block) {
        slot.block = &block;
        block.slot = &slot;
        eviction_.placed(slot.use);
    }
    void remove(Slot& slot) {
        if (std::size_t const at = std::size_t(slot.block->next_use); at < next_) next_ = at;
        slot.block->slot = nullptr;
        slot.block = nullptr;
        slot.displaced = nullptr;
        slot.settled = true;
        slot.dirty = slot.store_failed = false;
    }

private:
    struct Announcement {
        Block* block;
        index_t position; ///< in the whole list, all kinds together
        index_t next_use; ///< of the same block
    };

    Slot* victim(index_t needed_before, bool forced) {
        Slot* best = nullptr;
        for (Slot& slot : slots_) {
            if (slot.pins > 0) continue;
            if (!slot.block) return &slot;
            if (!forced && (slot.block->next_use <= needed_before || slot.store_failed)) continue;
            if (!best || eviction_.before({slot.use, slot.block->next_use},
                                          {best->use, best->block->next_use}))
                best = &slot;
        }
        return best;
    }

    Eviction eviction_;
    std::vector<Slot> slots_;
    std::vector<Announcement> announced_;
    std::size_t next_ = 0, max_announced_ = 0;
    index_t max_slots_, slot_bytes_ = 0;
};

} // namespace semoe::tier::detail
