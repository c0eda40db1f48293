#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/block_bytes.hpp"
#include "semoe/tier/concept.hpp"

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace semoe::testing {

namespace detail {

template <class B, class Store>
class StoreChecks {
public:
    StoreChecks(B& b, Store& store)
      : b_(b)
      , store_(store) {}

    void declared_blocks() {
        BlockKey const key{90, 1, BlockKind::weight}, missing{90, 2, BlockKind::weight};
        BlockInfo const info{48, LayoutId::row_major};
        require(!store_.contains(key), "check_store needs a store without blocks of layers 90, 91");
        store_.declare(key, info);
        require(store_.contains(key) && store_.info(key) == info,
                "BlockStore: a declared block exists, with the size and layout it was given");
        require(loaded(key) == HostBytes(48), "BlockStore: a new block is zero-filled");

        Buffer<std::byte, B> const buffer = stamped(7, 48);
        Store copy = store_;
        b_.wait(copy.store(b_, key, buffer.view()));
        b_.synchronize();
        store_.declare(key, info);
        require(loaded(key) == pattern(7, 48),
                "BlockStore: declaring a block again leaves its bytes; copies are the same store");

        refuses({64, LayoutId::row_major}, key, "64", "48");
        refuses({48, LayoutId::panels_16}, key, "panels_16", "row_major");
        require(!store_.contains(missing), "BlockStore: contains() is false for other keys");
        try {
            (void)store_.info(missing);
            require(false, "BlockStore: info() of a block that does not exist throws store_error");
        } catch (store_error const& error) {
            require(contains_text(error.what(), to_string(missing)),
                    "BlockStore: the error of info() names the block");
        }
    }

    /// Blocks of many sizes and kinds, several transfers under way at a time.
    void round_trips() {
        std::vector<std::pair<BlockKey, index_t>> blocks;
        for (index_t bytes : {0, 1, 7, 64, 4099})
            for (int kind = 0; kind < num_block_kinds; ++kind)
                blocks.push_back({{91, expert_id(bytes), BlockKind(kind)}, bytes});
        std::vector<Buffer<std::byte, B>> buffers;
        std::vector<typename B::event_type> events;
        for (auto const& [key, bytes] : blocks) {
            store_.declare(key, {bytes, LayoutId::row_major});
            buffers.push_back(stamped(std::uint32_t(buffers.size()), bytes));
            events.push_back(store_.store(b_, key, buffers.back().view()));
        }
        for (auto const& event : events) b_.wait(event);
        // The source may change as soon as the queue is past the event.
        for (auto& buffer : buffers) b_.parallel_for(buffer.size(), StampFn{buffer.data(), 77});
        for (std::size_t i = blocks.size(); i-- > 0;)
            events[i] = store_.load(b_, blocks[i].first, buffers[i].view());
        for (auto const& event : events) b_.wait(event);
        for (std::size_t i = 0; i < blocks.size(); ++i)
            require(fetched(b_, buffers[i].data(), blocks[i].second) ==
                        pattern(std::uint32_t(i), blocks[i].second),
                    "BlockStore: load brings what store took, " + to_string(blocks[i].first));
    }

    /// A transfer starts after what the queue was given before it.
    void queue_order() {
        BlockKey const key{90, 3, BlockKind::gradient};
        index_t const n = 4096;
        store_.declare(key, {n, LayoutId::row_major});
        Buffer<std::byte, B> buffer(b_, n), before(b_, n);
        b_.parallel_for(n, StampFn{buffer.data(), 1});
        auto const stored = store_.store(b_, key, buffer.view());
        b_.wait(stored);
        b_.parallel_for(n, StampFn{buffer.data(), 2});
        b_.copy(before.data(), buffer.data(), std::size_t(n));
        b_.wait(store_.load(b_, key, buffer.view()));
        require(fetched(b_, before.data(), n) == pattern(2, n),
                "BlockStore: load leaves dst alone until the queue's earlier work is done");
        require(fetched(b_, buffer.data(), n) == pattern(1, n),
                "BlockStore: store takes what the queue's earlier work wrote, and no later");
    }

private:
    HostBytes loaded(BlockKey key) {
        index_t const n = store_.info(key).bytes;
        Buffer<std::byte, B> const buffer = stamped(99, n);
        b_.wait(store_.load(b_, key, buffer.view()));
        return fetched(b_, buffer.data(), n);
    }
    Buffer<std::byte, B> stamped(std::uint32_t seed, index_t n) {
        Buffer<std::byte, B> buffer(b_, n);
        b_.parallel_for(n, StampFn{buffer.data(), seed});
        return buffer;
    }
    void refuses(BlockInfo info, BlockKey key, char const* asked, char const* present) {
        try {
            store_.declare(key, info);
            require(false, "BlockStore: declare with another size or layout throws store_error");
        } catch (store_error const& error) {
            require(contains_text(error.what(), to_string(key)) &&
                        contains_text(error.what(), asked) && contains_text(error.what(), present),
                    "BlockStore: the error of declare names the block, both sizes and layouts");
        }
    }

    B& b_;
    Store& store_;
};

} // namespace detail

/// Checks that a store keeps the promises of BlockStore (tier/concept.hpp).
///
///     semoe::testing::check_store(semoe::CpuBackend{}, my_store);
///
/// @param store  without blocks of layers 90 and 91, which it will have afterwards
/// @throws contract_violation with the promise that is broken
template <Backend B, class Store>
void check_store(B b, Store store) {
    static_assert(BlockStore<Store, B>, "check_store: not a BlockStore (see tier/concept.hpp)");
    detail::StoreChecks<B, Store> checks(b, store);
    checks.declared_blocks();
    checks.round_trips();
    checks.queue_order();
}

} // namespace semoe::testing
