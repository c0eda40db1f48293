#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

namespace semoe::tier {

/// How much backend memory a Cached tier may take.
struct CachedOptions {
    index_t slots = 2;    ///< blocks of each kind that lie in backend memory at once
    index_t contexts = 1; ///< forwards that run at once; each may lease slots / contexts blocks

    /// @throws precondition_error naming the field
    void validate() const {
        expects(slots >= 1, "CachedOptions: slots is {}, must be at least 1", slots);
        expects(contexts >= 1 && contexts <= slots,
                "CachedOptions: contexts is {}, must be between 1 and slots, {}", contexts, slots);
    }
};

} // namespace semoe::tier
