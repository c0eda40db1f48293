#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/access_order.hpp"
#include "semoe/tier/detail/slot_shares.hpp"
#include "semoe/tier/eviction.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <limits>
#include <unordered_map>
#include <vector>

namespace semoe::tier::detail {

/// The slots of one kind of block, what lies in them, and which blocks are announced. Most blocks
/// share slots; a pinned one has its own. Bookkeeping alone: it moves no bytes, takes no lock, and
/// allocates only in the functions that add.
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
        Slot* own = nullptr;      ///< of a pinned block
        index_t next_use = never; ///< place of the first announcement that is still to come
        bool discarded = false;   ///< nobody will read what it holds
    };
    struct Slot {
        Buffer<std::byte, B> memory;
        AccessOrder<Event> order = {};
        typename Eviction::SlotState use = {};
        Block* block = nullptr;
        int pins = 0, writers = 0;
        bool dirty = false;         ///< the store lacks what a released writer wrote
        bool settled = true;        ///< the load is known to have succeeded, or there was none
        bool heard = true;          ///< nobody has to be told any more whether the load failed
        bool store_failed = false;  ///< the last write-back was refused; prefetch keeps off
        Block* displaced = nullptr; ///< written back just ahead of an unsettled load
        typename AccessOrder<Event>::Events stored = {}; ///< of the last write-back
        std::exception_ptr refused = {};                 ///< why the store did not take the load

        Bytes<space_of<B>> bytes() const { return memory.view().part(0, block->info.bytes); }
    };

    /// @param keep_unsettled  what may be on its way loses its slot to an acquire alone
    SlotPool(Eviction eviction, bool keep_unsettled)
      : eviction_(eviction)
      , keep_unsettled_(keep_unsettled) {}

    index_t num_slots() const { return index_t(slots_.size()); }
    /// By number, since f may let the lock go, and others add slots meanwhile.
    template <class F>
    void for_each_slot(F const& f) {
        for (std::size_t i = 0; i < slots_.size(); ++i) f(slots_[i]);
        for (std::size_t i = 0; i < own_.size(); ++i) f(own_[i]);
    }
    template <class F>
    void for_each_shared_slot(F const& f) {
        for (Slot& slot : slots_) f(slot);
    }

    /// What the pool would have to hold with one block more.
    Demand demand_with(BlockKey key, BlockInfo info, bool pinned) const {
        constexpr index_t most = std::numeric_limits<index_t>::max();
        Demand d = demand_;
        if (pinned) {
            d.pinned_bytes += std::min(info.bytes, most - d.pinned_bytes);
        } else {
            auto const found = layer_blocks_.find(key.layer);
            index_t const before = found == layer_blocks_.end() ? 0 : found->second;
            ++d.blocks;
            d.layer_blocks = std::max(d.layer_blocks, before + 1);
            d.slot_bytes = std::max(d.slot_bytes, info.bytes);
        }
        return d;
    }
    Demand const& demand() const { return demand_; }

    /// Announcements are kept in memory reserved here; the rest of a longer list is ignored.
    /// Where memory is refused, all is as before.
    void add(B& b, Block& block, bool pinned) {
        Demand const demand = demand_with(block.key, block.info, pinned);
        std::size_t const announced = max_announced_ + announcements_per_block;
        if (announced_.capacity() < announced) announced_.reserve(2 * announced);
        if (pinned)
            block.own = &added(b, own_, block.info.bytes);
        else
            ++layer_blocks_[block.key.layer];
        demand_ = demand;
        max_announced_ = announced;
    }
    void add_slot(B& b) { added(b, slots_, demand_.slot_bytes); }
    void drop_slots() { slots_.clear(); }

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
    /// The block has been acquired: its next announcement is over. What is overwritten was not
    /// announced.
    void used(Block& block, Access access) {
        if (access != Access::overwrite && block.next_use != never)
            block.next_use = announced_[std::size_t(block.next_use)].next_use;
        eviction_.used(block.slot->use);
    }
    /// The first announced block that is not in a slot; null at the end.
    Block* next() {
        for (; next_ < announced_.size(); ++next_) {
            Block& block = *announced_[next_].block;
            bool const over = block.next_use > index_t(next_);
            if (!over && !block.slot && !block.discarded) return &block;
        }
        return nullptr;
    }
    /// Where next() stood in the list that it was announced with.
    index_t next_position() const { return announced_[next_].position; }

    /// The block's own slot, a free one, or the best one to evict for an acquire; null when every
    /// slot is leased. @cost looks at every slot
    Slot* slot_for(Block const& block) { return block.own ? block.own : victim(-1, true); }
    /// As above for the block that next() found: nothing announced before it gives way.
    Slot* slot_for_next() {
        Block const& block = *announced_[next_].block;
        return block.own ? block.own : victim(index_t(next_), false);
    }

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
        slot.refused = nullptr;
        slot.settled = true;
        slot.dirty = slot.store_failed = false;
    }

private:
    struct Announcement {
        Block* block;
        index_t position; ///< in the whole list, all kinds together
        index_t next_use; ///< of the same block
    };

    template <class Slots>
    static Slot& added(B& b, Slots& slots, index_t bytes) {
        slots.push_back({Buffer<std::byte, B>(b, bytes)});
        slots.back().order.written(b.record());
        return slots.back();
    }
    Slot* victim(index_t needed_before, bool forced) {
        Slot* best = nullptr;
        for (Slot& slot : slots_) {
            if (slot.pins > 0) continue;
            if (!slot.block) return &slot;
            bool const kept = slot.block->next_use <= needed_before || slot.store_failed ||
                              (keep_unsettled_ && !slot.settled);
            if (!forced && kept) continue;
            if (!best || eviction_.before({slot.use, slot.block->next_use},
                                          {best->use, best->block->next_use}))
                best = &slot;
        }
        return best;
    }

    Eviction eviction_;
    bool keep_unsettled_;
    std::deque<Slot> slots_, own_; // blocks and leases point at them
    Demand demand_;
    std::unordered_map<layer_id, index_t> layer_blocks_;
    std::vector<Announcement> announced_;
    std::size_t next_ = 0, max_announced_ = 0;
};

} // namespace semoe::tier::detail
