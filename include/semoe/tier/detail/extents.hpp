#pragma once

#include "semoe/core/types.hpp"
#include "semoe/io/aligned_memory.hpp"

#include <algorithm>
#include <vector>

namespace semoe::tier::detail {

/// A run of whole pages of a file.
struct Extent {
    index_t offset = 0, bytes = 0;
    friend bool operator==(Extent const&, Extent const&) = default;
};

/// Which pages of a file are unused. Everything from `end` on is.
class Extents {
public:
    explicit Extents(index_t end = 0)
      : end_(end) {}

    index_t end() const { return end_; }

    /// The smallest unused run that is large enough, the first of equals; else the file grows.
    /// @param bytes  rounded up to whole pages
    Extent take(index_t bytes) {
        if (bytes == 0) return {};
        bytes = io::round_up(bytes);
        auto best = unused_.end();
        for (auto at = unused_.begin(); at != unused_.end(); ++at)
            if (at->bytes >= bytes && (best == unused_.end() || at->bytes < best->bytes)) best = at;
        if (best == unused_.end()) {
            Extent const grown{end_, bytes};
            end_ += bytes;
            return grown;
        }
        Extent const taken{best->offset, bytes};
        best->offset += bytes;
        best->bytes -= bytes;
        if (best->bytes == 0) unused_.erase(best);
        return taken;
    }
    /// Gives pages back. @pre they were taken
    void give(Extent extent) {
        if (extent.bytes == 0) return;
        auto next =
            std::lower_bound(unused_.begin(), unused_.end(), extent,
                             [](Extent const& a, Extent const& b) { return a.offset < b.offset; });
        if (next != unused_.end() && extent.offset + extent.bytes == next->offset) {
            extent.bytes += next->bytes;
            next = unused_.erase(next);
        }
        if (next != unused_.begin()) {
            auto const previous = next - 1;
            if (previous->offset + previous->bytes == extent.offset) {
                extent = {previous->offset, previous->bytes + extent.bytes};
                next = unused_.erase(previous);
            }
        }
        if (extent.offset + extent.bytes == end_)
            end_ = extent.offset;
        else
            unused_.insert(next, extent);
    }
    /// What lies there is used. @pre at or behind everything that was said so far
    void use(Extent extent) {
        if (extent.bytes == 0) return;
        if (extent.offset > end_) unused_.push_back({end_, extent.offset - end_});
        end_ = extent.offset + extent.bytes;
    }
    std::vector<Extent> const& unused() const { return unused_; }

private:
    std::vector<Extent> unused_; ///< by offset; no two touch
    index_t end_;
};

} // namespace semoe::tier::detail
