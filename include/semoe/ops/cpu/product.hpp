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

/// An element type by what takes it to floats and back: all that surrounds it is compiled once.
struct ElementType {
    index_t size;
    bool is_float;
    void (*widen)(Isa, void const* from, index_t ld, index_t rows, index_t cols, float* to,
                  index_t to_ld);
    void (*narrow)(Isa, float const* from, index_t ld, index_t rows, index_t cols, void* to,
                   index_t to_ld);
    void (*transpose)(Isa, void const* from, index_t ld, int rows, index_t depth, float* out);
    /// The product with panels of the type at `b` in place of its own.
    void (*multiply)(Isa, PanelProduct<float> const&, void const* b);
};
template <Blocked T>
inline constexpr ElementType element_type{
    sizeof(T),
    std::same_as<T, float>,
    [](Isa isa, void const* from, index_t ld, index_t rows, index_t cols, float* to,
       index_t to_ld) { cpu::widen(isa, static_cast<T const*>(from), ld, rows, cols, to, to_ld); },
    [](Isa isa, float const* from, index_t ld, index_t rows, index_t cols, void* to,
       index_t to_ld) { cpu::narrow(isa, from, ld, rows, cols, static_cast<T*>(to), to_ld); },
    [](Isa isa, void const* from, index_t ld, int rows, index_t depth, float* out) {
        cpu::transpose(isa, static_cast<T const*>(from), ld, rows, depth, out);
    },
    [](Isa isa, PanelProduct<float> const& product, void const* b) {
        cpu::multiply(isa, product.with_panels(static_cast<T const*>(b)));
    }};

template <class Byte>
struct UntypedMatrix {
    Byte* data;
    index_t ld;
    ElementType const* type;

    Byte* at(index_t row, index_t col) const { return data + (row * ld + col) * type->size; }
};
struct UntypedProduct {
    UntypedMatrix<std::byte const> a;
    Left left;
    UntypedMatrix<std::byte const> w;
    Right right;
    UntypedMatrix<std::byte> c;
    index_t depth;
    bool add;

    template <class A, class W, class C>
    explicit UntypedProduct(Product<A, W, C> const& p)
      : a{reinterpret_cast<std::byte const*>(p.a), p.a_ld, &element_type<A>}
      , left(p.left)
      , w{reinterpret_cast<std::byte const*>(p.w), p.w_ld, &element_type<W>}
      , right(p.right)
      , c{reinterpret_cast<std::byte*>(p.c), p.c_ld, &element_type<C>}
      , depth(p.depth)
      , add(p.add) {}
};

/// One block of a product: rows [m, m + rows), columns [n, n + cols), n a multiple of 16.
class Block {
public:
    Block(Isa isa, UntypedProduct const& product, BlockSize size, float* scratch)
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
        return p_.c.type->is_float && (p + 2) * panel_columns <= cols_;
    }
    index_t pair_columns(index_t p) const { return min(pair, cols_ - p * 16); }
    float* sums(index_t p) { return sums_ + p * panel_columns * rows_; }
    std::byte* c(index_t p) const { return p_.c.at(m_, n_ + p * panel_columns); }

    void load_sums(index_t p) {
        index_t const cols = pair_columns(p);
        p_.c.type->widen(isa_, c(p), p_.c.ld, rows_, cols, sums(p), pair);
        clear_columns(sums(p), rows_, cols, pair);
    }
    void store_sums(index_t p) {
        p_.c.type->narrow(isa_, sums(p), pair, rows_, pair_columns(p), c(p), p_.c.ld);
    }
    static void clear_columns(float* rows, index_t count, index_t first, index_t width) {
        for (index_t r = 0; r < count; ++r)
            for (index_t j = first; j < width; ++j) rows[r * width + j] = 0;
    }
    void pack_left(index_t k, index_t depth) {
        if (p_.left == Left::rows)
            p_.a.type->widen(isa_, p_.a.at(m_, k), p_.a.ld, rows_, depth, left_, size_.left_row());
        else
            p_.a.type->widen(isa_, p_.a.at(k, m_), p_.a.ld, depth, rows_, left_,
                             size_.left_column());
    }
    /// The right panels as they are, or packed as floats.
    void multiply_pair(index_t p, index_t panels, index_t k, index_t depth) {
        PanelProduct<float> product = panel_product(p, panels, k, depth);
        index_t const n = n_ + p * panel_columns, cols = pair_columns(p);
        if (p_.right == Right::panels && depth > 0) {
            product.b_k = panel_columns;
            product.b_panel = p_.depth * panel_columns;
            return p_.w.type->multiply(
                isa_, product, p_.w.data + (n * p_.depth + k * panel_columns) * p_.w.type->size);
        }
        if (p_.right == Right::columns) {
            product.b_k = panel_columns;
            product.b_panel = depth * panel_columns;
            for (index_t i = 0; i < panels && depth > 0; ++i)
                p_.w.type->transpose(isa_, p_.w.at(n + i * panel_columns, k), p_.w.ld,
                                     int(min(cols - i * panel_columns, index_t(panel_columns))),
                                     depth, right_ + i * product.b_panel);
        } else {
            index_t const width = panels * panel_columns;
            product.b_k = width;
            product.b_panel = panel_columns;
            if (depth > 0)
                p_.w.type->widen(isa_, p_.w.at(k, n), p_.w.ld, depth, cols, right_, width);
            clear_columns(right_, depth, cols, width);
        }
        cpu::multiply(isa_, product);
    }
    PanelProduct<float> panel_product(index_t p, index_t panels, index_t k, index_t depth) {
        bool const by_rows = p_.left == Left::rows;
        PanelProduct<float> product{left_,
                                    by_rows ? size_.left_row() : 1,
                                    by_rows ? 1 : size_.left_column(),
                                    right_,
                                    0,
                                    0,
                                    sums(p),
                                    pair,
                                    panel_columns,
                                    rows_,
                                    panels,
                                    depth,
                                    k > 0 || p_.add};
        if (in_place(p)) {
            product.c = reinterpret_cast<float*>(c(p));
            product.c_row = p_.c.ld;
        }
        return product;
    }

    Isa isa_;
    UntypedProduct const& p_;
    BlockSize size_;
    float *left_, *right_, *sums_;
    index_t m_ = 0, n_ = 0, rows_ = 0, cols_ = 0;
};

inline void compute(Isa isa, UntypedProduct const& product, BlockSize size, float* scratch,
                    index_t m, index_t n, index_t rows, index_t cols) {
    Block block(isa, product, size, scratch);
    for (index_t i = 0; i < rows; i += size.rows)
        for (index_t j = 0; j < cols; j += size.cols)
            block.compute(m + i, n + j, min(size.rows, rows - i), min(size.cols, cols - j));
}
SEMOE_NOINLINE inline void compute_on_stack(Isa isa, UntypedProduct const& product, index_t m,
                                            index_t n, index_t rows, index_t cols) {
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
    detail::UntypedProduct const untyped(product);
    if (scratch.size() >= scratch_bytes())
        detail::compute(isa, untyped, block_size, reinterpret_cast<float*>(scratch.data()), m, n,
                        rows, cols);
    else
        detail::compute_on_stack(isa, untyped, m, n, rows, cols);
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
