#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/block_bytes.hpp"
#include "semoe/tier/concept.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace semoe::testing::detail {

/// A long random use of a tier by one host thread and two queues, beside a map of what every block
/// must hold. What queued work sees is copied into a log and compared later.
template <class B, class M>
class TierScript {
public:
    TierScript(B& b, M& tier, std::uint64_t seed)
      : queues_{b, b.fork()}
      , tier_(tier)
      , random_(seed)
      , log_(b, log_bytes) {
        for (auto const& [kind, count] :
             {std::pair{BlockKind::weight, 7}, {BlockKind::gradient, 3}})
            for (int i = 0; i < count; ++i) {
                BlockKey const key{0, expert_id(i) - 2, kind};
                index_t const bytes = i == 2 ? 0 : 65 + 17 * i;
                tier_.declare(b, key, {bytes, LayoutId::row_major});
                model_[key] = HostBytes(std::size_t(bytes));
                keys_.push_back(key);
            }
        queues_[0].synchronize();
    }

    void run(int steps) {
        for (int i = 0; i < steps; ++i) {
            switch (roll(10)) {
            case 0:
                announce();
                break;
            case 1:
                if (roll(5) == 0) flush();
                break;
            case 2:
            case 3:
            case 4:
                release();
                break;
            default:
                acquire();
            }
            require(tier_.counters().acquires == acquires_ && tier_.counters().hits == hits_,
                    "MemoryTier: counters.acquires counts leases, counters.hits those whose block "
                    "was resident");
        }
        while (!leases_.empty()) release();
        compare_log();
        for (BlockKey const key : keys_) {
            auto const lease = tier_.acquire(queues_[0], key, Access::read);
            require(fetched(queues_[0], lease.bytes().data, lease.bytes().size) == model_[key],
                    "MemoryTier: in the end every block has its bytes, " + to_string(key));
        }
    }

private:
    using Lease =
        decltype(std::declval<M&>().acquire(std::declval<B&>(), BlockKey{}, Access::read));
    static constexpr index_t log_bytes = 1 << 14;

    struct Held {
        Lease lease;
        BlockKey key;
        Access access;
        std::size_t queue;
        bool used;
    };
    struct Entry {
        BlockKey key;
        index_t offset;
        HostBytes expected;
    };

    std::size_t roll(std::size_t sides) { return std::size_t(random_() % sides); }

    void acquire() {
        BlockKey const key = keys_[roll(keys_.size())];
        Access const access = Access(roll(3));
        std::size_t queue = roll(2);
        index_t pinned = 0;
        std::map<BlockKey, bool> leased;
        for (Held const& held : leases_) {
            if (held.key.kind == key.kind && !std::exchange(leased[held.key], true)) ++pinned;
            // A writer shares a block with leases of its own queue alone.
            if (held.key == key && (access != Access::read || held.access != Access::read)) return;
        }
        if (!leased[key] && pinned >= tier_.max_pinned(key.kind)) return;
        bool const resident = tier_.resident(key);
        leases_.push_back({tier_.acquire(queues_[queue], key, access), key, access, queue, false});
        ++acquires_;
        hits_ += resident;
        require(tier_.resident(key) &&
                    leases_.back().lease.bytes().size == index_t(model_[key].size()),
                "MemoryTier: a leased block is resident, and its lease has the block's size");
        if (roll(2)) use(leases_.back());
    }
    void release() {
        if (leases_.empty()) return;
        auto const chosen = leases_.begin() + std::ptrdiff_t(roll(leases_.size()));
        if (!chosen->used) use(*chosen);
        leases_.erase(chosen);
    }
    /// Enqueues the work that the lease is for.
    void use(Held& held) {
        held.used = true;
        B& b = queues_[held.queue];
        auto const bytes = held.lease.bytes();
        HostBytes& model = model_[held.key];
        auto const seed = std::uint32_t(random_());
        if (held.access == Access::overwrite) {
            b.parallel_for(bytes.size, StampFn{bytes.data, seed});
            model = pattern(seed, bytes.size);
        }
        if (held.access == Access::write) {
            b.parallel_for(bytes.size, MixFn{bytes.data, seed});
            for (std::byte& byte : model) byte = MixFn::mix(byte, seed);
        }
        if (logged_ + bytes.size > log_bytes) compare_log();
        if (bytes.size > 0) b.copy(log_.data() + logged_, bytes.data, std::size_t(bytes.size));
        entries_.push_back({held.key, logged_, model});
        logged_ += bytes.size;
    }
    void compare_log() {
        for (B& b : queues_) b.synchronize();
        HostBytes const log = fetched(queues_[0], log_.data(), logged_);
        for (Entry const& entry : entries_)
            require(std::equal(entry.expected.begin(), entry.expected.end(),
                               log.begin() + entry.offset),
                    "MemoryTier: work on a lease sees what the last writer left, " +
                        to_string(entry.key));
        entries_.clear();
        logged_ = 0;
    }
    void announce() {
        std::vector<BlockKey> upcoming;
        for (std::size_t n = roll(12); n-- > 0;) upcoming.push_back(keys_[roll(keys_.size())]);
        if (roll(4) == 0) upcoming.push_back({55, 5, BlockKind::moments}); // unknown
        tier_.prefetch(queues_[roll(2)], upcoming);
    }
    void flush() {
        for (Held const& held : leases_)
            if (held.access != Access::read) return;
        tier_.flush(queues_[roll(2)]);
    }

    B queues_[2];
    M& tier_;
    std::mt19937_64 random_;
    Buffer<std::byte, B> log_;
    index_t logged_ = 0, acquires_ = 0, hits_ = 0;
    std::vector<BlockKey> keys_;
    std::map<BlockKey, HostBytes> model_;
    std::vector<Held> leases_;
    std::vector<Entry> entries_;
};

template <class B, class M>
void run_tier_script(B& b, M& tier, std::uint64_t seed, int steps) {
    TierScript<B, M> script(b, tier, seed);
    script.run(steps);
}

} // namespace semoe::testing::detail
