#pragma once

#include "semoe/ops/cpu/feed_forward/block.hpp"
#include "semoe/ops/cpu/feed_forward/lines.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/gradient_taker.hpp"

namespace semoe::ops::cpu {

/// A matrix of floats that gradients go to, or somebody who takes them.
struct GradientRows {
    float* data; ///< [rows, cols], row after row; with a taker, room for outer_rows of them
    index_t rows, cols;
    bool add; ///< to what it holds; else it is overwritten, past the caches
    ExpertTaker taker = {};
    index_t first = 0; ///< for the taker: the matrix's first element in the expert's block

    GradientRows row_range(index_t begin, index_t end) const {
        float* const from = taker ? data : data + begin * cols;
        return {from, end - begin, cols, add, taker, first + begin * cols};
    }
    void take() const {
        if (taker) taker(first, {data, rows * cols});
    }
    bool is_aligned() const {
        return cols % 16 == 0 && reinterpret_cast<std::uintptr_t>(data) % 64 == 0;
    }
};

/// Rows of a gradient that are computed at a time.
inline constexpr index_t outer_rows = 32;

namespace detail {
/// Sixteen rows of some results from their place, or to it: one tile, and that of the next 16
/// columns 2 * tile_floats on.
struct ResultRows {
    Isa isa;
    GradientRows const& g;
    index_t n, k, columns;
    float* results;

    void get() const {
        for (index_t c = 0; c < columns; c += 16)
            load_rows(isa, place(c), g.cols, rows(), columns - c, at(c));
    }
    void put() const {
        for (index_t c = 0; c < columns; c += 16)
            store_rows(isa, at(c), place(c), g.cols, rows(), columns - c);
    }
    /// Past the caches. @pre g.is_aligned()
    void stream() const {
        for (index_t c = 0; c < columns; c += 16) stream_rows(isa, at(c), place(c), g.cols, rows());
    }

private:
    index_t rows() const { return min(g.rows - n, tile_rows); }
    float* place(index_t c) const { return g.data + n * g.cols + k + c; }
    float* at(index_t c) const { return results + c / 16 * 2 * tile_floats; }
};
} // namespace detail

/// g(n, k) (+)= sum over m of a(m, n) * b(m, k): the gradient of weights. Added, it continues the
/// sums that g holds.
/// @param a      tiles of rows [blocks of 16 rows of g][steps]
/// @param b      tiles of words [blocks of 16 columns of g][steps]
/// @param depth  how many rows m there are
inline void multiply_outer(TileForm form, BlockKernel& kernel, char const* a, char const* b,
                           index_t depth, GradientRows const& g) {
    index_t const each = form.kernel_columns();
    alignas(64) float results[8 * tile_floats];
    Fetch nothing;
    index_t const steps = form.steps(depth), block = steps * tile_bytes;
    bool const stream = !g.add && !g.taker && g.is_aligned();
    for (index_t n = 0; n < g.rows; n += outer_rows) {
        char const* const row = a + n / 16 * block;
        auto const some = g.row_range(n, min(n + outer_rows, g.rows));
        for (index_t k = 0; k < g.cols; k += each) {
            index_t const columns = min(g.cols - k, each);
            auto const rows = [&](int half) {
                return detail::ResultRows{form.isa, some,    half * tile_rows,
                                          k,        columns, results + half * tile_floats};
            };
            BlockSteps const s{{row, n + 16 < g.rows ? row + block : row},
                               line_bytes,
                               tile_bytes,
                               b + k / 16 * block,
                               block,
                               steps,
                               columns,
                               true,
                               true,
                               g.rows - n,
                               form.last_words(depth)};
            for (int half = 0; half < 2 && g.add; ++half) rows(half).get();
            kernel.multiply(s, nothing, 0, g.add, results);
            for (int half = 0; half < 2; ++half) stream ? rows(half).stream() : rows(half).put();
        }
        some.take();
    }
    if (stream) finish_copies(); // others may read once the task has ended
}

} // namespace semoe::ops::cpu
