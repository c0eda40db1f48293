#include "semoe/tier/cached.hpp"
#include "semoe/tier/split.hpp"

using namespace semoe;

struct Complete {
    void declare(BlockKey, BlockInfo) {}
    bool contains(BlockKey) const { return true; }
    BlockInfo info(BlockKey) const { return {}; }
    cpu::Event load(CpuBackend& b, BlockKey, Bytes<HostSpace>) { return b.record(); }
    cpu::Event store(CpuBackend& b, BlockKey, ConstBytes<HostSpace>) { return b.record(); }
};

#if defined(CASE_store_without_declare)
// must print: tier::Cached: Store lacks declare(key, info), contains(key) const or info(key) const
struct Store {
    bool contains(BlockKey) const { return true; }
};
#elif defined(CASE_store_without_event)
// must print: tier::Cached: Store lacks load(backend, key, dst) or store(backend, key, src) that
struct Store : Complete {
    void load(CpuBackend&, BlockKey, Bytes<HostSpace>) {}
};
#elif defined(CASE_store_that_cannot_be_copied)
// must print: tier::Cached: Store must be copyable, a handle whose copies are the same store
struct Store : Complete {
    Store() = default;
    Store(Store&&) = default;
};
#else
using Store = Complete;
#endif

#if defined(CASE_eviction_without_order)
// must print: tier::Cached: Eviction lacks bool before(Candidate, Candidate) const
struct Eviction {
    struct SlotState {};
    void placed(SlotState&) {}
    void used(SlotState&) {}
};
#else
using Eviction = tier::eviction::Lru;
#endif

inline void use(CpuBackend b) {
    tier::Cached<CpuBackend, Store, Eviction> tier{b, Store{}, {.slots = 2}};
    auto lease = tier.acquire(b, BlockKey{}, Access::read);
#if defined(CASE_copied_lease)
    // must print: deleted
    auto second = lease;
#elif defined(CASE_split_without_tier)
    // must print: tier::Split: the tier of experts is no MemoryTier
    tier::Split split{tier, Store{}};
    split.declare(b, BlockKey{}, BlockInfo{});
#endif
}
