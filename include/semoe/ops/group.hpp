#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"

#include <cstdint>

namespace semoe::ops {

/// One row of a group, and whose it is: a number within the group, a row of the row matrices.
struct GroupPlace {
    int expert;
    index_t row;
};

/// Some experts and the rows that each of them works on, small enough to travel by value into a
/// queue or a kernel. Operations over more experts take several groups.
/// @tparam Byte  std::byte const where blocks are read, std::byte where they are written
template <class Byte = std::byte const>
struct Group {
    static constexpr int capacity = 32;

    int size = 0;
    index_t first_row[capacity] = {}; ///< where expert i's rows begin in the row matrices
    index_t rows[capacity] = {};      ///< how many rows expert i has; zero is ordinary
    Byte* block[capacity] = {};       ///< expert i's block in backend memory

    /// @throws precondition_error beyond `capacity` experts
    void add(index_t first, index_t count, Byte* memory) {
        expects(size < capacity, "ops::Group: {} experts are the most", capacity);
        first_row[size] = first;
        rows[size] = count;
        block[size++] = memory;
    }
    SEMOE_HD constexpr index_t total_rows() const {
        index_t n = 0;
        for (int i = 0; i < size; ++i) n += rows[i];
        return n;
    }

    /// The expert and row of the group's n-th row, n in [0, total_rows()).
    SEMOE_HD constexpr GroupPlace place(index_t n) const {
        int i = 0;
        while (n >= rows[i]) n -= rows[i++];
        return {i, first_row[i] + n};
    }
};

/// One bit an expert of a group: set, a gradient is added to; clear, it is written.
using GroupMask = std::uint32_t;

/// A [rows, cols] matrix that lies at the same place in every block of a group.
struct BlockSlice {
    index_t offset = 0; ///< elements from the block's start
    index_t rows = 0, cols = 0;
    /// Where the same matrix lies a second time as panels (ops/pack.hpp), in elements from the
    /// block's start; negative where it does not. Changes speed, never a bit of a result.
    index_t panels = -1;
};

/// Whether a product replaces its output or is added to it.
enum class Accumulate : bool { no, yes };

} // namespace semoe::ops
