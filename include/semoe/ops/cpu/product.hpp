#pragma once

#include "semoe/core/math.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/detail/product.hpp"

#include <concepts>
#include <cstddef>
#include <span>

namespace semoe::ops::cpu {

using ops::detail::Left;
using ops::detail::Right;

/// Element types that the blocked product takes; their sums are kept in float.
template <class T>
concept Blocked = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, f16>;

/// c(m, n) (+)= sum over k of a(m, k) * w(k, n), one chain of fused multiply-adds in order of k.
template <Blocked A, Blocked W, Blocked C>
struct Product {
    A const* a;
    index_t a_ld;
    Left left;
    W const* w;
    index_t w_ld;
    Right right;
    C* c;
    index_t c_ld;
    index_t rows, cols, depth;
    bool add;
};

/// How much of a product a worker does at a time, and the floats of scratch this takes.
struct BlockSize {
    index_t rows, cols, depth;

    /// Both orders of a packed left operand are padded, so that strides are no power of two.
    constexpr index_t left_row() const { return depth + 16; }
    constexpr index_t left_column() const { return rows + 8; }
    constexpr index_t left() const {
        index_t const by_rows = rows * left_row(), by_columns = depth * left_column();
        return by_rows > by_columns ? by_rows : by_columns;
    }
    constexpr index_t right() const { return depth * 2 * panel_columns; }
    constexpr index_t floats() const { return left() + right() + rows * cols; }
};
/// A pair of panels stays in L1 while the block of left rows streams from L2.
inline constexpr BlockSize block_size{128, 128, 256};
/// What fits on a stack, for workers without scratch.
inline constexpr BlockSize small_block_size{16, 32, 64};

namespace detail {

/// One block of a product: rows [m, m + rows), columns [n, n + cols), n a multiple of 16.
template <Blocked A, Blocked W, Blocked C>
class Block {
public:
    Block(Isa isa, Product<A, W, C> const& product, BlockSize size, float* scratch)
      : isa_(isa)
      , p_(product)
      , size_(size)
      , left_(scratch)
      , right_(left_ + size.left())
      , sums_(right_ + size.right()) {}

    void compute(index_t m, index_t n, index_t rows, index_t cols) {
        m_ = m, n_ = n, rows_ = rows, cols_ = cols;
        index_t const panels = (cols + panel_columns - 1) / panel_columns;
        for (index_t p = 0; p < panels; p += 2)
            if (p_.add && !in_place(p)) load_sums(p);
        index_t k = 0;
        do { // once even for an empty sum, which is zero and reads nothing
            index_t const depth = min(size_.depth, p_.depth - k);
            if (depth > 0) pack_left(k, depth);
            for (index_t p = 0; p < panels; p += 2)
                multiply_pair(p, min(panels - p, index_t(2)), k, depth);
            k += depth;
        } while (k < p_.depth);
        for (index_t p = 0; p < panels; p += 2)
            if (!in_place(p)) store_sums(p);
    }

private:
    static constexpr index_t pair = 2 * index_t(panel_columns);

    /// Whether the two panels' sums are kept in c itself: it is float, and they lie inside it.
    bool in_place(index_t p) const {
        return std::same_as<C, float> && (p + 2) * panel_columns <= cols_;
    }
    index_t pair_columns(index_t p) const { return min(pair, cols_ - p * 16); }
    float* sums(index_t p) { return sums_ + p * panel_columns * rows_; }

    void load_sums(index_t p) {
        index_t const cols = pair_columns(p);
        widen(isa_, p_.c + m_ * p_.c_ld + n_ + p * panel_columns, p_.c_ld, rows_, cols, sums(p),
              pair);
        clear_columns(sums(p), rows_, cols, pair);
    }
    void store_sums(index_t p) {
        narrow(isa_, sums(p), pair, rows_, pair_columns(p),
               p_.c + m_ * p_.c_ld + n_ + p * panel_columns, p_.c_ld);
    }
    static void clear_columns(float* rows, index_t count, index_t first, index_t width) {
        for (index_t r = 0; r < count; ++r)
            for (index_t j = first; j < width; ++j) rows[r * width + j] = 0;
    }
    void pack_left(index_t k, index_t depth) {
        if (p_.left == Left::rows)
            widen(isa_, p_.a + m_ * p_.a_ld + k, p_.a_ld, rows_, depth, left_, size_.left_row());
        else
            widen(isa_, p_.a + k * p_.a_ld + m_, p_.a_ld, depth, rows_, left_, size_.left_column());
    }
    void multiply_pair(index_t p, index_t panels, index_t k, index_t depth) {
        if (depth == 0) return multiply<float>(right_, pair, panel_columns, p, panels, k, depth);
        index_t const n = n_ + p * panel_columns;
        if (p_.right == Right::panels)
            return multiply(p_.w + n * p_.depth + k * panel_columns, panel_columns,
                            p_.depth * panel_columns, p, panels, k, depth);
        index_t const cols = pair_columns(p);
        if (p_.right == Right::columns) {
            for (index_t i = 0; i < panels; ++i)
                transpose(isa_, p_.w + (n + i * panel_columns) * p_.w_ld + k, p_.w_ld,
                          int(min(cols - i * panel_columns, index_t(panel_columns))), depth,
                          right_ + i * depth * panel_columns);
            return multiply<float>(right_, panel_columns, depth * panel_columns, p, panels, k,
                                   depth);
        }
        index_t const width = panels * panel_columns;
        widen(isa_, p_.w + k * p_.w_ld + n, p_.w_ld, depth, cols, right_, width);
        clear_columns(right_, depth, cols, width);
        multiply<float>(right_, width, panel_columns, p, panels, k, depth);
    }
    template <class T>
    void multiply(T const* b, index_t b_k, index_t b_panel, index_t p, index_t panels, index_t k,
                  index_t depth) {
        bool const by_rows = p_.left == Left::rows;
        PanelProduct<T> product{left_,
                                by_rows ? size_.left_row() : 1,
                                by_rows ? 1 : size_.left_column(),
                                b,
                                b_k,
                                b_panel,
                                sums(p),
                                pair,
                                panel_columns,
                                rows_,
                                panels,
                                depth,
                                k > 0 || p_.add};
        if constexpr (std::same_as<C, float>) {
            if (in_place(p)) {
                product.c = p_.c + m_ * p_.c_ld + n_ + p * panel_columns;
                product.c_row = p_.c_ld;
            }
        }
        cpu::multiply(isa_, product);
    }

    Isa isa_;
    Product<A, W, C> const& p_;
    BlockSize size_;
    float *left_, *right_, *sums_;
    index_t m_ = 0, n_ = 0, rows_ = 0, cols_ = 0;
};

template <Blocked A, Blocked W, Blocked C>
void compute(Isa isa, Product<A, W, C> const& product, BlockSize size, float* scratch, index_t m,
             index_t n, index_t rows, index_t cols) {
    Block<A, W, C> block(isa, product, size, scratch);
    for (index_t i = 0; i < rows; i += size.rows)
        for (index_t j = 0; j < cols; j += size.cols)
            block.compute(m + i, n + j, min(size.rows, rows - i), min(size.cols, cols - j));
}
template <Blocked A, Blocked W, Blocked C>
SEMOE_NOINLINE void compute_on_stack(Isa isa, Product<A, W, C> const& product, index_t m, index_t n,
                                     index_t rows, index_t cols) {
    alignas(64) float scratch[std::size_t(small_block_size.floats())];
    compute(isa, product, small_block_size, scratch, m, n, rows, cols);
}

} // namespace detail

/// Scratch bytes with which a worker computes products at full speed.
constexpr std::size_t scratch_bytes() { return std::size_t(block_size.floats()) * sizeof(float); }

/// Rows [m, m + rows) and columns [n, n + cols) of a product. The scratch changes speed only: with
/// too little of it small blocks on the stack do the same sums.
/// @pre n is a multiple of 16; the scratch is aligned to 64 bytes
template <Blocked A, Blocked W, Blocked C>
void compute(Isa isa, Product<A, W, C> const& product, index_t m, index_t n, index_t rows,
             index_t cols, std::span<std::byte> scratch) {
    if (scratch.size() >= scratch_bytes())
        detail::compute(isa, product, block_size, reinterpret_cast<float*>(scratch.data()), m, n,
                        rows, cols);
    else
        detail::compute_on_stack(isa, product, m, n, rows, cols);
}

/// A product cut into tasks of one block of rows and columns each.
struct TaskGrid {
    index_t rows, cols;

    constexpr index_t column_blocks() const {
        return (cols + block_size.cols - 1) / block_size.cols;
    }
    constexpr index_t tasks() const {
        return (rows + block_size.rows - 1) / block_size.rows * column_blocks();
    }
    /// Computes task i of the product that has this grid.
    template <class A, class W, class C>
    void run(Isa isa, Product<A, W, C> const& product, index_t i,
             std::span<std::byte> scratch) const {
        index_t const m = i / column_blocks() * block_size.rows;
        index_t const n = i % column_blocks() * block_size.cols;
        compute(isa, product, m, n, min(block_size.rows, rows - m), min(block_size.cols, cols - n),
                scratch);
    }
};

/// Below this many multiply-adds one worker does a product alone: others would take longer to wake.
inline constexpr index_t single_task_work = 1 << 17;

} // namespace semoe::ops::cpu
