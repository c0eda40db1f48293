#pragma once

#include "semoe/comm/arrival.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/comm/detail/rows.hpp"
#include "semoe/comm/detail/sum_ranks.hpp"
#include "semoe/comm/detail/thread_state.hpp"
#include "semoe/core/message.hpp"

#include <algorithm>
#include <mutex>
#include <thread>
#include <type_traits>

namespace semoe::comm {

class ThreadWorld;

/// One rank among threads of one process, with a direct all-to-all: each rank shows its buffer and
/// an event of its queue; the receiver's queue waits for that event and copies its rows out of the
/// sender's buffer; the sender's later work waits for the receivers. Nothing is staged and no
/// collective allocates, except split. Works on every backend whose memory all ranks can address:
/// processors, and devices of one process.
///
/// In every collective the hosts meet, with a deadline, and compare what they call. When a rank
/// does not come, calls something else, or names sizes that do not fit, every rank throws the same
/// comm_error, and the world and all that was split from it are broken: every further call throws
/// at once. Buffers of a collective that throws hold unspecified values.
///
/// What a rank's queue throws in a movement or before it is thrown where that queue is
/// synchronised, and likewise on every rank whose queue waited for it.
///
/// A rank's handle and its copies belong to one thread at a time. To run two layers at once on the
/// same ranks, give each a communicator of its own by split.
class Threads {
public:
    int rank() const { return rank_; }
    int size() const { return state_->size; }
    CommTopology topology() const { return state_->topology; }
    /// Of this rank in this world. A split counts as a collective without messages.
    CommCounters counters() const { return state_->ranks[std::size_t(rank_)].counters; }

    /// Makes every rank that is waiting, or calls anything later, throw comm_error with `reason`.
    /// For a thread that gives up; may be called by any thread.
    void abort(std::string const& reason) const {
        state_->fate->break_with("comm::Threads: rank " + std::to_string(rank_) +
                                 " aborted: " + reason);
    }

    /// Host all-to-all of equal parts.
    /// @param send  [P*m], part p goes to rank p
    /// @param recv  [P*m], part p comes from rank p; not overlapping send
    /// @sync communicates; the host waits
    /// @cost P-1 messages of m numbers
    SEMOE_NOINLINE void exchange_counts(std::span<index_t const> send, std::span<index_t> recv) {
        std::size_t const ranks = std::size_t(size()), m = send.size() / ranks;
        detail::Turn turn(*state_, rank_, {"exchange_counts", index_t(m), "numbers a rank"});
        turn.demand(send.size() == m * ranks && recv.size() == send.size(), [&] {
            return message("{} numbers to send and {} to receive are not equal parts for {} ranks",
                           send.size(), recv.size(), ranks);
        });
        turn.show(send.data());
        turn.enter();
        turn.phase([&] {
            for (std::size_t p = 0; p < ranks; ++p)
                std::copy_n(turn.data_of<index_t>(int(p)) + std::size_t(rank_) * m, m,
                            recv.begin() + std::ptrdiff_t(p * m));
        });
        turn.leave();
        index_t const bytes = index_t(m * sizeof(index_t));
        for (int p = 0; p < size(); ++p) turn.count(p, bytes, bytes);
        turn.count_collective();
    }

    /// @param send         rows in order of their destination, backend memory
    /// @param send_counts  [P], rows for each rank
    /// @param recv         receives rows in order of their source; not overlapping send
    /// @param recv_counts  [P], rows from each rank
    /// @return a ticket; later work on b is ordered behind the movement without it
    /// @throws precondition_error, comm_error
    /// @sync communicates: the hosts meet twice, the rows move in queue order
    /// @cost a message to each rank that gets rows, no allocation
    template <Backend B>
    SEMOE_NOINLINE Arrival<B>
    all_to_all_rows(B& b, ConstBytes<space_of<B>> send, std::span<index_t const> send_counts,
                    Bytes<space_of<B>> recv, std::span<index_t const> recv_counts,
                    std::size_t row_bytes) {
        index_t const row = index_t(row_bytes);
        detail::Turn turn(*state_, rank_, on<B>("all_to_all_rows", row, "bytes a row"));
        turn.demand(int(send_counts.size()) == size() && int(recv_counts.size()) == size(), [&] {
            return message("{} and {} counts for {} ranks", send_counts.size(), recv_counts.size(),
                           size());
        });
        for (std::size_t p = 0; p < send_counts.size(); ++p)
            turn.demand(send_counts[p] >= 0 && recv_counts[p] >= 0,
                        [&] { return message("the rows to or from rank {} are negative", p); });
        index_t const rows_out = detail::sum_of_rows(send_counts);
        index_t const rows_in = detail::sum_of_rows(recv_counts);
        bool const fit = detail::rows_fit(rows_out, row_bytes, send.size) &&
                         detail::rows_fit(rows_in, row_bytes, recv.size);
        turn.demand(fit, [&] {
            return message("{} rows out of {} bytes and {} rows into {} bytes, of "
                           "{} bytes a row, do not fit",
                           rows_out, send.size, rows_in, recv.size, row);
        });
        turn.show(b, send.data);
        turn.show_rows(send_counts, recv_counts);
        turn.enter();
        turn.phase(b, 0, [&] {
            std::byte* to = recv.data;
            for (int p = 0; p < size(); ++p) {
                index_t const bytes = turn.rows_sent(p, rank_) * row;
                index_t first = 0;
                for (int before = 0; before < rank_; ++before) first += turn.rows_sent(p, before);
                copy(b, to, turn.data_of<std::byte>(p) + first * row, bytes);
                to += bytes;
            }
        });
        turn.wait(b, 0);
        turn.leave();
        for (int p = 0; p < size(); ++p)
            turn.count(p, turn.rows_sent(rank_, p) * row, turn.rows_sent(p, rank_) * row);
        turn.count_collective();
        return Arrival<B>(b.record());
    }

    /// @param part   as long on every rank, backend memory; may be this rank's part of whole
    /// @param whole  P parts in rank order
    /// @sync communicates, enqueues on b
    /// @cost P-1 messages, no allocation
    template <Backend B>
    SEMOE_NOINLINE void all_gather(B& b, ConstBytes<space_of<B>> part, Bytes<space_of<B>> whole) {
        detail::Turn turn(*state_, rank_, on<B>("all_gather", part.size, "bytes a rank"));
        turn.demand(whole.size == part.size * size(), [&] {
            return message("{} parts of {} bytes do not make {}", size(), part.size, whole.size);
        });
        turn.show(b, part.data);
        turn.enter();
        turn.phase(b, 0, [&] {
            for (int p = 0; p < size(); ++p)
                copy(b, whole.data + p * part.size, turn.data_of<std::byte>(p), part.size);
        });
        turn.wait(b, 0);
        turn.leave();
        for (int p = 0; p < size(); ++p) turn.count(p, part.size, part.size);
        turn.count_collective();
    }

    /// v becomes its sum over ranks, added in rank order, so that all ranks get the same bits.
    /// Rank r adds up its r-th part in place and the others copy it: no scratch is needed.
    /// @param v  float or double, as long on every rank, backend memory
    /// @sync communicates: the hosts meet three times; enqueues on b
    /// @cost 2(P-1) messages, 2(P-1)/P of v out and in, no allocation
    template <Backend B, class Real>
    SEMOE_NOINLINE void all_reduce_sum(B& b, VectorView<Real, space_of<B>> v) {
        detail::Turn turn(*state_, rank_, on<B>("all_reduce_sum", v.size, number_unit<Real>()));
        turn.show(b, v.data);
        turn.enter();
        index_t const first = part_begin(v.size, rank_), mine = part_size(v.size, rank_);
        turn.phase(b, 0, [&] { sum(b, turn, first, v.part(first, mine)); });
        turn.phase(b, 1, [&] {
            turn.wait(b, 0);
            for (int p = 0; p < size(); ++p) {
                index_t const begin = part_begin(v.size, p);
                copy(b, v.data + begin, turn.data_of<Real>(p) + begin,
                     part_size(v.size, p) * index_t(sizeof(Real)));
            }
        });
        turn.wait(b, 1);
        turn.leave();
        for (int p = 0; p < size(); ++p) {
            index_t const theirs = part_size(v.size, p) * index_t(sizeof(Real));
            index_t const ours = mine * index_t(sizeof(Real));
            turn.count(p, theirs, ours);
            turn.count(p, ours, theirs);
        }
        turn.count_collective();
    }
    /// As all_reduce_sum, but rank r keeps elements [r*n/P, (r+1)*n/P) only.
    /// @param v    [n], not changed
    /// @param out  this rank's part; may be that part of v
    /// @sync communicates, enqueues on b
    /// @cost P-1 messages, no allocation
    template <Backend B, class Real>
    SEMOE_NOINLINE void reduce_scatter_sum(B& b, VectorView<Real const, space_of<B>> v,
                                           VectorView<Real, space_of<B>> out) {
        detail::Turn turn(*state_, rank_, on<B>("reduce_scatter_sum", v.size, number_unit<Real>()));
        index_t const first = part_begin(v.size, rank_), mine = part_size(v.size, rank_);
        turn.demand(out.size == mine, [&] {
            return message("out has {} elements, the part of rank {} has {}", out.size, rank_,
                           mine);
        });
        turn.show(b, v.data);
        turn.enter();
        turn.phase(b, 0, [&] { sum(b, turn, first, out); });
        turn.wait(b, 0);
        turn.leave();
        for (int p = 0; p < size(); ++p)
            turn.count(p, part_size(v.size, p) * index_t(sizeof(Real)),
                       mine * index_t(sizeof(Real)));
        turn.count_collective();
    }

    /// Ranks with the same colour form a communicator, ordered by key, then by rank here. The new
    /// ranks share a node where they did before and every node gives equally many of them in a row.
    /// @sync communicates; the host waits
    /// @cost allocates the new world
    SEMOE_NOINLINE Threads split(int color, int key) {
        detail::Turn turn(*state_, rank_, {"split", 0, "", nullptr});
        turn.mine().color = color;
        turn.mine().key = key;
        turn.enter();
        std::vector<int> members;
        std::shared_ptr<detail::ThreadState> child;
        turn.phase([&] {
            for (int p = 0; p < size(); ++p)
                if (turn.call(p).color == color) members.push_back(p);
            std::stable_sort(members.begin(), members.end(),
                             [&](int p, int q) { return turn.call(p).key < turn.call(q).key; });
            if (members.front() == rank_)
                turn.mine().child = std::make_shared<detail::ThreadState>(
                    int(members.size()), shared_nodes(members), state_->options, state_->fate);
        });
        turn.phase([&] { child = turn.call(members.front()).child; });
        turn.leave();
        turn.mine().child.reset();
        turn.count_collective();
        auto const place = std::find(members.begin(), members.end(), rank_) - members.begin();
        return {std::move(child), int(place)};
    }

private:
    friend class ThreadWorld;
    Threads(std::shared_ptr<detail::ThreadState> state, int rank)
      : state_(std::move(state))
      , rank_(rank) {}

    template <Backend B>
    static detail::Operation on(std::string_view name, index_t size, std::string_view unit) {
        return {name, size, unit, &detail::type_tag<typename B::event_type>};
    }
    template <class Real>
    static constexpr std::string_view number_unit() {
        static_assert(std::is_same_v<Real, float> || std::is_same_v<Real, double>,
                      "comm::Threads: sums are of float or double");
        return std::is_same_v<Real, float> ? "floats" : "doubles";
    }
    index_t part_begin(index_t n, int p) const { return n * p / size(); }
    index_t part_size(index_t n, int p) const { return part_begin(n, p + 1) - part_begin(n, p); }

    template <Backend B>
    static void copy(B& b, void* to, void const* from, index_t bytes) {
        if (bytes > 0 && to != from) b.copy(to, from, std::size_t(bytes));
    }
    template <Backend B, class Real>
    void sum(B& b, detail::Turn& turn, index_t first, VectorView<Real, space_of<B>> out) {
        detail::SumRanks<Real> functor;
        for (int p = 0; p < size(); ++p) functor.from[p] = turn.data_of<Real>(p) + first;
        functor.ranks = size();
        functor.out = out.data;
        functor.size = out.size;
        if (out.size > 0) b.parallel_for(functor.blocks(), functor);
    }
    CommTopology shared_nodes(std::vector<int> const& members) const {
        int const n = int(members.size()), width = topology().ranks_per_node;
        auto const node = [&](int i) { return members[std::size_t(i)] / width; };
        int together = 1;
        while (together < n && node(together) == node(0)) ++together;
        bool regular = n % together == 0;
        for (int i = 0; i < n && regular; ++i) {
            regular = node(i) == node(i / together * together);
            if (i % together == 0)
                for (int j = 0; j < i; ++j) regular = regular && node(j) != node(i);
        }
        return regular ? CommTopology{together, n / together} : CommTopology{1, n};
    }

    std::shared_ptr<detail::ThreadState> state_;
    int rank_;
};

/// The ranks that a process has started as threads.
/// @code
///   comm::ThreadWorld world{4};
///   world.run([&](comm::Threads rank) { MoeLayer layer{backend, gate, expert, rank}; ... });
/// @endcode
class ThreadWorld {
public:
    static constexpr int max_ranks = detail::max_thread_ranks;

    /// @throws precondition_error naming the number of ranks or of ranks per node
    explicit ThreadWorld(int num_ranks, ThreadOptions const& options = {})
      : state_(std::make_shared<detail::ThreadState>(num_ranks, nodes(num_ranks, options), options,
                                                     std::make_shared<detail::Fate>())) {}

    int size() const { return state_->size; }
    /// @throws precondition_error naming the rank that does not exist
    Threads rank(int r) const {
        expects(r >= 0 && r < size(), "comm::ThreadWorld: rank {} of {}", r, size());
        return {state_, r};
    }
    /// As Threads::abort, for a thread that is no rank.
    void abort(std::string const& reason) const {
        state_->fate->break_with("comm::ThreadWorld: aborted: " + reason);
    }

    /// Calls body(rank) on a thread a rank and waits for all. A body that throws aborts the world.
    /// @throws what was thrown first; a comm_error only where no body threw anything else, since it
    ///         tells the other ranks that one has failed
    template <class Body>
    void run(Body const& body) const {
        std::exception_ptr first;
        bool is_cause = false;
        std::mutex first_mutex;
        auto const live = [&](int r) {
            Threads const self = rank(r);
            auto const fail = [&](std::string const& what, bool cause) {
                {
                    std::lock_guard const lock(first_mutex);
                    if (!first || (cause && !is_cause)) {
                        first = std::current_exception();
                        is_cause = cause;
                    }
                }
                self.abort(what);
            };
            try {
                body(self);
            } catch (comm_error const& e) {
                fail(e.what(), false);
            } catch (std::exception const& e) {
                fail(e.what(), true);
            } catch (...) {
                fail("an exception", true);
            }
        };
        {
            std::vector<std::jthread> threads;
            threads.reserve(std::size_t(size()));
            try {
                for (int r = 0; r < size(); ++r) threads.emplace_back(live, r);
            } catch (...) {
                abort("a thread could not be started");
                throw;
            }
        }
        if (first) std::rethrow_exception(first);
    }

private:
    static CommTopology nodes(int num_ranks, ThreadOptions const& options) {
        expects(num_ranks >= 1 && num_ranks <= max_ranks,
                "comm::ThreadWorld: {} ranks, must lie in [1, {}]", num_ranks, max_ranks);
        int const width = options.ranks_per_node == 0 ? num_ranks : options.ranks_per_node;
        expects(width > 0 && num_ranks % width == 0,
                "comm::ThreadWorld: ranks_per_node is {}, must divide {} ranks", width, num_ranks);
        return {width, num_ranks / width};
    }

    std::shared_ptr<detail::ThreadState> state_;
};

} // namespace semoe::comm
