#pragma once

#include "semoe/core/error.hpp"
#include "semoe/io/ring_transfers.hpp"
#include "semoe/io/thread_transfers.hpp"
#include "semoe/io/transfers.hpp"

#include <memory>

namespace semoe::io {

/// Whether this program has io_uring and the kernel grants it.
inline bool ring_available() {
#if defined(SEMOE_LIBURING)
    return RingTransfers::available();
#else
    return false;
#endif
}

/// What carries out transfers of a file.
/// @throws precondition_error naming an option that is out of range; store_error when the ring is
///         asked for and cannot be had
inline std::unique_ptr<Transfers> make_transfers(TransferFile const& file,
                                                 TransferOptions options) {
    options.validate();
    bool const possible = file.native() && ring_available();
#if defined(SEMOE_LIBURING)
    if (possible && options.engine != Engine::threads) {
        try {
            return std::make_unique<RingTransfers>(options);
        } catch (store_error const&) { // as of too few descriptors or too little locked memory
            if (options.engine == Engine::ring) throw;
        }
    }
#endif
    if (options.engine == Engine::ring && !possible)
        throw store_error(file.name() + ": io_uring is asked for, but " +
                          (file.native() ? "this program or this kernel has none"
                                         : "its file system is not the kernel's own, or it is "
                                           "mapped"));
    return std::make_unique<ThreadTransfers>(options);
}

} // namespace semoe::io
