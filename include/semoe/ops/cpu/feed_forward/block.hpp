#pragma once

#include "semoe/ops/cpu/feed_forward/fetch.hpp"

namespace semoe::ops::cpu {

/// What a kernel multiplies at a time: 32 rows of the left operand, sixteen in each of two places,
/// by one or two tiles' columns of the right one, or up to TileForm::kernel_columns(), over some
/// steps of the depth. The results are tiles of floats [16 rows][16 columns]: both places by the
/// first 16 columns, then by the next.
struct BlockSteps {
    char const* left[2]; ///< rows: 64 bytes of each are one step; with TileForm::lanes words
    index_t row_bytes, step_bytes; ///< from row to row, and from step to step
    char const* right;             ///< tiles of words, one a step, or TileForm::widths of them
    index_t right_tile;            ///< bytes from the first 16 columns' tiles to the next
    index_t steps;
    index_t columns;   ///< that anybody wants
    bool first = true; ///< false: results lie as an earlier call left them that was not `last`
    bool last = true;  ///< false: more steps follow, and results may lie as the kernel likes
    index_t rows = 32; ///< that anybody wants, the first ones
    index_t last_words = 16; ///< of the last step; kernels may pass over the others, which are zero
    index_t word_line = 64;  ///< bytes of a line of words: TileForm::word_line_bytes()

    index_t words(index_t steps_left) const { return steps_left == 1 ? last_words : 16; }
};

/// Lines that a kernel asks for in one of so many passes over the steps.
inline int lines_of_pass(int lines, index_t passes) {
    return int((index_t(4) * lines + passes - 1) / passes);
}

/// Multiplies blocks of one element type on one instruction set. It lives as long as a task, and
/// may own the processor's state meanwhile.
class BlockKernel {
public:
    BlockKernel() = default;
    BlockKernel(BlockKernel const&) = delete;
    BlockKernel& operator=(BlockKernel const&) = delete;

    /// Writes the results, or adds to them; those that nobody wants are any numbers.
    /// @param fetch    asked for `lines` lines four times a step
    /// @param results  two tiles for 16 columns, aligned to 64 bytes
    void multiply(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) {
        run(s, fetch, fetch.wanted() ? lines : 0, add, results);
    }

protected:
    ~BlockKernel() = default;

private:
    virtual void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) = 0;
};

} // namespace semoe::ops::cpu
