#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/space.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"

#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>

namespace semoe::tier {

/// What a store has been asked for.
struct StoreCounters {
    index_t loads = 0, stores = 0;
    index_t bytes_loaded = 0, bytes_stored = 0;
};

/// Blocks in host memory: the store of weights that do not fit into an accelerator's, or a stand-in
/// for a slower one. Copies are the same store; any thread may call.
class HostStore {
public:
    static constexpr bool fails_late = false;

    HostStore() = default;

    /// @throws store_error naming both sizes and layouts when it exists with others, or when there
    ///         is no memory; precondition_error for a size that is negative
    /// @cost one allocation of info.bytes, zero-filled; none if it exists
    void declare(BlockKey key, BlockInfo info) {
        detail::expect_possible(name, key, info);
        std::lock_guard lock(state_->mutex);
        auto const found = state_->blocks.find(key);
        if (found != state_->blocks.end())
            return detail::expect_same<store_error>(name, key, found->second.info, info);
        state_->blocks.emplace(key, Entry{info, allocate(key, info)});
    }
    bool contains(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return state_->blocks.contains(key);
    }
    BlockInfo info(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return detail::declared<store_error>(state_->blocks, key, name).info;
    }

    /// @param dst  info(key).bytes of backend memory, overwritten
    /// @sync enqueues one copy on b
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        Bytes<HostSpace> const block = checked(key, dst.size, &StoreCounters::loads);
        b.copy(dst.data, block.data, std::size_t(dst.size));
        return b.record();
    }
    /// @param src  info(key).bytes of backend memory
    /// @sync enqueues one copy on b
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        Bytes<HostSpace> const block = checked(key, src.size, &StoreCounters::stores);
        b.copy(block.data, src.data, std::size_t(src.size));
        return b.record();
    }

    /// The block itself, for reading and writing in place while no transfer is under way.
    /// @throws store_error naming the key when there is no such block
    Bytes<HostSpace> bytes(BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        Entry const& entry = detail::declared<store_error>(state_->blocks, key, name);
        return {entry.memory.get(), entry.info.bytes};
    }
    StoreCounters counters() const {
        std::lock_guard lock(state_->mutex);
        return state_->counters;
    }

private:
    static constexpr char const* name = "tier::HostStore";

    struct Free {
        std::size_t bytes;
        void operator()(std::byte* p) const { cpu::HostMemory::deallocate(p, bytes); }
    };
    using Memory = std::unique_ptr<std::byte[], Free>;
    struct Entry {
        BlockInfo info;
        Memory memory;
    };
    struct State {
        mutable std::mutex mutex;
        detail::BlockMap<Entry> blocks;
        StoreCounters counters;
    };

    static Memory allocate(BlockKey key, BlockInfo info) {
        auto const n = std::size_t(info.bytes);
        void* const memory = cpu::HostMemory::allocate(n);
        if (!memory)
            throw store_error(
                message("{}: no memory for {}, {}", name, to_string(key), to_string(info)));
        std::memset(memory, 0, n);
        return Memory(static_cast<std::byte*>(memory), Free{n});
    }
    /// The block's memory, once the size is known to be right and the transfer is counted.
    Bytes<HostSpace> checked(BlockKey key, index_t size, index_t StoreCounters::*count) {
        std::lock_guard lock(state_->mutex);
        Entry const& entry = detail::declared<store_error>(state_->blocks, key, name);
        expects(size == entry.info.bytes, [&] {
            return message("{}: {} has {}, the memory to transfer has {} bytes", name,
                           to_string(key), to_string(entry.info), size);
        });
        ++(state_->counters.*count);
        (count == &StoreCounters::loads ? state_->counters.bytes_loaded
                                        : state_->counters.bytes_stored) += size;
        return {entry.memory.get(), size};
    }

    std::shared_ptr<State> state_ = std::make_shared<State>();
};

static_assert(BlockStore<HostStore, CpuBackend>);

} // namespace semoe::tier
