#pragma once

#include "semoe/core/message.hpp"
#include "semoe/io/transfer_file.hpp"

#include <condition_variable>
#include <cstring>
#include <string>

namespace semoe::io {

/// One run of a file's bytes to bring or to leave. Give it to Transfers::start, then wait; it and
/// its memory stay where they are until it is done.
///
/// A direct write is of whole pages: all of the last one belongs to it, and may be zero behind the
/// last byte.
struct Transfer {
    enum class Kind { read, write };

    TransferFile const* file = nullptr;
    Kind kind = Kind::read;
    std::byte* memory = nullptr; ///< only read from, where the transfer writes to the file
    index_t bytes = 0;
    index_t offset = 0; ///< a multiple of direct_alignment, where a direct transfer writes

    /// What errors call a read past the end of the file.
    static constexpr int end_of_file = -1;
    int error = 0;            ///< errno, or end_of_file; 0 when every byte was transferred
    index_t error_offset = 0; ///< the byte of the file where it happened
    bool done = true;

    /// "read: Input/output error, at byte 8192".
    std::string describe_error() const {
        return message("{}: {}, at byte {}", kind == Kind::read ? "read" : "write",
                       error == end_of_file ? "the file ends" : std::strerror(error), error_offset);
    }

    // Those who carry it out.
    index_t handed_out = 0; ///< bytes that somebody has begun with
    int pieces = 0;         ///< runs of these that are not done
    Transfer* next = nullptr;
    std::condition_variable changed = {};
};

} // namespace semoe::io
