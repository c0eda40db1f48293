#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/core/error.hpp"
#include "semoe/ops/fill.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/access_order.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/detail/slot_lease.hpp"

#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

namespace semoe::tier {

namespace detail {

/// What the copies of a Resident share.
template <class B>
struct ResidentState {
    struct Slot {
        BlockInfo info;
        Buffer<std::byte, B> own; ///< empty where the memory is the user's
        Bytes<space_of<B>> bytes;
        AccessOrder<typename B::event_type> order;
    };

    explicit ResidentState(B const& b)
      : backend(b) {}
    ResidentState(ResidentState const&) = delete;
    ResidentState& operator=(ResidentState const&) = delete;
    ~ResidentState() {
        // Memory is freed on our queue, after the last use on any other.
        for (auto& [key, slot] : blocks) slot.order.retire(backend);
    }

    void release(Slot& slot, B& b, Access access) noexcept {
        std::lock_guard lock(mutex);
        try {
            slot.order.after(b, access);
        } catch (...) { // the queue has failed, and says so where it is synchronised
        }
    }

    B backend;
    mutable std::mutex mutex;
    BlockMap<Slot> blocks;
    TierCounters counters;
};

} // namespace detail

/// A slot for every block: everything lies in backend memory all the time. Blocks are allocated
/// and zero-filled when they are declared, or are the user's own memory. Copies are the same tier,
/// and belong to one rank: ranks that are threads make one each.
///
/// Any number of threads may acquire at once, each with its own queue; a lock is held for one
/// look-up. Between queues, readers wait for the last writer and a writer for the readers.
///
/// Weights that already lie in backend memory, row-major, become blocks without a copy:
///
///     tier::Resident tier{backend};
///     tier.adopt({.layer = 0, .expert = 3}, my_weights, {my_weights.size, LayoutId::row_major});
///     MoeLayer layer{backend, gate, expert, comm::Self{}, tier};
template <class B>
class Resident {
    static_assert(HasMemory<B>, "tier::Resident: Backend lacks space, allocate, deallocate or copy "
                                "(see backend/concept.hpp)");
    static_assert(HasQueue<B>, "tier::Resident: Backend lacks event_type, record, wait, "
                               "synchronize or fork (see backend/concept.hpp)");
    static_assert(HasParallelFor<B>, "tier::Resident: Backend lacks parallel_for(n, functor) "
                                     "(see backend/concept.hpp)");
    using State = detail::ResidentState<B>;
    using Slot = typename State::Slot;
    static constexpr char const* name = "tier::Resident";

public:
    using lease_type = detail::SlotLease<State, Slot, B>;

    /// @param backend  whose memory holds the blocks; they are freed in its queue's order
    explicit Resident(B backend)
      : state_(std::make_shared<State>(backend)) {}

    /// @throws precondition_error naming both sizes and layouts when it exists with others, or a
    ///         negative size
    /// @sync enqueues @cost one allocation of info.bytes, filled with zeros; none if it exists
    void declare(B& b, BlockKey key, BlockInfo info) {
        detail::expect_possible(name, key, info);
        std::lock_guard lock(state_->mutex);
        if (auto const found = state_->blocks.find(key); found != state_->blocks.end())
            return detail::expect_same<precondition_error>(name, key, found->second.info, info);
        Slot slot{info, Buffer<std::byte, B>(state_->backend, info.bytes), {}, {}};
        slot.bytes = slot.own.view();
        b.wait(state_->backend.record());
        ops::fill(b, slot.bytes, std::byte{0});
        slot.order.written(b.record());
        state_->blocks.emplace(key, std::move(slot));
    }
    /// Makes the user's memory a block: read and written in place, never freed. Before or after
    /// the block was declared; what it held then is forgotten.
    /// @param memory  backend memory that outlives the tier, aligned for the block's elements; its
    ///                bytes are there for every queue
    /// @pre no lease of the block is alive
    /// @throws precondition_error when memory is not of info.bytes, these are negative, or the
    ///         block exists with another size or layout
    /// @sync none @cost no copy
    void adopt(BlockKey key, Bytes<space_of<B>> memory, BlockInfo info) {
        detail::expect_possible(name, key, info);
        expects(memory.size == info.bytes && (memory.data || info.bytes == 0), [&] {
            return message("{}: {} is declared with {}, but the memory to adopt has {}", name,
                           to_string(key), to_string(info),
                           memory.data ? message("{} bytes", memory.size) : "no address");
        });
        std::lock_guard lock(state_->mutex);
        auto const [found, added] = state_->blocks.try_emplace(key);
        Slot& slot = found->second;
        if (!added) {
            detail::expect_same<precondition_error>(name, key, slot.info, info);
            slot.order.retire(state_->backend);
        }
        slot = Slot{info, {}, memory, {}};
    }

    bool contains(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return state_->blocks.contains(key);
    }
    /// @throws precondition_error naming the key when there is no such block
    BlockInfo info(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return detail::declared<precondition_error>(state_->blocks, key, name).info;
    }
    bool resident(BlockKey key) const { return contains(key); }
    index_t max_pinned(BlockKind) const { return std::numeric_limits<index_t>::max(); }
    TierCounters counters() const {
        std::lock_guard lock(state_->mutex);
        return state_->counters;
    }

    /// @throws precondition_error naming the key when there is no such block
    /// @sync enqueues waits for other queues' work on the block @cost no allocation
    [[nodiscard]] lease_type acquire(B& b, BlockKey key, Access access) {
        std::unique_lock lock(state_->mutex);
        Slot& slot = detail::declared<precondition_error>(state_->blocks, key, name);
        ++state_->counters.acquires;
        ++state_->counters.hits;
        auto const written = slot.order.before(Access::read), readers = slot.order.readers();
        lock.unlock();
        if (access != Access::read) readers.follow(b);
        written.wait(b);
        return lease_type(state_, slot, slot.bytes, b, access);
    }
    void prefetch(B&, std::span<BlockKey const>) noexcept {}
    void flush(B&) {}

private:
    std::shared_ptr<State> state_;
};

static_assert(MemoryTier<Resident<CpuBackend>, CpuBackend>);

} // namespace semoe::tier
