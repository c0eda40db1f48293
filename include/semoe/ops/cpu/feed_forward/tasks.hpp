#pragma once

#include "semoe/core/math.hpp"
#include "semoe/ops/group.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

namespace semoe::ops::cpu {

/// Rows that one task takes at a time, so that they stay in L2 while the weights stream by.
inline constexpr index_t feed_forward_rows = 192;
/// The same in backward, where every block but the first reads and writes a gradient once more.
inline constexpr index_t backward_rows = 384;

/// A worker's scratch where it is large enough, else memory for one task.
class TaskScratch {
public:
    TaskScratch(std::span<std::byte> scratch, index_t bytes)
      : data_(reinterpret_cast<char*>(scratch.data())) {
        if (index_t(scratch.size()) >= bytes) return;
        own_.reset(new (std::align_val_t{64}) char[std::size_t(bytes)]);
        data_ = own_.get();
    }
    char* data() const { return data_; }

private:
    struct Free {
        void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    std::unique_ptr<char[], Free> own_;
    char* data_;
};

/// Numbers of a group's experts in falling order of rows, so that the last tasks are short.
struct LongestFirst {
    int expert[Group<>::capacity];

    template <class Byte>
    explicit LongestFirst(Group<Byte> const& g) {
        for (int i = 0; i < g.size; ++i) expert[i] = i;
        // std::stable_sort would allocate.
        std::sort(expert, expert + g.size, [&](int a, int b) {
            return g.rows[a] != g.rows[b] ? g.rows[a] > g.rows[b] : a < b;
        });
    }
    template <class Byte>
    Group<Byte> sorted(Group<Byte> const& g) const {
        Group<Byte> out;
        for (int i = 0; i < g.size; ++i)
            out.add(g.first_row[expert[i]], g.rows[expert[i]], g.block[expert[i]]);
        return out;
    }
};

/// Task `split` of the `splits` that share a range of [0, n) units.
struct Range {
    index_t begin, end;
    Range(index_t n, index_t split, index_t splits)
      : begin(n * split / splits)
      , end(n * (split + 1) / splits) {}
};

/// How many tasks share an expert where there are too few experts to keep all workers busy.
inline index_t splits_of(index_t blocks, int workers) {
    index_t const enough = 4 * index_t(workers);
    return workers == 1 || blocks >= enough ? 1 : (2 * enough + blocks - 1) / blocks;
}

/// The rows of a group's experts in blocks, numbered through the group; `splits` tasks share each.
struct RowBlocks {
    struct Place {
        int expert;
        index_t first, rows; ///< of the expert's rows
        index_t split;
    };

    static index_t of(index_t rows) { return (rows + feed_forward_rows - 1) / feed_forward_rows; }
    static index_t of(Group<std::byte const> const& group) {
        index_t n = 0;
        for (int e = 0; e < group.size; ++e) n += of(group.rows[e]);
        return n;
    }
    /// Where task i works. @return false beyond the last task
    static bool find(Group<std::byte const> const& group, index_t splits, index_t i, Place& at) {
        at.split = i % splits;
        i /= splits;
        for (at.expert = 0; at.expert < group.size; ++at.expert) {
            index_t const rows = group.rows[at.expert], n = of(rows);
            if (i >= n) {
                i -= n;
                continue;
            }
            index_t const each = ((rows + n - 1) / n + 31) / 32 * 32;
            at.first = min(i * each, rows);
            at.rows = min(each, rows - at.first);
            return true;
        }
        return false;
    }
};

} // namespace semoe::ops::cpu
