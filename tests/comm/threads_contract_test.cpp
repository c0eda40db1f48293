#include "semoe/comm/threads.hpp"
#include "semoe/testing/check_communicator.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <random>
#include <utility>

using namespace semoe;
using namespace std::chrono_literals;

namespace {

/// The backend of one rank; a delayed one with dice of its own.
template <class B>
B backend_of(int rank, std::uint64_t seed) {
    if constexpr (requires { B{.seed = seed}; })
        return B{.seed = seed * 10 + (seed ? std::uint64_t(rank) : 0)};
    else
        return B{};
}

} // namespace

TEST_CASE_TEMPLATE("comm/threads: models a communicator with 1, 2, 3, 4 and 8 ranks", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(Communicator<comm::Threads, B>);
    for (int ranks : {1, 2, 3, 4, 8})
        for (std::uint64_t seed : {0u, 1u, 2u}) {
            if (seed > 0 && !requires { B{.seed = seed}; }) continue;
            CAPTURE(ranks);
            CAPTURE(seed);
            comm::ThreadWorld const world{ranks};
            CHECK_NOTHROW(world.run([&](comm::Threads rank) {
                testing::check_communicator(backend_of<B>(rank.rank(), seed), rank);
            }));
        }
}

TEST_CASE_TEMPLATE("comm/threads: ranks on forked queues model a communicator, too", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    comm::ThreadWorld const world{3};
    CHECK_NOTHROW(
        world.run([&](comm::Threads rank) { testing::check_communicator(B(b).fork(), rank); }));
}

TEST_CASE_TEMPLATE("comm/threads: misuse is told to every rank, naming both sides", B,
                   SEMOE_TEST_BACKENDS) {
    for (int ranks : {2, 3, 4}) {
        CAPTURE(ranks);
        std::chrono::milliseconds timeout = 2s; // which the first set waits for
        CHECK_NOTHROW(testing::check_communicator_errors(B{}, [&](auto body) {
            comm::ThreadWorld{ranks, {.timeout = std::exchange(timeout, 30s)}}.run(body);
        }));
    }
}

TEST_CASE_TEMPLATE("comm/threads: many ragged movements and sums in a row", B,
                   SEMOE_TEST_BACKENDS) {
    int const ranks = 4;
    comm::ThreadWorld const world{ranks};
    CHECK_NOTHROW(world.run([&](comm::Threads rank) {
        B b = backend_of<B>(rank.rank(), 3);
        std::mt19937 dice(5); // the same on every rank
        Buffer<index_t, B> out(b, 64), in(b, 64);
        Buffer<double, B> sum(b, 1);
        index_t const me = rank.rank();
        for (index_t round = 0; round < 50; ++round) {
            index_t table[4][4];
            for (auto& row : table)
                for (index_t& n : row) n = index_t(dice() % 5);
            std::vector<index_t> send, recv, values, want;
            for (int p = 0; p < ranks; ++p) {
                send.push_back(table[rank.rank()][p]);
                recv.push_back(table[p][rank.rank()]);
                values.insert(values.end(), std::size_t(send.back()), round * 100 + me * 10 + p);
                want.insert(want.end(), std::size_t(recv.back()),
                            round * 100 + index_t(p) * 10 + me);
            }
            b.copy(out.data(), values.data(), values.size() * sizeof(index_t));
            rank.all_to_all_rows(b, as_bytes(out.view()), send, as_writable_bytes(in.view()), recv,
                                 sizeof(index_t))
                .wait(b);
            double const mine = double(round) + rank.rank();
            b.copy(sum.data(), &mine, sizeof mine);
            rank.all_reduce_sum(b, sum.view());
            testing::require(test::to_host(b, in.data(), index_t(want.size())) == want,
                             "the rows of a round");
            testing::require(test::to_host(b, sum)[0] == 4. * double(round) + 6,
                             "the sum of a round");
        }
    }));
}
