#include "semoe/testing/check_communicator.hpp"

#include "semoe/comm/threads.hpp"
#include "semoe/testing/delayed_backend.hpp"

#include <chrono>
#include <doctest/doctest.h>
#include <utility>

using namespace semoe;
using namespace std::chrono_literals;

namespace check_communicator_test {
namespace {

using B = testing::DelayedBackend; // does nothing before it must

enum class Fault {
    none,
    counts_to_oneself,  // exchange_counts returns what was sent
    rows_turned,        // the rows of a source arrive in reverse
    sum_of_rank_zero,   // reductions leave out the others
    gather_of_oneself,  // all_gather repeats this rank's part
    gathers_at_once,    // all_gather does not wait for the queue
    scatters_at_once,   // nor does reduce_scatter_sum
    sums_at_once,       // nor does all_reduce_sum
    split_without_key,  // the order of a split is that of the ranks
    topology_too_small, // topology() forgets a node
    swallows_errors,    // all_to_all_rows returns as if nothing had happened
    nameless_errors,    // all_to_all_rows says only that it failed
};

/// Thread ranks with one fault.
struct Faulty {
    comm::Threads inner;
    Fault fault;

    int rank() const { return inner.rank(); }
    int size() const { return inner.size(); }
    CommTopology topology() const {
        CommTopology t = inner.topology();
        if (fault == Fault::topology_too_small) --t.num_nodes;
        return t;
    }
    void exchange_counts(std::span<index_t const> send, std::span<index_t> recv) {
        inner.exchange_counts(send, recv);
        if (fault == Fault::counts_to_oneself) std::copy(send.begin(), send.end(), recv.begin());
    }
    comm::Arrival<B> all_to_all_rows(B& b, ConstBytes<HostSpace> send,
                                     std::span<index_t const> send_counts, Bytes<HostSpace> recv,
                                     std::span<index_t const> recv_counts, std::size_t row_bytes) {
        try {
            auto arrival =
                inner.all_to_all_rows(b, send, send_counts, recv, recv_counts, row_bytes);
            if (fault == Fault::rows_turned) {
                arrival.wait(b);
                b.synchronize();
                std::byte* at = recv.data;
                for (index_t rows : recv_counts) {
                    std::reverse(at, at + rows * index_t(row_bytes));
                    at += rows * index_t(row_bytes);
                }
            }
            return arrival;
        } catch (comm_error const&) {
            if (fault == Fault::nameless_errors) throw comm_error("timeout");
            if (fault != Fault::swallows_errors) throw;
            return comm::Arrival<B>(b.record());
        }
    }
    /// Runs a collective on b, or on a queue of its own.
    template <class Call>
    static void collective(B& b, bool at_once, Call const& call) {
        B queue = at_once ? b.fork() : b;
        call(queue);
        if (at_once) queue.synchronize();
    }
    void all_gather(B& b, ConstBytes<HostSpace> part, Bytes<HostSpace> whole) {
        collective(b, fault == Fault::gathers_at_once,
                   [&](B& queue) { inner.all_gather(queue, part, whole); });
        for (int p = 0; p < size() && fault == Fault::gather_of_oneself; ++p)
            b.copy(whole.data + p * part.size, part.data, std::size_t(part.size));
    }
    template <class Real>
    void all_reduce_sum(B& b, VectorView<Real, HostSpace> v) {
        if (fault == Fault::sum_of_rank_zero) return;
        collective(b, fault == Fault::sums_at_once,
                   [&](B& queue) { inner.all_reduce_sum(queue, v); });
    }
    template <class Real>
    void reduce_scatter_sum(B& b, VectorView<Real const, HostSpace> v,
                            VectorView<Real, HostSpace> out) {
        collective(b, fault == Fault::scatters_at_once,
                   [&](B& queue) { inner.reduce_scatter_sum(queue, v, out); });
    }
    Faulty split(int color, int key) {
        return {inner.split(color, fault == Fault::split_without_key ? 0 : key), fault};
    }
};
static_assert(Communicator<Faulty, B>);

/// What the suite says of thread ranks with this fault; empty when it is content.
std::string verdict(Fault fault) {
    try {
        comm::ThreadWorld{3}.run([&](comm::Threads const& rank) {
            testing::check_communicator(B{}, Faulty{rank, fault});
        });
    } catch (testing::contract_violation const& e) {
        return e.what();
    }
    return "";
}
std::string verdict_on_errors(Fault fault) {
    std::chrono::milliseconds timeout = 2s; // which the first set waits for
    try {
        testing::check_communicator_errors(B{}, [&](auto body) {
            comm::ThreadWorld{2, {.timeout = std::exchange(timeout, 30s)}}.run(
                [&](comm::Threads const& rank) {
                    body(Faulty{rank, fault});
                });
        });
    } catch (testing::contract_violation const& e) {
        return e.what();
    }
    return "";
}
bool contains(std::string const& text, char const* part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("testing/check_communicator: is content with ranks that keep their promises") {
    CHECK(verdict(Fault::none) == "");
    CHECK(verdict_on_errors(Fault::none) == "");
}

TEST_CASE("testing/check_communicator: says which promise was broken, and on which rank") {
    CHECK(contains(verdict(Fault::counts_to_oneself), "exchange_counts comes from rank p"));
    CHECK(contains(verdict(Fault::counts_to_oneself), "of 3)"));
    CHECK(contains(verdict(Fault::rows_turned), "all_to_all_rows brings n-byte rows in order"));
    CHECK(contains(verdict(Fault::sum_of_rank_zero), "adds in rank order"));
    CHECK(contains(verdict(Fault::gather_of_oneself), "all_gather puts the parts in rank order"));
    CHECK(contains(verdict(Fault::gathers_at_once), "all_gather puts the parts in rank order"));
    CHECK(contains(verdict(Fault::scatters_at_once), "reduce_scatter_sum gives rank r"));
    CHECK(contains(verdict(Fault::sums_at_once), "all_reduce_sum adds in rank order"));
    CHECK(contains(verdict(Fault::split_without_key), "split orders the ranks"));
    CHECK(contains(verdict(Fault::topology_too_small), "topology()"));
}

TEST_CASE("testing/check_communicator: wants an error that names rank, operation and sizes") {
    CHECK(contains(verdict_on_errors(Fault::swallows_errors),
                   "comm_error on every rank when a rank does not call"));
    CHECK(contains(verdict_on_errors(Fault::nameless_errors), "names \"all_to_all_rows\""));
}

} // namespace check_communicator_test
