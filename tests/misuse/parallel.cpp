#include "semoe/comm/self.hpp"
#include "semoe/parallel/sliced_store.hpp"

using namespace semoe;

#if defined(CASE_slices_that_fail_late)
// must print: parallel::SlicedStore: Store may fail after it accepted a transfer
struct Slices : tier::HostStore {
    static constexpr bool fails_late = true;
};
#elif defined(CASE_slices_that_are_no_store)
// must print: parallel::SlicedStore: Store lacks declare(key, info), contains(key) const or
struct Slices {
    static constexpr bool fails_late = false;
};
#else
using Slices = tier::HostStore;
#endif

#if defined(CASE_ranks_without_number)
// must print: parallel::SlicedStore: Communicator lacks rank/size/topology
struct Ranks {};
#elif defined(CASE_ranks_that_cannot_gather)
// must print: parallel::SlicedStore: Communicator lacks all_gather
struct Ranks {
    int rank() const { return 0; }
    int size() const { return 1; }
    CommTopology topology() const { return {}; }
};
#else
using Ranks = comm::Self;
#endif

inline void use(CpuBackend b, Bytes<HostSpace> bytes) {
    parallel::SlicedStore<Ranks, Slices> store{Ranks{}};
    store.declare({0, router_block}, {bytes.size, LayoutId::row_major});
    b.wait(store.load(b, {0, router_block}, bytes));
}
