#include "semoe/comm/threads.hpp"

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/delayed_backend.hpp"
#include "support/allocation_counter.hpp"

#include <chrono>
#include <doctest/doctest.h>
#include <future>
#include <utility>

using namespace semoe;
using namespace std::chrono_literals;

namespace {

/// Runs body on every rank and collects what each threw.
template <class Error = std::exception, class Body>
std::vector<std::string> errors(comm::ThreadWorld const& world, Body const& body) {
    std::vector<std::string> texts(std::size_t(world.size()));
    world.run([&](comm::Threads rank) {
        try {
            body(rank);
        } catch (Error const& e) {
            texts[std::size_t(rank.rank())] = e.what();
        }
    });
    return texts;
}

bool contains(std::string const& text, char const* part) {
    return text.find(part) != std::string::npos;
}

/// A backend whose first copy takes its time, and whose copies fail from a moment on.
struct FaultyBackend {
    using space = HostSpace;
    using event_type = CpuBackend::event_type;

    CpuBackend cpu;
    bool fails = false;
    std::chrono::milliseconds delay = 0ms;
    bool takes_memory = false; ///< all that there is, when it fails

    void* allocate(std::size_t n) { return cpu.allocate(n); }
    void deallocate(void* p, std::size_t n) noexcept { cpu.deallocate(p, n); }
    void copy(void* to, void const* from, std::size_t n) {
        if (fails) {
            backend_error const error("the copy engine is gone");
            test::no_memory = takes_memory;
            throw error;
        }
        std::this_thread::sleep_for(std::exchange(delay, 0ms));
        cpu.copy(to, from, n);
    }
    event_type record() { return cpu.record(); }
    void wait(event_type const& event) { cpu.wait(event); }
    void synchronize() { cpu.synchronize(); }
    FaultyBackend fork() { return {cpu.fork(), fails, delay, takes_memory}; }
    template <class F>
    void parallel_for(index_t n, F const& functor) {
        cpu.parallel_for(n, functor);
    }
};
static_assert(Backend<FaultyBackend>);

} // namespace

TEST_CASE("comm/threads: a rank that does not come is named with what the others wait in") {
    comm::ThreadWorld const world{3, {.timeout = 2s}};
    auto const texts = errors(world, [](comm::Threads rank) {
        std::vector<index_t> send(6, 1), recv(6);
        rank.exchange_counts(send, recv);
        if (rank.rank() == 2) return;
        rank.exchange_counts(send, recv);
    });
    CHECK(contains(texts[0], "of 3 waited 2000 ms in exchange_counts (2 numbers a rank); missing: "
                             "rank 2 (last came for exchange_counts)"));
    CHECK(texts[1] == texts[0]);
    CHECK(texts[2].empty());
    std::vector<index_t> counts(6);
    CHECK_THROWS_WITH_AS(world.rank(2).exchange_counts(counts, counts),
                         ("comm::Threads: rank 2 calls exchange_counts (2 numbers a rank) after "
                          "an error: " +
                          texts[0])
                             .c_str(),
                         comm_error);
}

TEST_CASE("comm/threads: every collective names itself and the rank that does not come") {
    struct {
        std::string name;
        void (*call)(comm::Threads&);
    } const collectives[] = {
        {"exchange_counts (1 numbers a rank)",
         [](comm::Threads& rank) {
             std::vector<index_t> send(3), recv(3);
             rank.exchange_counts(send, recv);
         }},
        {"all_to_all_rows (4 bytes a row)",
         [](comm::Threads& rank) {
             CpuBackend b{.threads = 1};
             Buffer<std::byte, CpuBackend> out(b, 12), in(b, 12);
             std::vector<index_t> const one(3, 1);
             rank.all_to_all_rows(b, as_bytes(out.view()), one, in.view(), one, 4).wait(b);
         }},
        {"all_gather (4 bytes a rank)",
         [](comm::Threads& rank) {
             CpuBackend b{.threads = 1};
             Buffer<std::byte, CpuBackend> part(b, 4), whole(b, 12);
             rank.all_gather(b, as_bytes(part.view()), whole.view());
         }},
        {"reduce_scatter_sum (3 floats)",
         [](comm::Threads& rank) {
             CpuBackend b{.threads = 1};
             Buffer<float, CpuBackend> v(b, 3), out(b, 1);
             rank.reduce_scatter_sum(b, VectorView<float const, HostSpace>(v.view()), out.view());
         }},
        {"all_reduce_sum (3 doubles)",
         [](comm::Threads& rank) {
             CpuBackend b{.threads = 1};
             Buffer<double, CpuBackend> v(b, 3);
             rank.all_reduce_sum(b, v.view());
         }},
        {"split", [](comm::Threads& rank) { rank.split(0, 0); }},
    };
    // Side by side, since each waits for its deadline.
    std::vector<std::future<std::vector<std::string>>> found;
    for (auto const& collective : collectives)
        found.push_back(std::async(std::launch::async, [call = collective.call] {
            return errors<comm_error>(comm::ThreadWorld{3, {.timeout = 2s}},
                                      [call](comm::Threads rank) {
                                          if (rank.rank() < 2) call(rank);
                                      });
        }));
    for (std::size_t i = 0; i < found.size(); ++i) {
        auto const texts = found[i].get();
        CAPTURE(texts[0]);
        CHECK(contains(texts[0], ("waited 2000 ms in " + collectives[i].name).c_str()));
        CHECK(contains(texts[0], "; missing: rank 2 (never came)"));
        CHECK(texts[1] == texts[0]);
        CHECK(texts[2].empty());
    }
}

TEST_CASE("comm/threads: every rank throws the same text about counts that do not match") {
    auto const texts = errors(comm::ThreadWorld{3}, [](comm::Threads rank) {
        CpuBackend b;
        std::vector<index_t> const send = {0, 2, 1}, recv(3, rank.rank() == 0   ? 0
                                                             : rank.rank() == 1 ? 2
                                                                                : 7);
        Buffer<std::byte, CpuBackend> out(b, 300), in(b, 300);
        rank.all_to_all_rows(b, as_bytes(out.view()), send, in.view(), recv, 4).wait(b);
    });
    CHECK(texts[0] == "comm::Threads: in all_to_all_rows (4 bytes a row) rank 0 sends 1 rows to "
                      "rank 2, which expects 7");
    CHECK(texts[1] == texts[0]);
    CHECK(texts[2] == texts[0]);
}

TEST_CASE("comm/threads: an abort releases those who wait, long before the deadline") {
    comm::ThreadWorld const world{4, {.timeout = 10min}};
    auto const texts = errors(world, [](comm::Threads rank) {
        if (rank.rank() == 1) return rank.abort("out of memory");
        std::vector<index_t> counts(4), recv(4);
        rank.exchange_counts(counts, recv);
    });
    CHECK(contains(texts[0], "rank 1 aborted: out of memory"));
    CHECK(contains(texts[3], "rank 1 aborted: out of memory"));
}

TEST_CASE("comm/threads: run rethrows what was thrown first and aborts the other ranks") {
    comm::ThreadWorld const world{3, {.timeout = 10min}};
    std::vector<std::string> texts(3);
    CHECK_THROWS_WITH_AS(world.run([&](comm::Threads rank) {
        if (rank.rank() == 2) throw std::out_of_range("token 5 is not a number");
        std::vector<index_t> counts(3), recv(3);
        try {
            rank.exchange_counts(counts, recv);
        } catch (comm_error const& e) {
            texts[std::size_t(rank.rank())] = e.what();
            throw;
        }
    }),
                         "token 5 is not a number", std::out_of_range);
    CHECK(contains(texts[0], "rank 2 aborted: token 5 is not a number"));
    CHECK(contains(texts[1], "rank 2 aborted: token 5 is not a number"));
}

TEST_CASE("comm/threads: run rethrows the error of a rank, not what it did to the others") {
    for (int n = 0; n < 200; ++n)
        CHECK_THROWS_AS(comm::ThreadWorld{2}.run([](comm::Threads r) {
            CpuBackend b{.threads = 1};
            std::vector<std::byte> one(1), all(r.rank() == 0 ? 1 : 2);
            r.all_gather(b, ConstBytes<HostSpace>(one.data(), 1),
                         Bytes<HostSpace>(all.data(), index_t(all.size())));
        }),
                        precondition_error);
}
TEST_CASE("comm/threads: the deadline is for ranks that do not come, not for slow movements") {
    comm::ThreadWorld const world{2, {.timeout = 2s}};
    world.run([&](comm::Threads r) {
        FaultyBackend b{.cpu = CpuBackend{.threads = 1}, .delay = r.rank() == 0 ? 2200ms : 0ms};
        std::byte const mine{std::uint8_t(r.rank())};
        std::byte all[2];
        r.all_gather(b, ConstBytes<HostSpace>(&mine, 1), Bytes<HostSpace>(all, 2));
        CHECK(all[1] == std::byte{1});
    });
    comm::ThreadWorld const patient{2, {.timeout = std::chrono::milliseconds::max()}};
    patient.run([](comm::Threads r) {
        index_t const mine = r.rank();
        index_t both[2];
        r.exchange_counts(std::array<index_t, 2>{mine, mine}, both);
        CHECK(both[1] == 1);
    });
}
TEST_CASE("comm/threads: a precondition that one rank breaks is told to the others at once") {
    comm::ThreadWorld const world{2, {.timeout = 10min}};
    auto const texts = errors(world, [](comm::Threads rank) {
        CpuBackend b;
        std::vector<index_t> const two = {2, 2};
        Buffer<std::byte, CpuBackend> out(b, 32), in(b, rank.rank() == 1 ? 24 : 32);
        rank.all_to_all_rows(b, as_bytes(out.view()), two, in.view(), two, 8).wait(b);
    });
    CHECK(texts[1] == "comm::Threads: all_to_all_rows: 4 rows out of 32 bytes and 4 rows into 24 "
                      "bytes, of 8 bytes a row, do not fit");
    CHECK(contains(texts[0], texts[1].c_str()));
    CHECK(contains(texts[0], "on rank 1"));
}

TEST_CASE("comm/threads: what fails on one rank in the middle of a movement fails on all") {
    comm::ThreadWorld const world{3};
    auto const texts = errors(world, [](comm::Threads rank) {
        FaultyBackend b{{}, rank.rank() == 1};
        Buffer<float, FaultyBackend> v(b, 30);
        rank.all_reduce_sum(b, v.view());
    });
    CHECK(
        contains(texts[0], "rank 1 failed in all_reduce_sum (30 floats): the copy engine is gone"));
    CHECK(texts[1] == "the copy engine is gone");
    CHECK(contains(texts[2], "rank 1 failed in all_reduce_sum"));
}

TEST_CASE(
    "comm/threads: what fails later on one rank's queue is told on every rank that built on it") {
    struct Fill {
        float* to;
        bool fails;
        void operator()(index_t i) const {
            if (fails) throw backend_error("the kernel of rank 1");
            to[i] = 1;
        }
    };
    auto const check = [](auto b) {
        auto const texts = errors(comm::ThreadWorld{3}, [&](comm::Threads rank) {
            auto queue = b.fork();
            float sums[4];
            queue.parallel_for(4, Fill{sums, rank.rank() == 1});
            rank.all_reduce_sum(queue, VectorView<float, HostSpace>{sums, 4});
            queue.synchronize();
        });
        for (std::string const& text : texts) CHECK(text == "the kernel of rank 1");
    };
    for (int n = 0; n < 20; ++n) check(CpuBackend{.threads = 1});
    check(testing::DelayedBackend{.seed = 3});
}

TEST_CASE("comm/threads: counts that have no sum are refused") {
    auto const texts = errors<precondition_error>(comm::ThreadWorld{1}, [](comm::Threads rank) {
        CpuBackend b{.threads = 1};
        Buffer<std::byte, CpuBackend> out(b, 64), in(b, 64);
        std::vector<index_t> const rows = {index_t(1) << 61};
        rank.all_to_all_rows(b, as_bytes(out.view()), rows, in.view(), rows, 8).wait(b);
    });
    CHECK(contains(texts[0], "do not fit"));
    CHECK_THROWS_AS(comm::ThreadWorld{4}.run([](comm::Threads rank) {
        CpuBackend b{.threads = 1};
        Buffer<std::byte, CpuBackend> out(b, 64), in(b, 64);
        std::vector<index_t> const rows(4, index_t(1) << 61);
        rank.all_to_all_rows(b, as_bytes(out.view()), rows, in.view(), rows, 1).wait(b);
    }),
                    precondition_error);
}

TEST_CASE("comm/threads: a rank that has no memory to tell of its failure keeps nobody waiting") {
    comm::ThreadWorld const world{2};
    auto const texts = errors(world, [](comm::Threads rank) {
        FaultyBackend b{{}, rank.rank() == 1, 0ms, true};
        Buffer<float, FaultyBackend> v(b, 30);
        try {
            rank.all_reduce_sum(b, v.view());
        } catch (...) {
            test::no_memory = false;
            throw;
        }
    });
    CHECK(texts[0] == "comm::Threads: rank 1 failed in all_reduce_sum");
    CHECK(texts[1] == "the copy engine is gone");
}

TEST_CASE("comm/threads: backends of two types do not mix") {
    auto const texts = errors(comm::ThreadWorld{2}, [](comm::Threads rank) {
        auto const reduce = [&](auto b) {
            Buffer<float, decltype(b)> v(b, 1);
            rank.all_reduce_sum(b, v.view());
        };
        rank.rank() == 0 ? reduce(CpuBackend{}) : reduce(testing::DelayedBackend{});
    });
    CHECK(texts[0] == "comm::Threads: in all_reduce_sum (1 floats) the backends of rank 0 and rank "
                      "1 are of different types");
    CHECK(texts[1] == texts[0]);
}

TEST_CASE("comm/threads: counters are exact, of messages to other ranks only") {
    comm::ThreadWorld const world{3};
    world.run([](comm::Threads rank) {
        CpuBackend b;
        index_t const r = rank.rank();
        std::vector<index_t> numbers(12), more(12);
        rank.exchange_counts(numbers, more); // 2 messages of 4 numbers
        CHECK(rank.counters().collectives == 1);
        CHECK(rank.counters().messages == 2);
        CHECK(rank.counters().bytes_sent == 64);
        CHECK(rank.counters().bytes_received == 64);

        // Rank r sends r rows to each other rank, and five to itself.
        std::vector<index_t> send(3, r), recv = {0, 1, 2};
        send[std::size_t(r)] = recv[std::size_t(r)] = 5;
        Buffer<std::byte, CpuBackend> out(b, 200), in(b, 200);
        CommCounters const before = rank.counters();
        rank.all_to_all_rows(b, as_bytes(out.view()), send, in.view(), recv, 10).wait(b);
        CommCounters const after = rank.counters();
        CHECK(after.collectives == before.collectives + 1);
        CHECK(after.messages == before.messages + (r == 0 ? 0 : 2));
        CHECK(after.bytes_sent == before.bytes_sent + 20 * r);
        CHECK(after.bytes_received == before.bytes_received + 10 * (3 - r));

        // Ten floats in parts of 3, 3 and 4: two parts out and in, twice.
        Buffer<float, CpuBackend> v(b, 10);
        rank.all_reduce_sum(b, v.view());
        index_t const own = r == 2 ? 16 : 12;
        CHECK(rank.counters().messages == after.messages + 4);
        CHECK(rank.counters().bytes_sent == after.bytes_sent + (40 - own) + 2 * own);
        CHECK(rank.counters().bytes_received == after.bytes_received + 2 * own + (40 - own));
    });
}

TEST_CASE("comm/threads: counters of a world are those of the rank, whoever holds the handle") {
    comm::ThreadWorld const world{1};
    comm::Threads one = world.rank(0), two = one;
    std::vector<index_t> counts(2), recv(2);
    one.exchange_counts(counts, recv);
    CHECK(two.counters().collectives == 1);
    CHECK(two.counters().messages == 0);
    CHECK(world.rank(0).counters().collectives == 1);
}

TEST_CASE("comm/threads: topology follows the ranks into the parts of a split") {
    comm::ThreadWorld const world{8, {.ranks_per_node = 4}};
    std::vector<CommTopology> halves(8), pairs(8), mixed(8);
    world.run([&](comm::Threads rank) {
        std::size_t const r = std::size_t(rank.rank());
        CHECK(rank.topology().ranks_per_node == 4);
        CHECK(rank.topology().num_nodes == 2);
        halves[r] = rank.split(rank.rank() / 4, 0).topology();
        pairs[r] = rank.split(rank.rank() % 2, 0).topology();         // 0 2 4 6: two of each node
        mixed[r] = rank.split(rank.rank() < 5 ? 0 : 1, 0).topology(); // four and one
    });
    for (std::size_t r = 0; r < 8; ++r) {
        CHECK(halves[r].ranks_per_node == 4);
        CHECK(halves[r].num_nodes == 1);
        CHECK(pairs[r].ranks_per_node == 2);
        CHECK(pairs[r].num_nodes == 2);
        CHECK(mixed[r].ranks_per_node == (r < 5 ? 1 : 3));
        CHECK(mixed[r].num_nodes == (r < 5 ? 5 : 1));
    }
}

TEST_CASE("comm/threads: an abort reaches ranks that wait in a part of the world") {
    comm::ThreadWorld const world{4, {.timeout = 10min}};
    auto const texts = errors(world, [](comm::Threads rank) {
        comm::Threads pair = rank.split(rank.rank() / 2, 0);
        if (rank.rank() == 3) return rank.abort("power failure");
        std::vector<index_t> counts(2), recv(2);
        for (;;) pair.exchange_counts(counts, recv);
    });
    for (std::size_t r : {0u, 1u, 2u}) CHECK(contains(texts[r], "rank 3 aborted: power failure"));
}

TEST_CASE("comm/threads: no collective but split allocates") {
    comm::ThreadWorld const world{3};
    std::atomic<long> before{0}, after{0};
    world.run([&](comm::Threads rank) {
        CpuBackend b = CpuBackend{}.fork();
        Buffer<std::byte, CpuBackend> out(b, 300), in(b, 300);
        Buffer<double, CpuBackend> v(b, 30);
        std::vector<index_t> const send(3, 2);
        std::vector<index_t> recv(3);
        b.synchronize();
        for (int step = 0; step < 3; ++step) {
            if (step == 1) before = test::num_allocations.load(); // after a meeting of all
            rank.exchange_counts(send, recv);
            rank.all_to_all_rows(b, as_bytes(out.view()), send, in.view(), recv, 50).wait(b);
            rank.all_gather(b, ConstBytes<HostSpace>(out.view().part(0, 100)), in.view());
            rank.all_reduce_sum(b, v.view());
            rank.reduce_scatter_sum(
                b, VectorView<double const, HostSpace>(v.view()),
                VectorView<double, HostSpace>(v.data() + index_t(10) * rank.rank(), 10));
            b.synchronize();
            rank.exchange_counts(send, recv);
            if (step == 1) after = test::num_allocations.load();
            rank.exchange_counts(send, recv);
        }
    });
    CHECK(after == before);
}

TEST_CASE("comm/threads: names a world that cannot be") {
    CHECK_THROWS_WITH_AS(comm::ThreadWorld{0}, "comm::ThreadWorld: 0 ranks, must lie in [1, 64]",
                         precondition_error);
    CHECK_THROWS_WITH_AS(comm::ThreadWorld{65}, "comm::ThreadWorld: 65 ranks, must lie in [1, 64]",
                         precondition_error);
    CHECK_THROWS_WITH_AS((comm::ThreadWorld{4, {.ranks_per_node = 3}}),
                         "comm::ThreadWorld: ranks_per_node is 3, must divide 4 ranks",
                         precondition_error);
    CHECK_THROWS_WITH_AS(comm::ThreadWorld{2}.rank(2), "comm::ThreadWorld: rank 2 of 2",
                         precondition_error);
}
