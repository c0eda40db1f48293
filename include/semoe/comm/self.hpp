#pragma once

#include "semoe/comm/arrival.hpp"
#include "semoe/comm/concept.hpp"
#include "semoe/comm/detail/rows.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"

#include <algorithm>
#include <atomic>
#include <memory>

namespace semoe::comm {

/// One rank alone: every message comes straight back. Unlike other communicators it may be used by
/// several threads at once, since there is nobody whose calls could be mixed up.
class Self {
public:
    /// @cost one small allocation, for the counters that all copies share
    Self()
      : collectives_(std::make_shared<std::atomic<index_t>>(0)) {}

    int rank() const { return 0; }
    int size() const { return 1; }
    CommTopology topology() const { return {1, 1}; }
    CommCounters counters() const { return {collectives_->load(), 0, 0, 0}; }

    /// recv = send. @throws precondition_error naming both sizes when they differ
    void exchange_counts(std::span<index_t const> send, std::span<index_t> recv) {
        expects(send.size() == recv.size(), "comm::Self: exchange_counts of {} numbers into {}",
                send.size(), recv.size());
        count();
        if (send.data() != recv.data()) std::copy(send.begin(), send.end(), recv.begin());
    }

    /// Copies the rows; nothing moves when send and recv are the same memory.
    /// @throws precondition_error naming the counts or sizes that do not fit
    /// @sync enqueues
    template <Backend B>
    Arrival<B> all_to_all_rows(B& b, ConstBytes<space_of<B>> send,
                               std::span<index_t const> send_counts, Bytes<space_of<B>> recv,
                               std::span<index_t const> recv_counts, std::size_t row_bytes) {
        expects(send_counts.size() == 1 && recv_counts.size() == 1,
                "comm::Self: all_to_all_rows takes one count a side");
        expects(send_counts[0] == recv_counts[0] && send_counts[0] >= 0, [&] {
            return message("comm::Self: all_to_all_rows sends {} rows and expects {}",
                           send_counts[0], recv_counts[0]);
        });
        index_t const rows = send_counts[0];
        expects(detail::rows_fit(rows, row_bytes, send.size) &&
                    detail::rows_fit(rows, row_bytes, recv.size),
                "comm::Self: {} rows of {} bytes to move out of {} bytes into {}", rows,
                index_t(row_bytes), send.size, recv.size);
        count();
        copy(b, send, recv, rows * index_t(row_bytes));
        return Arrival<B>(b.record());
    }

    /// whole = part. @throws precondition_error naming both sizes when they differ @sync enqueues
    template <Backend B>
    void all_gather(B& b, ConstBytes<space_of<B>> part, Bytes<space_of<B>> whole) {
        expects(whole.size == part.size, "comm::Self: all_gather of {} bytes into {}", part.size,
                whole.size);
        count();
        copy(b, part, whole, part.size);
    }
    /// The sum over one rank: v stays as it is.
    template <Backend B, class Real>
    void all_reduce_sum(B&, VectorView<Real, space_of<B>>) {
        count();
    }
    /// out = v. @throws precondition_error naming both sizes when they differ @sync enqueues
    template <Backend B, class Real>
    void reduce_scatter_sum(B& b, VectorView<Real const, space_of<B>> v,
                            VectorView<Real, space_of<B>> out) {
        expects(out.size == v.size, "comm::Self: reduce_scatter_sum of {} elements into {}", v.size,
                out.size);
        count();
        copy(b, as_bytes(v), as_writable_bytes(out), v.size * index_t(sizeof(Real)));
    }

    /// A communicator of its own, with counters of its own.
    Self split(int /*color*/, int /*key*/) {
        count();
        return {};
    }

private:
    void count() { collectives_->fetch_add(1, std::memory_order_relaxed); }

    template <Backend B>
    static void copy(B& b, ConstBytes<space_of<B>> from, Bytes<space_of<B>> to, index_t bytes) {
        if (bytes > 0 && from.data != to.data) b.copy(to.data, from.data, std::size_t(bytes));
    }

    std::shared_ptr<std::atomic<index_t>> collectives_;
};

} // namespace semoe::comm
