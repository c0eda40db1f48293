#pragma once

#include "semoe/io/aligned_memory.hpp"
#include "semoe/io/transfer.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace semoe::io::detail {

/// One piece of a transfer under way, and a buffer of its own for pieces that the file's way does
/// not take as they lie. Knows what to ask the system for next and what its answer means.
class TransferLane {
public:
    explicit TransferLane(index_t piece_bytes)
      : buffer_(piece_bytes) {}

    /// What to ask for: a transfer of n bytes between memory and file, by its way or, not direct,
    /// through the system's cache.
    struct Call {
        std::byte* memory;
        std::size_t n;
        index_t offset;
        bool direct;
    };

    void begin(Transfer& transfer, index_t at, index_t bytes) {
        transfer_ = &transfer;
        at_ = at;
        bytes_ = bytes;
        done_ = 0;
        std::byte* const memory = transfer.memory + at;
        direct_ = transfer.file->way() == Way::direct;
        before_ = direct_ ? (transfer.offset + at) % direct_alignment : 0;
        buffered_ =
            direct_ && (before_ != 0 || !is_aligned(memory) || bytes % direct_alignment != 0);
        if (buffered_ && transfer.kind == Transfer::Kind::write) {
            std::memcpy(buffer_.data(), memory, std::size_t(bytes));
            std::memset(buffer_.data() + bytes, 0, std::size_t(round_up(bytes) - bytes));
        }
    }
    Transfer& transfer() const { return *transfer_; }
    index_t piece_bytes() const { return buffer_.size(); }

    Call call() const {
        std::byte* const memory = buffered_ ? buffer_.data() : transfer_->memory + at_;
        index_t const n = buffered_ ? round_up(whole()) : bytes_;
        return {memory + done_, std::size_t(n - done_), offset(), direct_};
    }
    /// Carries the call out on this thread. @return bytes, or a negated errno
    index_t run() const {
        Call const c = call();
        TransferFile const& file = *transfer_->file;
        return transfer_->kind == Transfer::Kind::read
                   ? file.read_some(c.memory, c.n, c.offset, c.direct)
                   : file.write_some(c.memory, c.n, c.offset, c.direct);
    }
    /// What the system said. @return whether the piece is over; else there is another call()
    bool answer(index_t result, int& error) {
        bool const reads = transfer_->kind == Transfer::Kind::read;
        error = 0;
        if (result == -EINTR || result == -EAGAIN) return false;
        if (result < 0) return fail(error, int(-result));
        index_t progress = std::min(result, whole() - done_);
        // The rest of a direct transfer starts at a page again. Where not even one came, as at the
        // end of a file, the rest goes through the cache, which takes and names any byte.
        if (direct_ && progress < whole() - done_) {
            direct_ = progress >= direct_alignment;
            if (direct_) progress -= progress % direct_alignment;
        }
        // A device that takes nothing and gives no reason is full.
        if (progress == 0) return fail(error, reads ? Transfer::end_of_file : ENOSPC);
        done_ += progress;
        if (done_ < whole()) return false;
        if (buffered_ && reads)
            std::memcpy(transfer_->memory + at_, buffer_.data() + before_, std::size_t(bytes_));
        return true;
    }
    /// The byte of the file that comes next.
    index_t offset() const { return transfer_->offset + at_ - before_ + done_; }

private:
    /// Bytes to transfer, with those of the first page that nobody asked for.
    index_t whole() const { return before_ + bytes_; }
    static bool fail(int& error, int code) {
        error = code;
        return true;
    }

    AlignedMemory buffer_;
    Transfer* transfer_ = nullptr;
    index_t at_ = 0, bytes_ = 0, before_ = 0, done_ = 0;
    bool direct_ = false, buffered_ = false;
};

} // namespace semoe::io::detail
