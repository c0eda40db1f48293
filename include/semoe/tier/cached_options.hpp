#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

namespace semoe::tier {

/// How much backend memory a Cached tier may take. Slots are as large as their kind's largest
/// block; dense blocks (router and shared expert, of any kind) have memory of their own beside
/// them, unless they are not pinned.
struct CachedOptions {
    index_t slots = 2;     ///< blocks of each kind that lie in backend memory at once
    index_t contexts = 1;  ///< forwards that run at once; each may lease slots / contexts blocks
    index_t layers = 0;    ///< if above 0, decides instead of slots: for so many layers' blocks
    index_t bytes = 0;     ///< if above 0, decides instead of both: for all blocks together
    int in_flight = 8;     ///< loads under way or not yet acquired; long work needs more of them
    bool pin_dense = true; ///< dense blocks never lose their place once they were loaded
    char const* raised_by = nullptr; ///< another tier's option that decides, for error texts

    /// @throws precondition_error naming the field
    void validate() const {
        expects(bytes >= 0, "CachedOptions: bytes is {}, must not be negative", bytes);
        expects(layers >= 0, "CachedOptions: layers is {}, must not be negative", layers);
        expects(slots >= 1, "CachedOptions: slots is {}, must be at least 1", slots);
        expects(in_flight >= 1 && in_flight <= 64,
                "CachedOptions: in_flight is {}, must be between 1 and 64", in_flight);
        expects(contexts >= 1, "CachedOptions: contexts is {}, must be at least 1", contexts);
        expects(contexts <= slots || bytes > 0 || layers > 0,
                "CachedOptions: contexts is {}, must not be above slots, {}", contexts, slots);
    }
    /// As error texts name what decides how many slots there are.
    char const* knob() const {
        if (raised_by) return raised_by;
        return bytes > 0    ? "CachedOptions::bytes"
               : layers > 0 ? "CachedOptions::layers"
                            : "CachedOptions::slots";
    }
    /// What else helps where slots do not suffice.
    char const* hint() const {
        return raised_by ? ", or say in its option contexts how many forwards run at once"
                         : ", or say in CachedOptions::contexts how many forwards run at once";
    }
};

} // namespace semoe::tier
