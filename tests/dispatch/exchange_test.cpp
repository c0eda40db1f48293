#include "semoe/dispatch/exchange.hpp"

#include "semoe/comm/self.hpp"
#include "semoe/comm/threads.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;

namespace {

enum class Load { ragged, idle_ranks, one_expert, two_of_its_first, nothing };

/// Rows that a rank routes to an expert.
index_t rows_of(Load load, index_t rank, index_t expert, index_t experts) {
    switch (load) {
    case Load::ragged:
        return (rank * 5 + expert * 3 + 1) % 4;
    case Load::idle_ranks:
        return rank % 2 == 0 ? 0 : 1 + expert % 2;
    case Load::one_expert:
        return expert == experts - 1 ? 3 + rank : 0;
    case Load::two_of_its_first:
        return expert == 2 * rank ? 2 : 1;
    default:
        return 0;
    }
}

/// Experts in a scattered order that leaves the last of many ranks without any.
Placement scattered(index_t experts, int ranks) {
    std::vector<int> owners;
    for (index_t e = 0; e < experts; ++e)
        owners.push_back(int((e * 2 + 1) % std::max(1, ranks - 1)));
    return Placement::table(owners, ranks);
}

/// One rank's exchange with all the memory that it needs.
template <class B, class C>
struct Bench {
    B b;
    int rank;
    CountExchange<C> counts;
    Exchange<B, C> exchange;
    Buffer<std::byte, B> table, staging;

    Bench(B const& backend, C comm, Placement const& placement, index_t row_bytes, Load load)
      : b(backend)
      , rank(comm.rank())
      , counts(comm, 1, placement.num_experts())
      , exchange(comm, placement)
      , table(b, exchange_table_bytes(placement, rank)) {
        count(load);
        staging =
            Buffer<std::byte, B>(b, exchange_staging_bytes(placement, rank, exchange.num_slots(),
                                                           exchange.num_rows(), row_bytes));
    }
    ~Bench() {
        try {
            b.synchronize();
        } catch (std::exception const& e) {
            FAIL_CHECK(e.what());
        }
    }
    void count(Load load) {
        index_t const experts = counts.num_experts();
        b.synchronize();
        counts.begin(1);
        for (index_t e = 0; e < experts; ++e)
            counts.mine(0)[std::size_t(e)] = rows_of(load, rank, e, experts);
        counts.run();
        exchange.assign(b, counts, 0, table.view());
    }
    index_t num_slots() const { return exchange.num_slots(); }
    index_t num_rows() const { return exchange.num_rows(); }
};

/// What column h of a row says of where it comes from.
double mark(index_t source, index_t expert, index_t i, index_t h) {
    return double(source * 1000000 + expert * 10000 + i * 100) + double(h % 89);
}

/// Slots in order of expert, as this rank sends them.
std::vector<double> marked_slots(Load load, int rank, index_t experts, index_t hidden) {
    std::vector<double> values;
    for (index_t e = 0; e < experts; ++e)
        for (index_t i = 0; i < rows_of(load, rank, e, experts); ++i)
            for (index_t h = 0; h < hidden; ++h) values.push_back(mark(rank, e, i, h));
    return values;
}
/// Rows as this rank's experts should see them: by local expert, source, slot.
std::vector<double> marked_rows(Load load, Placement const& placement, int rank, index_t hidden) {
    std::vector<double> values;
    for (expert_id e : placement.experts_of(rank))
        for (int p = 0; p < placement.num_ranks(); ++p)
            for (index_t i = 0; i < rows_of(load, p, e, placement.num_experts()); ++i)
                for (index_t h = 0; h < hidden; ++h) values.push_back(mark(p, e, i, h));
    return values;
}

template <class B>
void moves_rows(int ranks, Placement const& placement, Load load, index_t hidden) {
    comm::ThreadWorld{ranks}.run([&](comm::Threads comm) {
        Bench<B, comm::Threads> x(B{}, comm, placement, hidden * 8, load);
        auto const sent = marked_slots(load, x.rank, placement.num_experts(), hidden);
        auto const want = marked_rows(load, placement, x.rank, hidden);
        std::vector<index_t> offsets{0};
        for (expert_id e : placement.experts_of(x.rank)) {
            offsets.push_back(offsets.back());
            for (int p = 0; p < ranks; ++p)
                offsets.back() += rows_of(load, p, e, placement.num_experts());
        }
        auto const local = x.exchange.local_offsets();
        CHECK(std::vector<index_t>(local.begin(), local.end()) == offsets);
        CHECK(x.num_slots() * hidden == index_t(sent.size()));
        CHECK(x.num_rows() * hidden == index_t(want.size()));

        auto const slots = test::to_backend(x.b, sent);
        Buffer<double, B> rows(x.b, index_t(want.size())), back(x.b, index_t(sent.size()));
        x.exchange.to_experts(x.b, slots.matrix(x.num_slots(), hidden),
                              rows.matrix(x.num_rows(), hidden), x.staging.view());
        x.exchange.to_tokens(x.b, rows.matrix(x.num_rows(), hidden),
                             back.matrix(x.num_slots(), hidden), x.staging.view());
        CHECK((test::to_host(x.b, rows) == want));
        CHECK((test::to_host(x.b, back) == sent));
    });
}

} // namespace

TEST_CASE_TEMPLATE("dispatch/exchange: rows reach their expert in order of source and slot", B,
                   SEMOE_TEST_BACKENDS) {
    for (int ranks : {1, 2, 3, 4, 8})
        for (index_t experts : {1, 7})
            for (Load load : {Load::ragged, Load::idle_ranks, Load::one_expert, Load::nothing}) {
                CAPTURE(ranks);
                CAPTURE(experts);
                CAPTURE(int(load));
                moves_rows<B>(ranks, Placement::contiguous(experts, ranks), load, 3);
            }
}

TEST_CASE_TEMPLATE("dispatch/exchange: two ranks of two experts have the rows that others publish",
                   B, SEMOE_TEST_BACKENDS) {
    comm::ThreadWorld{2}.run([](comm::Threads comm) {
        Bench<B, comm::Threads> x(B{}, comm, Placement::contiguous(4, 2), 8,
                                  Load::two_of_its_first);
        std::vector<float> const sent = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                                 want[] = {{1, 2, 3, 4, 1, 2, 5, 6, 3, 4},
                                           {7, 8, 5, 6, 7, 8, 9, 10, 9, 10}};
        auto const slots = test::to_backend(x.b, sent);
        Buffer<float, B> rows(x.b, 10), back(x.b, 10);
        x.exchange.to_experts(x.b, slots.matrix(5, 2), rows.matrix(5, 2), x.staging.view());
        x.exchange.to_tokens(x.b, rows.matrix(5, 2), back.matrix(5, 2), x.staging.view());
        CHECK((test::to_host(x.b, rows) == want[x.rank]));
        CHECK((test::to_host(x.b, back) == sent));
    });
}

TEST_CASE_TEMPLATE("dispatch/exchange: experts may lie on any rank, in any order", B,
                   SEMOE_TEST_BACKENDS) {
    for (int ranks : {1, 2, 3, 4})
        for (Load load : {Load::ragged, Load::idle_ranks, Load::one_expert}) {
            CAPTURE(ranks);
            CAPTURE(int(load));
            moves_rows<B>(ranks, scattered(7, ranks), load, 3);
        }
}

TEST_CASE_TEMPLATE("dispatch/exchange: rows of more than one piece arrive whole", B,
                   SEMOE_TEST_BACKENDS) {
    moves_rows<B>(3, Placement::contiguous(7, 3), Load::ragged, 150);
    moves_rows<B>(3, scattered(7, 3), Load::ragged, 128);
}

TEST_CASE_TEMPLATE("dispatch/exchange: to_tokens is the adjoint of to_experts", B,
                   SEMOE_TEST_BACKENDS) {
    for (int ranks : {1, 2, 3, 4, 5, 8})
        for (Placement const& placement : {scattered(5, ranks), Placement::contiguous(5, ranks)}) {
            CAPTURE(ranks);
            std::vector<double> left(std::size_t(ranks), 0.), right = left;
            comm::ThreadWorld{ranks}.run([&](comm::Threads comm) {
                Bench<B, comm::Threads> x(B{}, comm, placement, 16, Load::ragged);
                index_t const S = x.num_slots() * 2, R = x.num_rows() * 2;
                auto const u = test::random_values<double>(std::uint64_t(x.rank), S);
                auto const v = test::random_values<double>(std::uint64_t(x.rank) + 50, R);
                auto const du = test::to_backend(x.b, u), dv = test::to_backend(x.b, v);
                Buffer<double, B> mu(x.b, R), mv(x.b, S);
                x.exchange.to_experts(x.b, du.matrix(S / 2, 2), mu.matrix(R / 2, 2),
                                      x.staging.view());
                x.exchange.to_tokens(x.b, dv.matrix(R / 2, 2), mv.matrix(S / 2, 2),
                                     x.staging.view());
                auto const hu = test::to_host(x.b, mu), hv = test::to_host(x.b, mv);
                for (std::size_t i = 0; i < v.size(); ++i)
                    left[std::size_t(x.rank)] += hu[i] * v[i];
                for (std::size_t i = 0; i < u.size(); ++i)
                    right[std::size_t(x.rank)] += u[i] * hv[i];
            });
            double a = 0, z = 0;
            for (std::size_t p = 0; p < left.size(); ++p) {
                a += left[p];
                z += right[p];
            }
            CHECK(a == doctest::Approx(z).epsilon(1e-12));
            CHECK(a != 0);
        }
}

TEST_CASE_TEMPLATE("dispatch/exchange: 16-bit rows move bit by bit on a queue of their own", B,
                   SEMOE_TEST_BACKENDS) {
    Placement const placement = Placement::contiguous(4, 2);
    comm::ThreadWorld{2}.run([&](comm::Threads comm) {
        B compute;
        Bench<B, comm::Threads> x(compute.fork(), comm, placement, 10, Load::ragged);
        index_t const S = x.num_slots(), R = x.num_rows();
        auto const sent = test::random_values<bf16>(std::uint64_t(x.rank) + 1, S * 5);
        Buffer<bf16, B> slots(compute, S * 5), rows(compute, R * 5), back(compute, S * 5);
        compute.copy(slots.data(), sent.data(), sent.size() * sizeof(bf16));
        x.b.wait(compute.record());
        x.exchange.to_experts(x.b, slots.matrix(S, 5), rows.matrix(R, 5), x.staging.view());
        x.exchange.to_tokens(x.b, rows.matrix(R, 5), back.matrix(S, 5), x.staging.view());
        compute.wait(x.b.record());
        auto const got = test::to_host(compute, back);
        bool same = got.size() == sent.size();
        for (std::size_t i = 0; i < sent.size() && same; ++i) same = got[i].bits == sent[i].bits;
        CHECK(same);
        x.b.synchronize();
    });
}

TEST_CASE_TEMPLATE("dispatch/exchange: takes the counts of forward after forward", B,
                   SEMOE_TEST_BACKENDS) {
    Placement const placement = Placement::contiguous(5, 2);
    comm::ThreadWorld{2}.run([&](comm::Threads comm) {
        Bench<B, comm::Threads> x(B{}, comm, placement, 16, Load::ragged);
        Buffer<std::byte, B> staging(x.b, exchange_staging_bytes(placement, x.rank, 20, 20, 16));
        for (Load load : {Load::one_expert, Load::nothing, Load::ragged, Load::idle_ranks}) {
            x.count(load);
            auto const slots = test::to_backend(x.b, marked_slots(load, x.rank, 5, 2));
            Buffer<double, B> rows(x.b, x.num_rows() * 2);
            x.exchange.to_experts(x.b, slots.matrix(x.num_slots(), 2), rows.matrix(x.num_rows(), 2),
                                  staging.view());
            CHECK((test::to_host(x.b, rows) == marked_rows(load, placement, x.rank, 2)));
        }
    });
}

TEST_CASE_TEMPLATE("dispatch/exchange: one rank needs no message, no table and no second buffer", B,
                   SEMOE_TEST_BACKENDS) {
    comm::Self self;
    Bench<B, comm::Self> x(B{}, self, Placement::contiguous(7, 1), 8, Load::ragged);
    CHECK(x.exchange.is_local());
    CHECK(exchange_table_bytes(x.exchange.placement(), 0) == 0);
    CHECK(exchange_staging_bytes(x.exchange.placement(), 0, 1000, 1000, 64) == 0);
    CHECK(x.num_slots() == x.num_rows());
    auto const sent = marked_slots(Load::ragged, 0, 7, 1);
    auto const slots = test::to_backend(x.b, sent);
    auto const shared = slots.matrix(x.num_slots(), 1);
    index_t const collectives = self.counters().collectives;
    x.exchange.to_experts(x.b, shared, shared, {});
    Buffer<double, B> rows(x.b, x.num_rows());
    x.exchange.to_experts(x.b, shared, rows.matrix(x.num_rows(), 1), {});
    CHECK((test::to_host(x.b, slots) == sent));
    CHECK((test::to_host(x.b, rows) == sent));
    CHECK(self.counters().collectives == collectives);
}

TEST_CASE_TEMPLATE("dispatch/exchange: a movement is one collective and moves each row once", B,
                   SEMOE_TEST_BACKENDS) {
    comm::ThreadWorld{2}.run([&](comm::Threads comm) {
        Bench<B, comm::Threads> x(B{}, comm, Placement::contiguous(2, 2), 12, Load::one_expert);
        Buffer<float, B> slots(x.b, x.num_slots() * 3), rows(x.b, x.num_rows() * 3);
        CommCounters const before = comm.counters();
        x.exchange.to_experts(x.b, slots.matrix(x.num_slots(), 3), rows.matrix(x.num_rows(), 3),
                              x.staging.view());
        x.b.synchronize();
        CommCounters const after = comm.counters();
        // Expert 1, on rank 1, gets three rows of rank 0 and four of its own.
        CHECK(after.collectives - before.collectives == 1);
        CHECK(after.messages - before.messages == (x.rank == 0 ? 1 : 0));
        CHECK(after.bytes_sent - before.bytes_sent == (x.rank == 0 ? 36 : 0));
        CHECK(after.bytes_received - before.bytes_received == (x.rank == 1 ? 36 : 0));
    });
}

TEST_CASE_TEMPLATE("dispatch/exchange: names shapes and sizes that do not fit", B,
                   SEMOE_TEST_BACKENDS) {
    comm::ThreadWorld const world{2};
    CHECK_THROWS_WITH_AS((Exchange<B, comm::Threads>(world.rank(0), Placement::contiguous(4, 3))),
                         "Exchange: a placement on 3 ranks, the communicator has 2",
                         precondition_error);
    Placement const placement = Placement::contiguous(4, 2);
    world.run([&](comm::Threads comm) {
        Bench<B, comm::Threads> x(B{}, comm, placement, 8, Load::one_expert);
        index_t const S = x.num_slots(), R = x.num_rows();
        Buffer<double, B> slots(x.b, S * 2), rows(x.b, R * 2 + 2);
        CHECK_THROWS_AS(
            x.exchange.to_experts(x.b, slots.matrix(S, 2), rows.matrix(R + 1, 2), x.staging.view()),
            precondition_error);
        CHECK_THROWS_AS(
            x.exchange.to_experts(x.b, MatrixView<double, space_of<B>>(slots.data(), S, 1, 2),
                                  rows.matrix(R, 1), x.staging.view()),
            precondition_error);
        if (R > 0)
            CHECK_THROWS_WITH_AS(
                x.exchange.to_experts(x.b, slots.matrix(S, 1), rows.matrix(R, 1), {}),
                "Exchange: staging has 0 bytes, 64 needed", precondition_error);
        CHECK_THROWS_WITH_AS(x.exchange.assign(x.b, x.counts, 0, {}),
                             "Exchange: its table has 0 bytes, 72 needed", precondition_error);
    });
}
