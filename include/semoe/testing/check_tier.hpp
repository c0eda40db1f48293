#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/tier_script.hpp"
#include "semoe/testing/faulty_store.hpp"
#include "semoe/tier/concept.hpp"

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace semoe::testing {

namespace detail {

/// The promises of a tier, one function each, every one on a fresh tier.
template <class B, class Make>
class TierChecks {
public:
    TierChecks(B& b, Make const& make)
      : b_(b)
      , make_(make) {}

    void declared_blocks() {
        auto tier = make_(b_);
        BlockKey const key{0, 1, BlockKind::weight}, missing{0, 2, BlockKind::weight};
        BlockInfo const info{48, LayoutId::row_major};
        require(!tier.contains(key), "check_tier needs a tier without blocks");
        tier.declare(b_, key, info);
        auto const copy = tier;
        require(copy.contains(key) && copy.info(key) == info && !copy.contains(missing),
                "MemoryTier: a declared block exists in every copy of the tier, as declared");
        require(read(tier, key) == HostBytes(48), "MemoryTier: a new block is zero-filled");
        {
            auto const lease = tier.acquire(b_, key, Access::overwrite);
            require(lease.bytes().size == 48, "MemoryTier: a lease has the block's size");
            b_.parallel_for(48, StampFn{lease.bytes().data, 5});
        }
        tier.declare(b_, key, info);
        require(read(tier, key) == pattern(5, 48),
                "MemoryTier: declaring a block again leaves its bytes");
        for (BlockInfo const other :
             {BlockInfo{64, LayoutId::row_major}, {48, LayoutId::panels_16}})
            refuses<std::exception>(
                [&] { tier.declare(b_, key, other); },
                {to_string(key), to_string(other), to_string(info)},
                "MemoryTier: declare with another size or layout names the block, both sizes and "
                "both layouts");
        refuses<precondition_error>([&] { (void)tier.acquire(b_, missing, Access::read).bytes(); },
                                    {to_string(missing)},
                                    "MemoryTier: acquire of a block that was never declared throws "
                                    "precondition_error naming it");
        tier.declare(b_, missing, {400, LayoutId::row_major});
        require(read(tier, key) == pattern(5, 48) && read(tier, missing) == HostBytes(400),
                "MemoryTier: a larger block may be declared later, others keep their bytes");
    }

    void pins() {
        auto tier = make_(b_);
        index_t const n = 96;
        auto const keys = declare(tier, 5, n);
        using Lease = decltype(tier.acquire(b_, keys[0], Access::read));
        for (std::size_t i = 0; i < keys.size(); ++i) {
            auto const lease = tier.acquire(b_, keys[i], Access::overwrite);
            b_.parallel_for(n, StampFn{lease.bytes().data, std::uint32_t(i)});
        }
        index_t const most = std::min(index_t(keys.size()), tier.max_pinned(BlockKind::weight));
        require(most >= 1, "MemoryTier: at least one block of a kind can be leased");
        for (int round = 0; round < 3; ++round) {
            std::vector<Lease> leases;
            for (index_t i = 0; i < most; ++i)
                leases.push_back(tier.acquire(b_, keys[std::size_t(i)], Access::read));
            // Moved leases pin as before, and two leases of one block are two pins.
            Lease moved = std::move(leases.back());
            leases.back() = tier.acquire(b_, keys[std::size_t(most - 1)], Access::read);
            { Lease const gone = std::move(moved); }
            tier.prefetch(b_, keys);
            if (tier.max_pinned(BlockKind::weight) < index_t(keys.size()))
                refuses_beyond(tier, keys, most);
            for (index_t i = 0; i < most; ++i)
                require(fetched(b_, leases[std::size_t(i)].bytes().data, n) ==
                            pattern(std::uint32_t(i), n),
                        "MemoryTier: a leased block stays in its slot, whatever is prefetched or "
                        "acquired");
            std::rotate(leases.begin(), leases.begin() + round % int(most), leases.end());
        }
        require(read(tier, keys.back()) == pattern(std::uint32_t(keys.size() - 1), n),
                "MemoryTier: a slot is free again when its last lease is gone");
    }

    /// Work that was enqueued before a lease died sees the block, however soon the slot is reused.
    void queue_ordered_release() {
        auto tier = make_(b_);
        B other = b_.fork();
        index_t const n = 1024;
        auto const keys = declare(tier, 6, n);
        Buffer<std::byte, B> seen(b_, n * index_t(keys.size()));
        b_.synchronize();
        for (std::size_t i = 0; i < keys.size(); ++i) {
            auto const lease = tier.acquire(b_, keys[i], Access::overwrite);
            b_.parallel_for(n, StampFn{lease.bytes().data, std::uint32_t(i)});
        }
        for (std::size_t i = 0; i < keys.size(); ++i) {
            auto const lease = tier.acquire(other, keys[i], Access::read);
            other.copy(seen.data() + index_t(i) * n, lease.bytes().data, std::size_t(n));
            if (i % 2) tier.prefetch(b_, std::span(keys).subspan(i));
        }
        for (BlockKey const key : keys) { // beside the reads, on another queue
            auto const lease = tier.acquire(b_, key, Access::overwrite);
            b_.parallel_for(n, StampFn{lease.bytes().data, 77});
        }
        other.synchronize();
        for (std::size_t i = 0; i < keys.size(); ++i)
            require(fetched(b_, seen.data() + index_t(i) * n, n) == pattern(std::uint32_t(i), n),
                    "MemoryTier: work enqueued before a lease died sees the block's bytes, "
                    "although its slot is reused");
        for (BlockKey const key : keys)
            require(read(tier, key) == pattern(77, n), "MemoryTier: the last writer's bytes stay");
    }

    /// Long random scripts against a map of bytes; counters against what was seen.
    void scripts() {
        for (std::uint64_t seed = 1; seed <= 3; ++seed) {
            auto tier = make_(b_);
            run_tier_script(b_, tier, seed, 250);
        }
    }

private:
    template <class M>
    std::vector<BlockKey> declare(M& tier, int count, index_t bytes) {
        std::vector<BlockKey> keys;
        for (int i = 0; i < count; ++i) {
            keys.push_back({1, expert_id(i), BlockKind::weight});
            tier.declare(b_, keys.back(), {bytes, LayoutId::row_major});
        }
        return keys;
    }
    template <class M>
    HostBytes read(M& tier, BlockKey key) {
        auto const lease = tier.acquire(b_, key, Access::read);
        return fetched(b_, lease.bytes().data, lease.bytes().size);
    }
    template <class M>
    void refuses_beyond(M& tier, std::vector<BlockKey> const& keys, index_t leased) {
        refuses<precondition_error>(
            [&] {
                std::vector<decltype(tier.acquire(b_, keys[0], Access::read))> more;
                for (std::size_t i = std::size_t(leased); i < keys.size(); ++i)
                    more.push_back(tier.acquire(b_, keys[i], Access::read));
            },
            {"weight"},
            "MemoryTier: acquire throws precondition_error when every slot of a kind is leased");
    }
    template <class Error, class F>
    static void refuses(F const& f, std::vector<std::string> const& parts, char const* promise) {
        try {
            f();
        } catch (Error const& error) {
            for (std::string const& part : parts)
                require(contains_text(error.what(), part), promise +
                                                               std::string("; the error lacks \"") +
                                                               part + "\": " + error.what());
            return;
        }
        require(false, promise + std::string("; nothing was thrown"));
    }

    B& b_;
    Make const& make_;
};

/// The further promises of a tier with few slots over a store.
template <class B, class Make>
class SlotChecks {
public:
    static constexpr int num_blocks = 6;
    static constexpr index_t bytes = 320;

    SlotChecks(B& b, Make const& make, index_t slots)
      : b_(b)
      , make_(make)
      , slots_(slots) {
        for (int i = 0; i < num_blocks; ++i) keys_.push_back({2, i, BlockKind::weight});
    }

    /// Blocks that are acquired in the announced order are loaded once each, with any slots.
    void announced_order() {
        for (bool const again : {false, true}) {
            FaultyStore<B> store(b_);
            auto tier = fresh(store);
            tier.prefetch(b_, keys_);
            for (std::size_t i = 0; i < keys_.size(); ++i) {
                auto const lease = tier.acquire(b_, keys_[i], Access::write);
                b_.parallel_for(bytes, MixFn{lease.bytes().data, 3});
                if (again) tier.prefetch(b_, std::span(keys_).subspan(i + 1));
            }
            tier.flush(b_);
            require(loads(store) == num_blocks,
                    "MemoryTier: blocks acquired in the announced order are loaded once each; " +
                        std::to_string(loads(store)) + " loads for 6 blocks");
            require(stores(store) == num_blocks, "MemoryTier: a block written once is written "
                                                 "back once");
            for (BlockKey const key : keys_)
                require(stored(store, key) == HostBytes(bytes, MixFn::mix(std::byte{0}, 3)),
                        "MemoryTier: after flush the store has what writers left");
        }
    }

    /// Reading moves blocks in, never out; what is in a slot costs the store nothing.
    void clean_blocks() {
        FaultyStore<B> store(b_);
        auto tier = fresh(store);
        for (bool const announced : {false, true}) {
            if (announced) tier.prefetch(b_, keys_);
            for (BlockKey const key : keys_) (void)tier.acquire(b_, key, Access::read).bytes();
        }
        tier.flush(b_);
        require(stores(store) == 0,
                "MemoryTier: evicting or flushing a clean block stores nothing");
        store.reset();
        for (BlockKey const key : keys_)
            if (tier.resident(key)) (void)tier.acquire(b_, key, Access::read).bytes();
        require(store.requests().empty(), "MemoryTier: a block in a slot is not loaded again");
        (void)tier.acquire(b_, keys_[0], Access::overwrite).bytes();
        store.reset();
        std::size_t const missing = tier.resident(keys_[1]) ? 2 : 1;
        (void)tier.acquire(b_, keys_[missing], Access::overwrite).bytes();
        require(loads(store) == 0, "MemoryTier: Access::overwrite loads nothing");
    }

    /// A load that fails is reported at acquire, naming the block, and may be tried again.
    /// @param late  it fails while it runs; then b may be who tells, and a flush may name another
    void failing_loads(bool late) {
        for (bool const ahead : {false, true}) {
            FaultyStore<B> store(b_);
            auto tier = fresh(store);
            write_all(tier);
            store.reset({.fail_load = 0, .late = late});
            BlockKey const key = missing_block(tier);
            if (ahead) tier.prefetch(b_, std::span(&key, 1));
            bool told =
                throws_naming(key, [&] { (void)tier.acquire(b_, key, Access::read).bytes(); });
            if (late) told = fails([&] { b_.synchronize(); }) || told;
            require(told,
                    "MemoryTier: a failed load is a store_error at acquire that names the block");
            check_contents(tier);
        }
        FaultyStore<B> store(b_);
        auto tier = fresh(store);
        write_all(tier);
        store.reset({.fail_load = 0, .late = late});
        BlockKey const key = missing_block(tier);
        tier.prefetch(b_, std::span(&key, 1));
        auto const flush = [&] { tier.flush(b_); };
        require(late ? fails(flush) : throws_naming(key, flush),
                "MemoryTier: a prefetch that failed is a store_error at flush if nobody acquired "
                "the block before");
        check_contents(tier);
    }

    /// A write-back by flush that fails is reported, naming the block, and loses nothing.
    void failing_flushes(bool late) {
        for (index_t failing = 0; failing < slots_; ++failing) {
            FaultyStore<B> store(b_);
            auto tier = fresh(store);
            write_all(tier);
            std::vector<BlockKey> dirty;
            for (BlockKey const key : keys_)
                if (tier.resident(key)) dirty.push_back(key);
            store.reset({.fail_store = failing, .late = late});
            bool named = false;
            try {
                tier.flush(b_);
            } catch (store_error const& error) {
                for (BlockKey const key : dirty)
                    named = named || contains_text(error.what(), to_string(key));
            }
            require(named, "MemoryTier: a failed write-back is a store_error at flush that names "
                           "the block");
            tier.flush(b_);
            for (std::size_t i = 0; i < keys_.size(); ++i)
                require(stored(store, keys_[i]) == pattern(std::uint32_t(i), bytes),
                        "MemoryTier: a failed write-back leaves the bytes for the next flush");
        }
    }

    /// A write-back ahead of a load that fails at once is reported and loses nothing, either.
    void failing_evictions() {
        FaultyStore<B> store(b_);
        auto tier = fresh(store);
        write_all(tier);
        store.reset({.fail_store = 0});
        BlockKey const key = missing_block(tier);
        tier.prefetch(b_, std::span(&key, 1)); // may try, must neither fail nor lose anything
        bool failed = false;
        try {
            (void)tier.acquire(b_, key, Access::read).bytes();
        } catch (store_error const&) {
            failed = true;
        }
        index_t const tried = stores(store);
        require(failed || tried != 1,
                "MemoryTier: a failed write-back ahead of a load is a store_error at acquire");
        check_contents(tier);
    }

    /// The scripts of check_tier over stores that dawdle and reorder.
    void reordering_stores() {
        for (std::uint64_t seed = 1; seed <= 2; ++seed) {
            FaultyStore<B> store(b_, {.reorder = true, .slow_us = 50});
            auto tier = make_(b_, store, slots_);
            run_tier_script(b_, tier, 10 + seed, 120);
            tier.flush(b_);
            TierCounters const counters = tier.counters();
            require(counters.loads == loads(store) && counters.write_backs == stores(store),
                    "MemoryTier: counters.loads and write_backs are what the store was asked for");
        }
    }

private:
    auto fresh(FaultyStore<B>& store) {
        auto tier = make_(b_, store, slots_);
        for (BlockKey const key : keys_) tier.declare(b_, key, {bytes, LayoutId::row_major});
        return tier;
    }
    template <class M>
    void write_all(M& tier) {
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            auto const lease = tier.acquire(b_, keys_[i], Access::overwrite);
            b_.parallel_for(bytes, StampFn{lease.bytes().data, std::uint32_t(i)});
        }
    }
    template <class M>
    void check_contents(M& tier) {
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            auto const lease = tier.acquire(b_, keys_[i], Access::read);
            require(fetched(b_, lease.bytes().data, bytes) == pattern(std::uint32_t(i), bytes),
                    "MemoryTier: after an error every block can be acquired and has its bytes");
        }
        tier.flush(b_);
    }
    template <class M>
    BlockKey missing_block(M const& tier) const {
        for (BlockKey const key : keys_)
            if (!tier.resident(key)) return key;
        throw contract_violation("check_tier: the tier to check needs fewer slots than 6");
    }
    template <class F>
    static bool throws_naming(BlockKey key, F const& f) {
        try {
            f();
        } catch (store_error const& error) {
            return contains_text(error.what(), to_string(key));
        }
        return false;
    }
    template <class F>
    static bool fails(F const& f) {
        try {
            f();
        } catch (std::runtime_error const&) {
            return true;
        }
        return false;
    }
    // Not inlined: g++ 12 then takes the vector's memory for something that may not be freed.
    SEMOE_NOINLINE HostBytes stored(FaultyStore<B>& store, BlockKey key) {
        auto const block = store.blocks().bytes(key);
        return HostBytes(block.data, block.data + block.size);
    }
    static index_t loads(FaultyStore<B> const& store) { return count(store, false); }
    static index_t stores(FaultyStore<B> const& store) { return count(store, true); }
    static index_t count(FaultyStore<B> const& store, bool kind) {
        index_t n = 0;
        for (auto const& request : store.requests()) n += request.store == kind;
        return n;
    }

    B& b_;
    Make const& make_;
    index_t slots_;
    std::vector<BlockKey> keys_;
};

} // namespace detail

/// Checks that a tier keeps the promises of MemoryTier (tier/concept.hpp).
///
///     check_tier(CpuBackend{}, [](CpuBackend& b) { return tier::Resident<CpuBackend>{b}; });
///
/// @param make  a fresh tier without blocks, each time it is called
/// @throws contract_violation with the promise that is broken
template <Backend B, class Make>
void check_tier(B b, Make const& make) {
    static_assert(MemoryTier<std::remove_cvref_t<decltype(make(b))>, B>,
                  "check_tier: not a MemoryTier (see tier/concept.hpp)");
    detail::TierChecks<B, Make> checks(b, make);
    checks.declared_blocks();
    checks.pins();
    checks.queue_ordered_release();
    checks.scripts();
}

/// Checks what a tier with few slots over a store promises besides.
///
///     check_slots(CpuBackend{}, [](CpuBackend& b, auto store, index_t slots) {
///         return tier::Cached{b, store, {.slots = slots}};
///     });
///
/// @param make  a fresh tier over a FaultyStore<B>, with so many slots a kind
/// @throws contract_violation with the promise that is broken
template <Backend B, class Make>
void check_slots(B b, Make const& make) {
    for (index_t slots = 1; slots <= 5; ++slots) {
        check_tier(b, [&](B& backend) { return make(backend, FaultyStore<B>(backend), slots); });
        detail::SlotChecks<B, Make> checks(b, make, slots);
        checks.announced_order();
        checks.clean_blocks();
        for (bool const late : {false, host_reachable<B>}) { // FaultyStore fails late only there
            checks.failing_loads(late);
            checks.failing_flushes(late);
        }
        checks.failing_evictions();
        checks.reordering_stores();
    }
}

} // namespace semoe::testing
