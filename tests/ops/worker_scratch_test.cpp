#include "semoe/ops/worker_scratch.hpp"

#include "semoe/ops/gemm.hpp"
#include "support/backends.hpp"
#include "support/matrix.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

TEST_CASE("ops/worker_scratch: products allocate nothing, and scratch changes no bit") {
    CpuBackend with{.threads = 2}, without{.threads = 2};
    ops::reserve_worker_scratch(with);
    CHECK(with.counters().bytes_in_use >= index_t(ops::worker_scratch_bytes()));
    CHECK(without.counters().bytes_in_use == 0);

    index_t const m = 140, n = 200, k = 300;
    std::vector<float> results[2];
    int i = 0;
    for (CpuBackend* b : {&with, &without}) {
        PaddedMatrix<float, CpuBackend> a(*b, m, k, 1), w(*b, n, k, 2), c(*b, m, n, 3);
        MemoryCounters const before = b->counters();
        ops::gemm_nt(*b, a.const_view(), w.const_view(), c.view());
        CHECK(b->counters().allocations == before.allocations);
        results[i++] = c.read(*b);
    }
    CHECK(same_bits(results[0], results[1]));
}

TEST_CASE_TEMPLATE("ops/worker_scratch: it may be asked for on every backend", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    ops::reserve_worker_scratch(b);
    ops::reserve_worker_scratch(b);
    b.synchronize();
    CHECK(ops::worker_scratch_bytes() < std::size_t(1) << 20);
}
