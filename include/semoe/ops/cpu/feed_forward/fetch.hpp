#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

namespace semoe::ops::cpu {

/// Weights on their way into L2 while others are multiplied: in what order decides whether memory
/// and products overlap. A fetch that waits for memory holds a buffer that other loads need, unless
/// the processor's own prefetcher was there before. That is ahead in several pages at a time: so
/// each of two regions is cut into parts, of which every line takes the next.
class Fetch {
public:
    static constexpr int most_parts = 4; ///< of a region

    /// Of a region, for a product with so many tokens. Where memory alone binds, two places in turn
    /// are read faster than eight on Zen 3: 14 rather than 11.5 GB/s.
    static constexpr int parts(Isa isa, index_t tokens) {
        return (isa == Isa::portable || isa == Isa::avx2) && tokens <= 32 ? 1 : most_parts;
    }

    Fetch() = default;
    /// @param parts      1, 2 or 4
    /// @param regions    `rows` rows each; null: nothing is fetched
    /// @param row_bytes  from row to row
    /// @param width      bytes of a row that are wanted
    Fetch(int parts, void const* const (&regions)[2], index_t rows, index_t row_bytes,
          index_t width)
      : last_(2 * parts - 1)
      , row_bytes_(row_bytes)
      , width_(width) {
        if (!regions[0]) return;
        end_ = rows / parts * row_bytes;
        for (int i = 0; i <= last_; ++i)
            parts_[i] = static_cast<char const*>(regions[i / parts]) + i % parts * end_;
    }

    bool wanted() const { return row_ < end_; }
    /// The next n lines.
    SEMOE_INLINE void some(int n) {
        int part = part_; // in a register, like the place
        index_t at = at_;
        for (; n > 0; --n) {
            char const* const line = parts_[part] + at;
#if SEMOE_X86
            __asm__ volatile("prefetcht1 %0" ::"m"(*line));
#else
            __builtin_prefetch(line, 0, 2);
#endif
            part = (part + 1) & last_;
            if (part == 0 && (at += line_bytes) >= row_ + width_) at = row_ += row_bytes_;
        }
        part_ = part;
        at_ = at;
    }

private:
    char const* parts_[2 * most_parts] = {};
    int last_ = 0, part_ = 0;
    index_t row_bytes_ = 0, width_ = 0, end_ = 0;
    index_t row_ = 0, at_ = 0; ///< within a part: the row, and the next line
};

} // namespace semoe::ops::cpu
