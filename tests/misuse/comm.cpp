#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/comm/self.hpp"
#include "semoe/dispatch/count_exchange.hpp"
#include "semoe/dispatch/exchange.hpp"

using namespace semoe;

struct Ranks {
    int rank() const { return 0; }
    int size() const { return 1; }
    CommTopology topology() const { return {}; }
};

inline void use(CpuBackend b, comm::Self ranks, Bytes<HostSpace> bytes) {
    [[maybe_unused]] index_t const one[1] = {1};
#if defined(CASE_dropped_arrival)
    // must print: nodiscard
    ranks.all_to_all_rows(b, bytes, one, bytes, one, 4);
#elif defined(CASE_counts_without_exchange)
    // must print: CountExchange: the communicator needs exchange_counts(
    static_cast<void>(sizeof(CountExchange<Ranks>));
#elif defined(CASE_rows_without_exchange)
    // must print: Exchange: the communicator needs all_to_all_rows(
    static_cast<void>(sizeof(Exchange<CpuBackend, Ranks>));
#else
    auto arrival = ranks.all_to_all_rows(b, bytes, one, bytes, one, 4);
    arrival.wait(b);
#endif
}
