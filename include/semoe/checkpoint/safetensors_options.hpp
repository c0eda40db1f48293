#pragma once

#include "semoe/io/transfers.hpp"

namespace semoe::checkpoint {

/// How a SafetensorsStore reads.
struct SafetensorsOptions {
    io::Way way = io::Way::direct; ///< mapped: nobody may truncate the file meanwhile
    io::TransferOptions transfers = {};
};

/// What a SafetensorsStore has been asked for, and what it asked of the system.
struct SafetensorsCounters {
    index_t loads = 0, bytes_loaded = 0;
    io::TransferCounters transfers = {};
};

} // namespace semoe::checkpoint
