#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/view.hpp"

#include <concepts>
#include <span>

namespace semoe {

/// Which ranks share a node, so that strategies may keep traffic inside.
struct CommTopology {
    int ranks_per_node = 1;
    int num_nodes = 1;
};

/// What a communicator has done so far; tests assert these instead of timing.
struct CommCounters {
    index_t collectives = 0;    ///< calls, of any kind
    index_t messages = 0;       ///< to other ranks
    index_t bytes_sent = 0;     ///< to other ranks
    index_t bytes_received = 0; ///< from other ranks
};

/// Every rank makes the same calls in the same order. A handle is cheap to copy; copies are the
/// same rank. A rank that is missing, late, or called something else makes every rank throw
/// comm_error naming rank, operation and sizes.
template <class C>
concept HasRanks = requires(C const& c) {
    { c.rank() } -> std::same_as<int>;
    { c.size() } -> std::same_as<int>;
    { c.topology() } -> std::same_as<CommTopology>;
};

/// The promise of data: wait(b) makes b's queue wait for it.
template <class T, class B>
concept Ticket = std::movable<T> && requires(T& t, B& b) {
    t.wait(b);
};

template <class C>
concept HasExchangeCounts = requires(C& c, std::span<index_t const> send, std::span<index_t> recv) {
    /// Host all-to-all of equal parts: part p of send, send.size()/size() numbers, goes to rank p;
    /// part p of recv comes from rank p. Collective; the host waits.
    c.exchange_counts(send, recv);
};
template <class C, class B>
concept HasAllToAll = requires(C& c, B& b, ConstBytes<space_of<B>> send, Bytes<space_of<B>> recv,
                               std::span<index_t const> counts, std::size_t row_bytes) {
    /// Rows in rank order out of `send`, in rank order into `recv`; counts in rows, on the host.
    /// Queue-ordered on b; both buffers are busy until the ticket has been waited for.
    { c.all_to_all_rows(b, send, counts, recv, counts, row_bytes) } -> Ticket<B>;
};
template <class C, class B>
concept HasReductions = requires(C& c, B& b, ConstBytes<space_of<B>> part, Bytes<space_of<B>> whole,
                                 VectorView<float, space_of<B>> f,
                                 VectorView<double, space_of<B>> d) {
    /// Every rank's equally long part, in rank order; it may lie where it belongs in `whole`.
    /// Queue-ordered on b.
    c.all_gather(b, part, whole);
    /// Sums over ranks, added in rank order so that every rank has the same bits.
    c.all_reduce_sum(b, f);
    c.all_reduce_sum(b, d);
    /// As all_reduce_sum over v, of which rank r keeps elements [r*n/P, (r+1)*n/P) in `out`.
    c.reduce_scatter_sum(b, VectorView<float const, space_of<B>>{}, f);
};
template <class C>
concept HasSplit = requires(C& c) {
    /// Ranks with the same colour form a communicator, ordered by key, then rank. Collective.
    { c.split(0, 0) } -> std::same_as<C>;
};
template <class C, class B>
concept Communicator =
    HasRanks<C> && HasExchangeCounts<C> && HasAllToAll<C, B> && HasReductions<C, B> && HasSplit<C>;

} // namespace semoe
