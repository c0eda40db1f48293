#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/dispatch/exchange.hpp"
#include "semoe/testing/contract.hpp"

#include <cstring>
#include <string>
#include <vector>

namespace semoe::testing {

namespace detail {

/// The suite as one rank runs it.
template <Backend B, class C>
class CommunicatorSuite {
public:
    using space = space_of<B>;

    CommunicatorSuite(B b, C comm)
      : b_(std::move(b))
      , comm_(std::move(comm)) {}

    void run() {
        shape();
        counts();
        for (std::size_t row_bytes : {std::size_t(1), std::size_t(12), std::size_t(65536)})
            for (int pattern = 0; pattern < 4; ++pattern) rows(row_bytes, pattern);
        sender_may_reuse_its_buffer();
        ticket_orders_another_queue();
        gather();
        for (index_t n : {0, 1, 3, 7, 1000}) {
            sums<float>(n);
            sums<double>(n);
        }
        for (index_t scale : {1, 37}) adjoint(scale);
        split();
        golden_scatter();
    }

private:
    int rank() const { return comm_.rank(); }
    int size() const { return comm_.size(); }
    SEMOE_NOINLINE void promise(bool ok, char const* sentence, index_t n = -1) const {
        if (ok) return;
        throw contract_violation("communicator: " + std::string(sentence) +
                                 (n < 0 ? "" : ", n = " + std::to_string(n)) + " (rank " +
                                 std::to_string(rank()) + " of " + std::to_string(size()) + ")");
    }

    void shape() {
        promise(size() >= 1 && rank() >= 0 && rank() < size(), "0 <= rank() < size()");
        CommTopology const t = comm_.topology();
        promise(t.ranks_per_node >= 1 && t.ranks_per_node * t.num_nodes == size(),
                "topology() has ranks_per_node * num_nodes ranks");
        C copy = comm_;
        promise(copy.rank() == rank() && copy.size() == size(), "a copy is the same rank");
    }

    void counts() {
        for (index_t m : {0, 1, 3}) {
            std::vector<index_t> send(std::size_t(m * size())), recv(send.size(), -1);
            for (int p = 0; p < size(); ++p)
                for (index_t i = 0; i < m; ++i) send[std::size_t(p * m + i)] = number(rank(), p, i);
            comm_.exchange_counts(send, recv);
            for (int p = 0; p < size(); ++p)
                for (index_t i = 0; i < m; ++i)
                    promise(recv[std::size_t(p * m + i)] == number(p, rank(), i),
                            "part p of exchange_counts comes from rank p");
        }
    }
    static index_t number(int from, int to, index_t i) { return from * 10000 + to * 100 + i; }

    /// Rows from one rank to another: ragged with zeros, none at all, all to the last rank, all
    /// from the last.
    index_t pattern_rows(int pattern, int from, int to) const {
        switch (pattern) {
        case 0:
            return (from * 7 + to * 5 + 3) % 4;
        case 1:
            return 0;
        case 2:
            return to == size() - 1 ? from + 1 : 0;
        default:
            return from == size() - 1 ? 2 : 0;
        }
    }
    struct Counts {
        std::vector<index_t> send, recv;
        index_t rows_out = 0, rows_in = 0;
    };
    Counts pattern_counts(int pattern) const {
        Counts c;
        for (int p = 0; p < size(); ++p) {
            c.send.push_back(pattern_rows(pattern, rank(), p));
            c.recv.push_back(pattern_rows(pattern, p, rank()));
            c.rows_out += c.send.back();
            c.rows_in += c.recv.back();
        }
        return c;
    }
    static std::byte cell(int from, int to, index_t row, std::size_t i) {
        return std::byte((std::size_t(from * 31 + to * 17 + row * 5) + i * 3 + i / 251) % 253);
    }

    void rows(std::size_t row_bytes, int pattern) {
        Counts const c = pattern_counts(pattern);
        std::vector<std::byte> out(std::size_t(c.rows_out) * row_bytes),
            want(std::size_t(c.rows_in) * row_bytes);
        fill(
            out, row_bytes, [&](int p) { return c.send[std::size_t(p)]; },
            [&](int p, index_t row, std::size_t i) { return cell(rank(), p, row, i); });
        fill(
            want, row_bytes, [&](int p) { return c.recv[std::size_t(p)]; },
            [&](int p, index_t row, std::size_t i) { return cell(p, rank(), row, i); });
        auto const send = upload(out);
        Buffer<std::byte, B> recv(b_, index_t(want.size()));
        comm_.all_to_all_rows(b_, bytes(send), c.send, recv.view(), c.recv, row_bytes).wait(b_);
        promise(download(recv.view()) == want,
                "all_to_all_rows brings n-byte rows in order of source", index_t(row_bytes));
    }
    template <class RowsOf, class Cell>
    void fill(std::vector<std::byte>& memory, std::size_t row_bytes, RowsOf const& rows_of,
              Cell const& value) const {
        std::size_t at = 0;
        for (int p = 0; p < size(); ++p)
            for (index_t row = 0; row < rows_of(p); ++row)
                for (std::size_t i = 0; i < row_bytes; ++i) memory[at++] = value(p, row, i);
    }

    /// <scatter x, y> = <x, gather y>, summed over ranks, in small integers.
    void adjoint(index_t scale) {
        Counts c = pattern_counts(0);
        for (index_t& n : c.send) n *= scale;
        for (index_t& n : c.recv) n *= scale;
        std::size_t const n_out = std::size_t(c.rows_out * scale),
                          n_in = std::size_t(c.rows_in * scale);
        std::vector<double> x(n_out), y(n_in);
        for (std::size_t i = 0; i < n_out; ++i) x[i] = double((i * 7 + std::size_t(rank())) % 11);
        for (std::size_t i = 0; i < n_in; ++i) y[i] = double((i * 5 + std::size_t(rank())) % 13);
        auto const dx = upload(x), dy = upload(y);
        Buffer<double, B> sx(b_, index_t(n_in)), gy(b_, index_t(n_out));
        comm_
            .all_to_all_rows(b_, bytes(dx), c.send, as_writable_bytes(sx.view()), c.recv,
                             sizeof(double))
            .wait(b_);
        comm_
            .all_to_all_rows(b_, bytes(dy), c.recv, as_writable_bytes(gy.view()), c.send,
                             sizeof(double))
            .wait(b_);
        auto const scattered = download(sx.view()), gathered = download(gy.view());
        double left = 0, right = 0;
        for (std::size_t i = 0; i < n_in; ++i) left += scattered[i] * y[i];
        for (std::size_t i = 0; i < n_out; ++i) right += x[i] * gathered[i];
        auto const both = upload(std::vector<double>{left, right});
        comm_.all_reduce_sum(b_, both.view());
        auto const sum = download(both.view());
        promise(sum[0] == sum[1], "<scatter x, y> = <x, gather y>");
    }

    void sender_may_reuse_its_buffer() {
        std::vector<index_t> const ones(std::size_t(size()), 1);
        auto const over = upload(std::vector<index_t>(ones.size(), -1));
        Buffer<index_t, B> send(b_, size()), recv(b_, size());
        for (index_t round = 0; round < 4; ++round) {
            put(send, upload(std::vector<index_t>(ones.size(), rank() + 100 * round)));
            comm_
                .all_to_all_rows(b_, bytes(send), ones, as_writable_bytes(recv.view()), ones,
                                 sizeof(index_t))
                .wait(b_);
            put(send, over);
            auto const got = download(recv.view());
            for (int p = 0; p < size(); ++p)
                promise(got[std::size_t(p)] == p + 100 * round,
                        "after the ticket's wait the sender may overwrite what it sent");
        }
    }

    void ticket_orders_another_queue() {
        B wire = b_.fork();
        std::vector<index_t> const ones(std::size_t(size()), 1);
        auto const mine = upload(std::vector<index_t>(ones.size(), rank() + 7));
        Buffer<index_t, B> send(b_, size()), recv(b_, size()), seen(b_, size());
        put(send, mine);
        wire.wait(b_.record());
        auto ticket = comm_.all_to_all_rows(wire, bytes(send), ones, as_writable_bytes(recv.view()),
                                            ones, sizeof(index_t));
        ticket.wait(b_);
        put(seen, recv);
        auto const got = download(seen.view());
        for (int p = 0; p < size(); ++p)
            promise(got[std::size_t(p)] == p + 7, "a ticket makes another queue wait for the rows");
        wire.synchronize();
    }

    static double part_value(index_t rank) { return double(rank) + 0.5; }
    void gather() {
        for (index_t n : {0, 1, 1000}) {
            std::vector<double> const part(std::size_t(n), part_value(rank()));
            auto const source = upload(part), over = upload(std::vector<double>(part.size()));
            Buffer<double, B> mine(b_, n), whole(b_, n * size());
            put(mine, source);
            comm_.all_gather(b_, bytes(mine), as_writable_bytes(whole.view()));
            put(mine, over);
            auto const got = download(whole.view());
            for (index_t i = 0; i < n * size(); ++i)
                promise(got[std::size_t(i)] == part_value(i / n),
                        "all_gather puts the parts in rank order");
            std::vector<double> alone(std::size_t(n * size()), -1.0);
            std::copy(part.begin(), part.end(), alone.begin() + rank() * n);
            Buffer<double, B> in_place(b_, n * size());
            put(in_place, upload(alone));
            comm_.all_gather(b_, as_bytes(in_place.view().part(rank() * n, n)),
                             as_writable_bytes(in_place.view()));
            promise(download(in_place.view()) == got,
                    "all_gather takes a part that lies where it belongs");
        }
    }

    /// Values whose sum depends on the order, so that only sums in rank order agree bit by bit. Not
    /// inlined: a product that is added at once might not be rounded.
    template <class Real>
    SEMOE_NOINLINE static Real addend(index_t rank, index_t i) {
        return Real(1) / Real(3 * rank + i % 7 + 1) * (rank % 2 ? Real(1000) : Real(-1));
    }
    template <class Real>
    void sums(index_t n) {
        std::vector<Real> values(static_cast<std::size_t>(n)), want(values.size());
        for (index_t i = 0; i < n; ++i) {
            values[std::size_t(i)] = addend<Real>(rank(), i);
            Real sum = addend<Real>(0, i);
            for (int p = 1; p < size(); ++p) sum += addend<Real>(p, i);
            want[std::size_t(i)] = sum;
        }
        index_t const first = n * rank() / size(), mine = n * (rank() + 1) / size() - first;
        auto const source = upload(values), over = upload(std::vector<Real>(values.size()));
        Buffer<Real, B> in(b_, n), found(b_, n), part(b_, mine);
        put(in, source);
        comm_.reduce_scatter_sum(b_, VectorView<Real const, space>(in.view()), part.view());
        put(found, in);
        put(in, over);
        promise(
            same_bits(download(part.view()), {want.begin() + first, want.begin() + first + mine}),
            "reduce_scatter_sum gives rank r elements [r*n/P, (r+1)*n/P) of the sum in rank order",
            n);
        promise(same_bits(download(found.view()), values),
                "reduce_scatter_sum leaves what it sums as it was");
        put(in, source);
        comm_.all_reduce_sum(b_, in.view());
        put(found, in);
        put(in, over);
        promise(same_bits(download(found.view()), want),
                "all_reduce_sum adds in rank order, the same bits on every rank", n);
    }
    template <class Real>
    static bool same_bits(std::vector<Real> const& a, std::vector<Real> const& z) {
        return a.size() == z.size() &&
               (a.empty() || std::memcmp(a.data(), z.data(), a.size() * sizeof(Real)) == 0);
    }

    void split() {
        // Odd and even ranks apart, in reverse.
        int const color = rank() % 2;
        C part = comm_.split(color, -rank());
        int const members = color == 0 ? (size() + 1) / 2 : size() / 2;
        promise(part.size() == members && part.rank() == members - 1 - rank() / 2,
                "split orders the ranks of one colour by key");
        std::vector<index_t> mine(std::size_t(members), rank()), theirs(mine.size());
        part.exchange_counts(mine, theirs);
        for (int p = 0; p < members; ++p)
            promise(theirs[std::size_t(p)] == 2 * (members - 1 - p) + color,
                    "a part made by split talks among itself");
        C same = comm_.split(0, 0);
        promise(same.rank() == rank() && same.size() == size(),
                "split with equal keys keeps the order of ranks");
    }

    /// The example of the global_scatter operation of PaddlePaddle, for two ranks of two experts.
    void golden_scatter() {
        C pair = comm_.split(rank() / 2, rank());
        if (pair.size() != 2) return;
        std::vector<index_t> const local[2] = {{2, 1, 1, 1}, {1, 1, 2, 1}};
        std::vector<float> const want[2] = {{1, 2, 3, 4, 1, 2, 5, 6, 3, 4},
                                            {7, 8, 5, 6, 7, 8, 9, 10, 9, 10}};
        std::vector<float> const x = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
        Placement const placement = Placement::contiguous(4, 2);
        CountExchange<C> counts(pair, 1, 4);
        counts.begin(1);
        for (std::size_t e = 0; e < 4; ++e) counts.mine(0)[e] = local[std::size_t(pair.rank())][e];
        counts.run();
        Exchange<B, C> exchange(pair, placement);
        Buffer<std::byte, B> table(b_, exchange_table_bytes(placement, pair.rank()));
        Buffer<std::byte, B> staging(
            b_, exchange_staging_bytes(placement, pair.rank(), 5, 5, 2 * sizeof(float)));
        exchange.assign(b_, counts, 0, table.view());
        auto const slots = upload(x);
        Buffer<float, B> rows(b_, 10), back(b_, 10);
        exchange.to_experts(b_, slots.matrix(5, 2), rows.matrix(5, 2), staging.view());
        exchange.to_tokens(b_, rows.matrix(5, 2), back.matrix(5, 2), staging.view());
        promise(download(rows.view()) == want[pair.rank()], "the golden example of global_scatter");
        promise(download(back.view()) == x, "gather undoes scatter");
    }

    /// Only enqueues, so that what comes next must keep the queue's order. Not from the host's
    /// memory, which would be gone before the copy runs where a rank throws.
    template <class T>
    void put(Buffer<T, B> const& to, Buffer<T, B> const& from) {
        b_.copy(to.data(), from.data(), std::size_t(to.size()) * sizeof(T));
    }
    template <class T>
    Buffer<T, B> upload(std::vector<T> const& values) {
        Buffer<T, B> buffer(b_, index_t(values.size()));
        if (!values.empty()) b_.copy(buffer.data(), values.data(), values.size() * sizeof(T));
        b_.synchronize();
        return buffer;
    }
    template <class T>
    std::vector<T> download(VectorView<T, space> view) {
        std::vector<T> values(static_cast<std::size_t>(view.size));
        if (view.size > 0) b_.copy(values.data(), view.data, values.size() * sizeof(T));
        b_.synchronize();
        return values;
    }
    template <class T>
    static ConstBytes<space> bytes(Buffer<T, B> const& buffer) {
        return as_bytes(buffer.view());
    }

    B b_;
    C comm_;
};

/// Runs `call` and requires a comm_error whose text has every one of `names`.
template <class Call>
void require_comm_error(Call const& call, std::vector<std::string> const& names,
                        std::string const& when) {
    try {
        call();
    } catch (comm_error const& e) {
        for (std::string const& name : names)
            require(std::string(e.what()).find(name) != std::string::npos,
                    "communicator: the error when " + when + " names \"" + name +
                        "\", but it says: " + e.what());
        return;
    }
    throw contract_violation("communicator: comm_error on every rank when " + when);
}

} // namespace detail

/// What every communicator promises to ranks that play by the rules. Collective: called on every
/// rank of `comm`, each with a backend handle of its own. Any number of ranks will do; the golden
/// example needs two.
/// @throws contract_violation with the promise that was broken
template <Backend B, class C>
void check_communicator(B const& b, C const& comm) {
    static_assert(Communicator<C, B>,
                  "check_communicator: the communicator does not model the concept; "
                  "comm/concept.hpp lists the calls");
    detail::CommunicatorSuite<B, C>(b, comm).run();
}

/// What a communicator with a deadline promises when a rank does not play by the rules.
/// @param b       backend whose fork each rank uses
/// @param launch  launch(body) runs body(communicator) on every rank, at least two, of a fresh set
///                with a deadline, and rethrows what a rank threw. Of the first set a rank never
///                comes, so that its deadline is waited for; that of the others may be long
/// @throws contract_violation with the promise that was broken
template <Backend B, class Launch>
void check_communicator_errors(B const& b, Launch const& launch) {
    using space = space_of<B>;
    auto const rows = [](auto& comm, B& queue, std::vector<index_t> const& send,
                         std::vector<index_t> const& recv, std::size_t row_bytes) {
        Buffer<std::byte, B> out(queue, 4096), in(queue, 4096);
        comm.all_to_all_rows(queue, ConstBytes<space>(out.view()), send, in.view(), recv, row_bytes)
            .wait(queue);
        queue.synchronize();
    };

    launch([&](auto comm) { // the last rank never calls
        int const last = comm.size() - 1;
        if (comm.rank() == last) return;
        B queue = B(b).fork();
        std::vector<index_t> two(std::size_t(comm.size()), 2), got = two;
        detail::require_comm_error([&] { rows(comm, queue, two, two, 8); },
                                   {"all_to_all_rows", "8 bytes", "rank " + std::to_string(last)},
                                   "a rank does not call");
        detail::require_comm_error([&] { comm.exchange_counts(two, got); }, {"exchange_counts"},
                                   "a call follows an error");
    });
    launch([&](auto comm) { // rank 0 sends rank 1 a row more than that expects
        B queue = B(b).fork();
        std::vector<index_t> send(std::size_t(comm.size()), 3), recv = send;
        if (comm.rank() == 0) send[1] = 4;
        detail::require_comm_error([&] { rows(comm, queue, send, recv, 8); },
                                   {"rank 0", "4", "rank 1", "3"}, "counts do not match");
    });
    launch([&](auto comm) { // rows of two sizes
        B queue = B(b).fork();
        std::vector<index_t> const one(std::size_t(comm.size()), 1);
        detail::require_comm_error([&] { rows(comm, queue, one, one, comm.rank() == 1 ? 24 : 16); },
                                   {"rank 0", "16", "rank 1", "24"}, "rows differ in size");
    });
    launch([&](auto comm) { // two operations
        B queue = B(b).fork();
        Buffer<float, B> v(queue, 5);
        std::vector<index_t> send(std::size_t(comm.size()), 1), recv = send;
        detail::require_comm_error(
            [&] {
                if (comm.rank() == 1)
                    comm.exchange_counts(send, recv);
                else
                    comm.all_reduce_sum(queue, v.view());
            },
            {"rank 0", "all_reduce_sum", "rank 1", "exchange_counts"}, "ranks call two operations");
    });
}

} // namespace semoe::testing
