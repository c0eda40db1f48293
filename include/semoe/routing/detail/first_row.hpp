#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/routing/detail/choice_blocks.hpp"

namespace semoe::detail {

inline constexpr index_t first_row_block = 64;

constexpr index_t first_row_scratch_bytes(index_t rows) {
    return (rows + first_row_block - 1) / first_row_block * index_t(sizeof(index_t));
}

/// found[i]: the first row of block i that is wrong, or -1, as wrong(begin, end) says.
template <class Wrong>
struct FirstOfBlock {
    Wrong wrong;
    index_t rows;
    index_t* found;
    SEMOE_HD void operator()(index_t i) const {
        found[i] = wrong(i * first_row_block, min((i + 1) * first_row_block, rows));
    }
};
struct FirstOfAll {
    index_t const* found;
    index_t blocks;
    index_t* status;
    SEMOE_HD void operator()(index_t) const {
        *status = -1;
        for (index_t i = 0; i < blocks && *status < 0; ++i) *status = found[i];
    }
};

/// status[0] = the first wrong row, -1 if there is none.
/// @param wrong  wrong(begin, end) is the first wrong row in [begin, end), or -1
template <class B, class Wrong>
void find_first_row(char const* who, B& b, index_t rows, Wrong wrong,
                    VectorView<index_t, space_of<B>> status, Bytes<space_of<B>> scratch) {
    index_t const needed = first_row_scratch_bytes(rows);
    expects_scratch(who, scratch, needed);
    expects(status.size == 1, "{}: status has {} elements, must have 1", who, status.size);
    auto* const found = view_as<index_t>(scratch).data;
    index_t const blocks = needed / index_t(sizeof(index_t));
    b.parallel_for(blocks, FirstOfBlock<Wrong>{wrong, rows, found});
    b.parallel_for(1, FirstOfAll{found, blocks, status.data});
}

} // namespace semoe::detail
