#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

namespace semoe::ops::cpu {

/// What a kernel multiplies at a time: 32 rows of the left operand, sixteen in each of two places,
/// by one or two tiles' columns of the right one, over some steps of the depth. The results are
/// four tiles of floats [16 rows][16 columns]: both places by the first 16 columns, then by the
/// second.
struct BlockSteps {
    char const* left[2];           ///< rows: 64 bytes of each are one step
    index_t row_bytes, step_bytes; ///< from row to row, and from step to step
    char const* right;             ///< tiles of words, one a step
    index_t right_tile;            ///< bytes from the first 16 columns' tiles to the second's
    index_t steps;
};

// A kernel for elements of type T has
//     template <int Columns, int Lines, class Fetch>
//     void multiply(BlockSteps const&, Fetch fetch, bool add, float* results);
// It writes the results, or adds to them where `add` is set, and asks for fetch.some<Lines>() four
// times a step. Its object lives as long as a task: it may own the processor's state meanwhile.

/// Where all that is read lies in the caches.
struct NoFetch {
    template <int N>
    SEMOE_INLINE void some() {}
    static constexpr bool wanted() { return false; }
};

template <int Columns, class Kernel, class Fetch>
void multiply_block(Kernel& kernel, BlockSteps const& s, Fetch const& fetch, int lines, bool add,
                    float* results) {
    switch (fetch.wanted() ? lines : 0) {
    case 0:
        return kernel.template multiply<Columns, 0>(s, NoFetch{}, add, results);
    case 1:
        return kernel.template multiply<Columns, 1>(s, fetch, add, results);
    case 2:
        return kernel.template multiply<Columns, 2>(s, fetch, add, results);
    case 3:
        return kernel.template multiply<Columns, 3>(s, fetch, add, results);
    case 4:
        return kernel.template multiply<Columns, 4>(s, fetch, add, results);
    default:
        return kernel.template multiply<Columns, 8>(s, fetch, add, results);
    }
}
/// @param columns  1 or 2 tiles of 16
template <class Kernel, class Fetch>
void multiply_block(Kernel& kernel, BlockSteps const& s, Fetch const& fetch, int lines,
                    index_t columns, bool add, float* results) {
    if (columns >= 2)
        multiply_block<2>(kernel, s, fetch, lines, add, results);
    else
        multiply_block<1>(kernel, s, fetch, lines, add, results);
}

} // namespace semoe::ops::cpu
