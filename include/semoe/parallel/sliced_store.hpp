#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/store/host.hpp"

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace semoe::parallel {

/// What a SlicedStore keeps and has moved, on this rank.
struct SliceCounters {
    index_t blocks = 0, bytes_kept = 0; ///< declared, and what this rank keeps of them
    index_t gathers = 0;                ///< collectives: one a load of a block that is cut
    index_t bytes_received = 0;         ///< from other ranks
};

/// Blocks that all ranks need and none holds: of n ranks, each keeps one n-th. A load gathers the
/// slices of all ranks; a store keeps this rank's own, of bytes that every rank has alike. So the
/// dense parameters of a model take one n-th of their bytes a rank, and a tier over this store
/// gathers those of the next layers while a layer computes, as it would read them from a file
/// (2D prefetch of SE-MoE, arXiv 2205.10034, section 3.2.2, where the other dimension is experts
/// that come from storage):
///
///     tier::Split tier{tier::Ring{backend, parallel::SlicedStore{rank}, {.pin_dense = false}},
///                      tier::Cached{backend, file, {.slots = 64}}};
///
/// Loads are collective: every rank makes the same in the same order, and no other thread uses the
/// communicator meanwhile. The tiers over a store see to that where they are given dense blocks
/// alone, since a step acquires those in one order on every rank; experts, of which each rank needs
/// others, go to another tier (tier/split.hpp).
///
/// Slices are of whole granules. What remains, less than a granule a rank, and so every block too
/// small to be cut, is kept by all ranks: no slice is padded, and gathers write where they should.
/// @tparam C      Communicator whose ranks share the blocks
/// @tparam Store  holds this rank's slices, as blocks of their size
template <class C, class Store = tier::HostStore>
class SlicedStore {
    static_assert(HasRanks<C>, "parallel::SlicedStore: Communicator lacks rank/size/topology (see "
                               "comm/concept.hpp)");
    static_assert(HasStoredBlocks<Store>,
                  "parallel::SlicedStore: Store lacks declare(key, info), contains(key) const or "
                  "info(key) const (see tier/concept.hpp)");
    static_assert(!semoe::fails_late<Store>,
                  "parallel::SlicedStore: Store may fail after it accepted a transfer, when the "
                  "other ranks already wait for its bytes; it must be one with fails_late = false "
                  "(see tier/concept.hpp)");

public:
    static constexpr bool fails_late = false;
    /// Slices begin at multiples of so many bytes.
    static constexpr index_t granule = 256;

    explicit SlicedStore(C comm, Store slices = {})
      : state_(std::make_shared<State>(std::move(comm), std::move(slices))) {}

    C& comm() { return state_->comm; }
    Store& slices() { return state_->slices; }
    SliceCounters counters() const {
        std::lock_guard lock(state_->mutex);
        return state_->counters;
    }

    /// Not collective, but every rank must come to the same.
    /// @throws store_error naming both sizes and layouts when it exists with others, or the block
    ///         when the slices given to the constructor had it;
    ///         precondition_error for a size that is negative
    /// @cost one n-th of info.bytes, zero-filled; nothing if it exists
    void declare(BlockKey key, BlockInfo info) {
        tier::detail::expect_possible(name, key, info);
        std::lock_guard lock(state_->mutex);
        auto const found = state_->blocks.find(key);
        if (found != state_->blocks.end())
            return tier::detail::expect_same<store_error>(name, key, found->second, info);
        if (state_->slices.contains(key))
            throw store_error(message("{}: the slices have {} already, but what all ranks keep of "
                                      "it is gone; give a store that is empty",
                                      name, to_string(key)));
        Cut const cut = cut_of(info.bytes);
        state_->rests.declare(key, {cut.rest, info.layout, info.contents});
        // Last: where there is no memory, it can be declared once more.
        state_->slices.declare(key, {cut.slice, info.layout, info.contents});
        state_->blocks.emplace(key, info);
        ++state_->counters.blocks;
        state_->counters.bytes_kept += cut.slice + cut.rest;
    }
    bool contains(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return state_->blocks.contains(key);
    }
    BlockInfo info(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return tier::detail::declared<store_error>(state_->blocks, key, name);
    }

    /// @param dst  info(key).bytes of backend memory, overwritten
    /// @pre every rank loads this block: those who load others of its size get parts of each
    /// @throws comm_error when a rank does not come, cannot load its slice, or comes for another
    ///         block's size
    /// @sync communicates if the block is cut: the hosts meet; enqueues on b
    /// @cost one all-gather, no allocation, nothing staged
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        static_assert(HasReductions<C, B>, "parallel::SlicedStore: Communicator lacks all_gather "
                                           "(see comm/concept.hpp)");
        static_assert(HasTransfers<Store, B>,
                      "parallel::SlicedStore: Store lacks load(backend, key, dst) or "
                      "store(backend, key, src) that return the backend's event_type (see "
                      "tier/concept.hpp)");
        Cut const cut = checked(key, dst.size);
        auto const slice = dst.part(cut.first, cut.slice);
        (void)state_->rests.load(b, key, dst.part(cut.whole(), cut.rest)); // by b itself
        if (cut.slice > 0) {
            load_own(b, key, slice);
            state_->comm.all_gather(b, slice, dst.part(0, cut.whole()));
            std::lock_guard lock(state_->mutex);
            ++state_->counters.gathers;
            state_->counters.bytes_received += cut.whole() - cut.slice;
        }
        return b.record();
    }
    /// @param src  info(key).bytes of backend memory, the same on every rank
    /// @sync enqueues on b; no communication
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        Cut const cut = checked(key, src.size);
        (void)state_->rests.store(b, key, src.part(cut.whole(), cut.rest)); // by b itself
        b.wait(state_->slices.store(b, key, src.part(cut.first, cut.slice)));
        return b.record();
    }

private:
    static constexpr char const* name = "parallel::SlicedStore";

    struct State {
        State(C c, Store s)
          : comm(std::move(c))
          , slices(std::move(s)) {}

        C comm;
        Store slices;
        tier::HostStore rests; ///< the end of each block that all ranks keep
        mutable std::mutex mutex;
        tier::detail::BlockMap<BlockInfo> blocks;
        SliceCounters counters;
    };
    /// How a block is shared out: equal slices in rank order, then what all ranks keep.
    struct Cut {
        index_t slice = 0, first = 0, ranks = 1, rest = 0;
        index_t whole() const { return ranks * slice; }
    };

    /// What fails here must not leave the other ranks gathering, or gathering another block.
    template <Backend B>
    void load_own(B& b, BlockKey key, Bytes<space_of<B>> slice) {
        try {
            b.wait(state_->slices.load(b, key, slice));
        } catch (...) {
            if constexpr (requires { state_->comm.abort(std::string()); })
                state_->comm.abort(message("{}: rank {} could not load its slice of {}", name,
                                           state_->comm.rank(), to_string(key)));
            throw;
        }
    }
    Cut cut_of(index_t bytes) const {
        index_t const ranks = state_->comm.size(), slice = bytes / ranks / granule * granule;
        return {slice, state_->comm.rank() * slice, ranks, bytes - ranks * slice};
    }
    Cut checked(BlockKey key, index_t size) const {
        BlockInfo const known = info(key);
        expects(size == known.bytes, [&] {
            return message("{}: {} has {}, the memory to transfer has {} bytes", name,
                           to_string(key), to_string(known), size);
        });
        return cut_of(size);
    }

    std::shared_ptr<State> state_;
};

} // namespace semoe::parallel
