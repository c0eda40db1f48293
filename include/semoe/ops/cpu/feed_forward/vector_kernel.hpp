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
        index_t const places = s.rows > 16 ? 2 : 1;
        int const fetched = lines_of_pass(lines, places * (s.columns > 16 ? 2 : 1));
        for (index_t place = 0; place < places; ++place)
            for (index_t c = 0; c < min(s.columns, index_t(32)); c += 16)
                multiply(s, place, c, fetch, fetched, add,
                         results + (c / 16 * 2 + place) * tile_floats);
    }
    static void multiply(BlockSteps const& s, index_t place, index_t column, Fetch& fetch,
                         int lines, bool add, float* results) {
        if (s.columns - column > 8)
            passes<16 / Chains::lanes>(s, place, column, fetch, lines, add, results);
        else
            passes<8 / Chains::lanes>(s, place, column, fetch, lines, add, results);
    }
    /// Sixteen rows in as few passes as registers allow, of about as many rows each; those that
    /// somebody wants.
    template <int Vectors>
    static void passes(BlockSteps const& s, index_t place, index_t column, Fetch& fetch, int lines,
                       bool add, float* results) {
        char const *const left = s.left[place], *const right = s.right + column / 16 * s.right_tile;
        index_t const wanted = s.rows - place * tile_rows;
        constexpr int most = Chains::registers / Vectors, n = (16 + most - 1) / most;
        [&]<int... P>(std::integer_sequence<int, P...>) {
            ((first_row(P, n) < wanted
                  ? Chains::template rows<Vectors, first_row(P + 1, n) - first_row(P, n)>(
                        s, left + first_row(P, n) * s.row_bytes, right, fetch, P == 0 ? lines : 0,
                        add, results + first_row(P, n) * 16)
                  : void()),
             ...);
        }
        (std::make_integer_sequence<int, n>{});
    }
    /// So many columns only, since other columns' chains have brought the rows into L1.
    static constexpr index_t few_beside_others = 4;
    static_assert(few_beside_others <= Few::most_columns);

    static constexpr index_t first_row(index_t pass, index_t n) { return 16 * pass / n; }
};

} // namespace semoe::ops::cpu
