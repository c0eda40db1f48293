#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/tiles.hpp"

#include <utility>

namespace semoe::ops::cpu {

/// Products by vectors of columns: sixteen rows and sixteen columns at a time, in as many chains as
/// there are registers for.
/// @tparam Few     the kernel of few columns
/// @tparam Chains  `lanes` of a vector; `registers` that it has for sums; rows<Vectors, Rows>(...),
///                 that many rows by that many vectors of columns, each element in a chain in order
///                 of the depth
template <class Few, class Chains>
class VectorKernel final : public BlockKernel {
    void run(BlockSteps const& s, Fetch& fetch, int lines, bool add, float* results) override {
        if (s.columns <= few_beside_others) return Few::multiply(s, fetch, lines, add, results);
        // Asked of some of the chains only.
        int const fetched = s.columns > 16 ? lines : 2 * lines;
        for (index_t place = 0; place < 2; ++place) {
            char const* const left = s.left[place];
            float* const to = results + place * tile_floats;
            multiply(s, s.columns, left, s.right, fetch, fetched, add, to);
            if (s.columns > 16)
                multiply(s, s.columns - 16, left, s.right + s.right_tile, fetch, fetched, add,
                         to + 2 * tile_floats);
        }
    }
    static void multiply(BlockSteps const& s, index_t columns, char const* left, char const* right,
                         Fetch& fetch, int lines, bool add, float* results) {
        if (columns > 8)
            passes<16 / Chains::lanes>(s, left, right, fetch, lines, add, results);
        else
            passes<8 / Chains::lanes>(s, left, right, fetch, lines, add, results);
    }
    /// Sixteen rows in as few passes as registers allow, of about as many rows each.
    template <int Vectors>
    static void passes(BlockSteps const& s, char const* left, char const* right, Fetch& fetch,
                       int lines, bool add, float* results) {
        constexpr int most = Chains::registers / Vectors, n = (16 + most - 1) / most;
        [&]<int... P>(std::integer_sequence<int, P...>) {
            (Chains::template rows<Vectors, first_row(P + 1, n) - first_row(P, n)>(
                 s, left + first_row(P, n) * s.row_bytes, right, fetch, P == 0 ? lines : 0, add,
                 results + first_row(P, n) * 16),
             ...);
        }
        (std::make_integer_sequence<int, n>{});
    }
    /// So many columns only, since other columns' chains have brought the rows into L1.
    static constexpr index_t few_beside_others = 4;

    static constexpr index_t first_row(index_t pass, index_t n) { return 16 * pass / n; }
};

} // namespace semoe::ops::cpu
