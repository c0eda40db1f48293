#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

namespace semoe::ops::cpu {

/// Weights on their way into L2 while others are multiplied: in what order decides whether memory
/// and products overlap. A fetch that waits for memory holds a buffer that other loads need, unless
/// the processor's own prefetcher was there before. On Intel that is ahead in several pages at a
/// time: so two regions are read from several places, of which every line takes the next. On Zen 5
/// one place at a time is read fastest.
class Fetch {
public:
    static constexpr int most_places = 8;

    /// Of both regions, for a product with so many tokens. Where memory alone binds, Zen 3 reads
    /// two places in turn faster than eight: 14 rather than 11.5 GB/s.
    static constexpr int places(Isa isa, index_t tokens) {
        if (isa == Isa::avx512_bf16) return 1; // Zen 5; to Zen 4 it is all one
        return (isa == Isa::portable || isa == Isa::avx2) && tokens <= 32 ? 2 : most_places;
    }

    Fetch() = default;
    /// @param places     2, 4 or 8 in turn; 1: one region after the other
    /// @param regions    `rows` rows each; null: nothing is fetched
    /// @param row_bytes  from row to row
    /// @param width      bytes of a row that are wanted
    Fetch(int places, void const* const (&regions)[2], index_t rows, index_t row_bytes,
          index_t width)
      : last_(places - 1)
      , row_bytes_(row_bytes)
      , width_(width) {
        if (!regions[0]) return;
        int const each = places > 1 ? places / 2 : 1; // of a region
        end_ = rows / each * row_bytes;
        for (int i = 0; i < 2 * each; ++i)
            parts_[i] = static_cast<char const*>(regions[i / each]) + i % each * end_;
        if (places == 1) later_ = parts_[1];
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
            if (part == 0 && (at += line_bytes) >= row_ + width_) at = next_row();
        }
        part_ = part;
        at_ = at;
    }

private:
    SEMOE_INLINE index_t next_row() {
        row_ += row_bytes_;
        if (row_ >= end_ && later_) {
            parts_[0] = later_;
            later_ = nullptr;
            row_ = 0;
        }
        return row_;
    }

    char const* parts_[most_places] = {};
    char const* later_ = nullptr; ///< the region whose turn comes after the other
    int last_ = 0, part_ = 0;
    index_t row_bytes_ = 0, width_ = 0, end_ = 0;
    index_t row_ = 0, at_ = 0; ///< within a part: the row, and the next line
};

} // namespace semoe::ops::cpu
