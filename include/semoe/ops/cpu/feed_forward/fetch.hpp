#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

#include <cstdint>

namespace semoe::ops::cpu {

/// Weights on their way into L2 while others are multiplied: in what order decides whether memory
/// and products overlap. A fetch that waits for memory holds a buffer that other loads need, unless
/// lines come from several pages in turn and the processor's own prefetcher is ahead in each. So
/// two regions are cut into four parts each, and every line comes from the next part.
class Fetch {
public:
    Fetch() = default;
    /// @param regions    `rows` rows each; null: nothing is fetched
    /// @param row_bytes  from row to row
    /// @param width      bytes of a row that are wanted
    Fetch(void const* const (&regions)[2], index_t rows, index_t row_bytes, index_t width)
      : regions_{static_cast<char const*>(regions[0]), static_cast<char const*>(regions[1])}
      , part_(rows / 4 * row_bytes)
      , row_bytes_(row_bytes)
      , width_(width)
      , end_(regions[0] ? rows / 4 * row_bytes : 0) {}

    bool wanted() const { return row_ < end_; }
    /// The next n lines.
    SEMOE_INLINE void some(int n) {
        for (int i = 0; i < n; ++i) {
            char const* const line =
                regions_[place_ >> 2] + ((place_ & 3) * part_ + row_ + column_);
#if SEMOE_X86
            __asm__ volatile("prefetcht1 %0" ::"m"(*line));
#else
            __builtin_prefetch(line, 0, 2);
#endif
            place_ = (place_ + 1) & 7;
            if (place_ == 0 && (column_ += 64) >= width_) {
                column_ = 0;
                row_ += row_bytes_;
            }
        }
    }

private:
    char const* regions_[2] = {};
    index_t part_ = 0, row_bytes_ = 0, width_ = 0, end_ = 0;
    index_t row_ = 0, column_ = 0;
    int place_ = 0;
};

} // namespace semoe::ops::cpu
