#include "semoe/dispatch/count_exchange.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/comm/self.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/dispatch/exchange.hpp"
#include "support/allocation_counter.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace {

index_t choice(index_t rank, index_t chunk, index_t expert) {
    return (rank * 5 + chunk * 3 + expert * 7 + rank * chunk) % 4;
}

/// Runs one exchange of such choices on every rank and then body(counts, rank).
template <class Body>
void exchange_choices(int ranks, index_t chunks, index_t experts, Body const& body) {
    comm::ThreadWorld{ranks}.run([&](comm::Threads rank) {
        CountExchange<comm::Threads> counts(rank, chunks + 1, experts);
        counts.begin(chunks);
        for (index_t c = 0; c < chunks; ++c)
            for (index_t e = 0; e < experts; ++e)
                counts.mine(c)[std::size_t(e)] = choice(rank.rank(), c, e);
        counts.set_tokens(10 + rank.rank());
        if (rank.rank() >= 2) *counts.status_word() = 100 + rank.rank();
        counts.run();
        body(counts, rank);
    });
}

std::vector<index_t> list(std::span<index_t const> values) {
    return {values.begin(), values.end()};
}

} // namespace

TEST_CASE("dispatch/count_exchange: every rank knows every rank's rows, tokens and status") {
    for (int ranks : {1, 2, 3, 4, 8})
        exchange_choices(ranks, 3, 7, [&](auto const& counts, comm::Threads const& rank) {
            bool same = true;
            index_t tokens = 0;
            for (int p = 0; p < ranks; ++p) {
                if (p == rank.rank()) same = same && counts.first_token() == tokens;
                same = same && counts.tokens(p) == 10 + p;
                same = same && counts.status(p) == (p >= 2 ? 100 + p : 0);
                for (index_t c = 0; c < 3; ++c)
                    for (index_t e = 0; e < 7; ++e)
                        same = same && counts.rows(p, c)[std::size_t(e)] == choice(p, c, e);
                tokens += counts.tokens(p);
            }
            CHECK(same);
            CHECK(counts.total_tokens() == tokens);
            CHECK(counts.first_failed_rank() == (ranks > 2 ? 2 : -1));
        });
}

TEST_CASE("dispatch/count_exchange: before and total follow ranks, then chunks") {
    exchange_choices(4, 3, 5, [&](auto const& counts, comm::Threads const& rank) {
        std::vector<index_t> running(5);
        for (int p = 0; p < 4; ++p)
            for (index_t c = 0; c < 3; ++c) {
                if (p == rank.rank()) CHECK(list(counts.before(c)) == running);
                for (index_t e = 0; e < 5; ++e) running[std::size_t(e)] += choice(p, c, e);
            }
        CHECK(list(counts.total()) == running);
    });
}

TEST_CASE("dispatch/count_exchange: one message to each other rank, whatever the chunks") {
    exchange_choices(3, 3, 5, [](auto const&, comm::Threads const& rank) {
        CHECK(rank.counters().collectives == 1);
        CHECK(rank.counters().messages == 2);
        CHECK(rank.counters().bytes_sent == 2 * (2 + 3 * 5) * 8);
    });
}

TEST_CASE("dispatch/count_exchange: a later forward may have fewer chunks; nothing remains") {
    comm::Self self;
    CountExchange<comm::Self> counts(self, 3, 2);
    counts.begin(3);
    for (index_t c = 0; c < 3; ++c) counts.mine(c)[1] = 9;
    *counts.status_word() = 4;
    counts.set_tokens(5);
    counts.run();
    CHECK(list(counts.total()) == std::vector<index_t>{0, 27});
    counts.begin(1);
    counts.mine(0)[0] = 2;
    counts.run();
    CHECK(counts.num_chunks() == 1);
    CHECK(list(counts.rows(0, 0)) == std::vector<index_t>{2, 0});
    CHECK(list(counts.total()) == std::vector<index_t>{2, 0});
    CHECK(counts.first_failed_rank() == -1);
    CHECK(counts.total_tokens() == 0);
}

TEST_CASE("dispatch/count_exchange: names sizes that do not fit") {
    comm::Self self;
    CHECK_THROWS_WITH_AS((CountExchange<comm::Self>(self, 0, 4)),
                         "CountExchange: 0 chunks of 4 experts, at least one of each needed",
                         precondition_error);
    CountExchange<comm::Self> counts(self, 2, 4);
    CHECK_THROWS_WITH_AS(counts.begin(3), "CountExchange: 3 chunks, made for at most 2",
                         precondition_error);
}

TEST_CASE("dispatch/count_exchange: counting and moving rows allocate nothing once made") {
    std::atomic<long> before{0}, after{0};
    comm::ThreadWorld{2}.run([&](comm::Threads rank) {
        CpuBackend b;
        Placement const placement = Placement::table(std::vector<int>{1, 0, 1, 0}, 2);
        CountExchange<comm::Threads> counts(rank, 1, 4);
        Exchange<CpuBackend, comm::Threads> exchange(rank, placement);
        Buffer<std::byte, CpuBackend> table(b, exchange_table_bytes(placement, rank.rank())),
            staging(b, exchange_staging_bytes(placement, rank.rank(), 8, 8, 12));
        Buffer<float, CpuBackend> slots(b, 24), rows(b, 24);
        std::vector<index_t> const meet(2);
        std::vector<index_t> met(2);
        for (int step = 0; step < 3; ++step) {
            rank.exchange_counts(meet, met);
            if (step == 1) before = test::num_allocations.load();
            counts.begin(1);
            for (index_t& n : counts.mine(0)) n = 2;
            counts.run();
            exchange.assign(b, counts, 0, table.view());
            exchange.to_experts(b, slots.matrix(8, 3), rows.matrix(8, 3), staging.view());
            exchange.to_tokens(b, rows.matrix(8, 3), slots.matrix(8, 3), staging.view());
            if (step == 1) after = test::num_allocations.load();
        }
    });
    CHECK(after == before);
}
