#pragma once

#include "semoe/core/error.hpp"
#include "semoe/io/detail/transfer_lane.hpp"
#include "semoe/io/transfer.hpp"

#include <algorithm>
#include <cerrno>
#include <mutex>

namespace semoe::io {

/// Who carries transfers out.
enum class Engine {
    automatic, ///< the ring where there is one, else threads
    ring,      ///< io_uring: one thread for any number of requests
    threads,   ///< a thread a request
};

struct TransferOptions {
    int depth = 4;                          ///< requests under way at once
    index_t piece_bytes = index_t(1) << 20; ///< how much one request transfers at most
    Engine engine = Engine::automatic;

    /// @throws precondition_error naming the field
    void validate() const {
        expects(depth >= 1 && depth <= 1024, "TransferOptions: depth is {}, must be 1 to 1024",
                depth);
        expects(piece_bytes >= direct_alignment && piece_bytes % direct_alignment == 0,
                "TransferOptions: piece_bytes is {}, must be a multiple of {}", piece_bytes,
                direct_alignment);
    }
};

/// What the system was asked for; tests assert these.
struct TransferCounters {
    index_t reads = 0, writes = 0; ///< requests
    index_t bytes_read = 0, bytes_written = 0;
    int most_in_flight = 0; ///< requests under way at once, at most
};

/// Carries out transfers, several requests at a time, in no certain order. Any thread may call.
class Transfers {
public:
    explicit Transfers(TransferOptions options)
      : options_((options.validate(), options)) {}
    Transfers(Transfers const&) = delete;
    Transfers& operator=(Transfers const&) = delete;
    /// @pre every transfer is done
    virtual ~Transfers() = default;

    virtual Engine engine() const = 0;

    /// @param transfer  stays where it is until it is done; a direct write that does not begin with
    ///                  a page fails at once, with EINVAL
    /// @sync none: never waits for the file
    void start(Transfer& transfer) {
        bool const misplaced = transfer.kind == Transfer::Kind::write && transfer.bytes > 0 &&
                               transfer.file->way() == Way::direct &&
                               transfer.offset % direct_alignment != 0;
        std::lock_guard lock(mutex_);
        transfer.error = misplaced ? EINVAL : 0;
        transfer.error_offset = transfer.offset;
        transfer.handed_out = 0;
        transfer.next = nullptr;
        transfer.done = transfer.bytes == 0 || misplaced;
        if (transfer.done) return transfer.changed.notify_all();
        (last_ ? last_->next : first_) = &transfer;
        last_ = &transfer;
        wake();
    }
    /// On return the transfer is done or has failed, as its `error` says. Whoever sets `done` to
    /// false beforehand may wait before it is started. @sync the host waits
    void wait(Transfer& transfer) {
        std::unique_lock lock(mutex_);
        transfer.changed.wait(lock, [&] { return transfer.done; });
    }
    TransferCounters counters() const {
        std::lock_guard lock(mutex_);
        return counters_;
    }
    TransferOptions const& options() const { return options_; }

protected:
    using Lane = detail::TransferLane;

    /// There is more to do. @pre mutex_ is held
    virtual void wake() = 0;

    bool has_work() const { return first_; }
    /// Takes the next piece, if there is one. @pre mutex_ is held
    bool take(Lane& lane) {
        if (!first_) return false;
        Transfer& transfer = *first_;
        index_t const at = transfer.handed_out;
        // Whatever a transfer begins with, its next pieces begin with a page.
        index_t const before = (transfer.offset + at) % direct_alignment;
        index_t const n = std::min(options_.piece_bytes - before, transfer.bytes - at);
        transfer.handed_out += n;
        ++transfer.pieces;
        if (transfer.handed_out == transfer.bytes) pop();
        lane.begin(transfer, at, n);
        bool const reads = transfer.kind == Transfer::Kind::read;
        ++(reads ? counters_.reads : counters_.writes);
        (reads ? counters_.bytes_read : counters_.bytes_written) += n;
        counters_.most_in_flight = std::max(counters_.most_in_flight, ++in_flight_);
        return true;
    }
    /// The lane's piece is over. @pre mutex_ is held
    void finish(Lane const& lane, int error) {
        Transfer& transfer = lane.transfer();
        --in_flight_;
        --transfer.pieces;
        if (error != 0 && transfer.error == 0) {
            transfer.error = error;
            transfer.error_offset = lane.offset();
            if (transfer.handed_out < transfer.bytes) drop(transfer);
        }
        if (transfer.handed_out < transfer.bytes || transfer.pieces > 0) return;
        transfer.done = true;
        transfer.changed.notify_all();
    }

    mutable std::mutex mutex_;

private:
    void pop() {
        first_ = first_->next;
        if (!first_) last_ = nullptr;
    }
    /// Nobody needs the rest of a transfer that has failed; it is the one that is handed out.
    void drop(Transfer& transfer) {
        transfer.handed_out = transfer.bytes;
        pop();
    }

    TransferOptions options_;
    TransferCounters counters_;
    Transfer *first_ = nullptr, *last_ = nullptr;
    int in_flight_ = 0;
};

} // namespace semoe::io
