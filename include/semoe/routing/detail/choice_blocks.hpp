#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/view.hpp"

namespace semoe::detail {

/// Tokens taken in blocks, so that counting and placing choices runs in parallel and still in one
/// fixed order. A block has at least as many choices as there are experts: the counts of all
/// blocks together take no more memory than the choices.
struct ChoiceBlocks {
    index_t tokens; ///< of a block
    index_t count;  ///< blocks

    constexpr ChoiceBlocks(index_t num_tokens, index_t top_k, index_t num_experts)
      : tokens(max(index_t(64), (num_experts + top_k - 1) / max(top_k, index_t(1))))
      , count((num_tokens + tokens - 1) / tokens) {}
};

/// counts(i, e): choices of expert e in block i. Ids outside [0,E) are nobody's.
template <class Space>
struct CountBlock {
    MatrixView<expert_id const, Space> ids;
    index_t block_tokens;
    MatrixView<index_t, Space> counts; // [blocks,E]
    SEMOE_HD void operator()(index_t i) const {
        index_t* const mine = counts.row(i);
        for (index_t e = 0; e < counts.cols; ++e) mine[e] = 0;
        index_t const end = min((i + 1) * block_tokens, ids.rows);
        for (index_t t = i * block_tokens; t < end; ++t)
            for (index_t k = 0; k < ids.cols; ++k) {
                index_t const e = ids(t, k);
                if (e >= 0 && e < counts.cols) ++mine[e];
            }
    }
};
/// counts(i, e) becomes the choices of e in earlier blocks, totals[e] those in all of them.
template <class Space>
struct ScanBlocks {
    MatrixView<index_t, Space> counts; // [blocks,E]
    VectorView<index_t, Space> totals; // [E]
    SEMOE_HD void operator()(index_t e) const {
        index_t sum = 0;
        for (index_t i = 0; i < counts.rows; ++i) {
            index_t const n = counts(i, e);
            counts(i, e) = sum;
            sum += n;
        }
        totals[e] = sum;
    }
};

/// counts(i, e) = choices of expert e before block i; totals[e] = all of them.
template <class B>
void count_blocks(B& b, MatrixView<expert_id const, space_of<B>> ids, ChoiceBlocks blocks,
                  MatrixView<index_t, space_of<B>> counts,
                  VectorView<index_t, space_of<B>> totals) {
    b.parallel_for(blocks.count, CountBlock<space_of<B>>{ids, blocks.tokens, counts});
    b.parallel_for(totals.size, ScanBlocks<space_of<B>>{counts, totals});
}

/// @throws precondition_error naming both sizes when `scratch` is too small
template <class Space>
void expects_scratch(char const* who, Bytes<Space> scratch, index_t needed) {
    expects(scratch.size >= needed, "{}: scratch has {} bytes, {} needed", who, scratch.size,
            needed);
}

} // namespace semoe::detail
