#pragma once

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/tier/resident.hpp"

#include <memory>
#include <span>
#include <vector>

namespace semoe::test {

/// A tier that remembers what it was told.
struct RecordingTier {
    tier::Resident<CpuBackend> blocks{CpuBackend{}};
    std::shared_ptr<std::vector<std::vector<BlockKey>>> told =
        std::make_shared<std::vector<std::vector<BlockKey>>>();

    void declare(CpuBackend& b, BlockKey k, BlockInfo info) { blocks.declare(b, k, info); }
    bool contains(BlockKey k) const { return blocks.contains(k); }
    BlockInfo info(BlockKey k) const { return blocks.info(k); }
    bool resident(BlockKey k) const { return blocks.resident(k); }
    index_t max_pinned(BlockKind) const { return 2; }
    TierCounters counters() const { return blocks.counters(); }
    auto acquire(CpuBackend& b, BlockKey k, Access access) { return blocks.acquire(b, k, access); }
    void prefetch(CpuBackend&, std::span<BlockKey const> list) noexcept {
        told->emplace_back(list.begin(), list.end());
    }
    void flush(CpuBackend&) {}
};

} // namespace semoe::test
