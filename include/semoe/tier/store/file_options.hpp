#pragma once

#include "semoe/core/error.hpp"
#include "semoe/io/transfers.hpp"

namespace semoe::tier {

/// When a FileStore compares a block with its checksum.
enum class Verify {
    first, ///< at the first load after it was opened or stored
    always,
    never,
};

struct FileOptions {
    bool read_only = false;        ///< else the file is made where it is missing
    Verify verify = Verify::first; ///< a pass over the bytes, about 5 GB/s a processor
    io::Way way = io::Way::direct; ///< mapped: for reading only
    io::TransferOptions transfers = {};

    /// @throws precondition_error naming the field
    void validate() const {
        transfers.validate();
        expects(way != io::Way::mapped || read_only,
                "FileOptions: way is mapped, which is for reading; set read_only, or another way "
                "to write");
    }
};

} // namespace semoe::tier
