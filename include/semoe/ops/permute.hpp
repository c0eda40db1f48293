#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cost.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/detail/product.hpp"
#include "semoe/ops/detail/segment.hpp"

namespace semoe::ops {

namespace detail {
/// out row scatter ? index[i] : i  takes  src row scatter ? i : index[i].
template <class T, class Space>
struct MoveRows {
    MatrixView<T const, Space> src;
    VectorView<index_t const, Space> index;
    MatrixView<T, Space> out;
    bool scatter;
    SEMOE_HD void operator()(index_t i) const {
        index_t const per_row = segments_of(out.cols), begin = i % per_row * segment_length;
        index_t const n = i / per_row, end = segment_end(begin, out.cols);
        convert_run(src.row(scatter ? n : index[n]) + begin, end - begin,
                    out.row(scatter ? index[n] : n) + begin);
    }
    Cost cost() const { return {0, double(index.size) * double(out.cols) * 2 * sizeof(T)}; }
};
/// What is written beyond this is in no cache of a processor's own when it is read.
inline constexpr index_t cached_bytes = 4 << 20;

/// Copies rows by the host's kernels.
struct HostCopyRow {
    Isa isa;
    bool past; ///< the caches

    /// For rows of so many elements together.
    template <class T>
    static HostCopyRow of(index_t elements) {
        return {selected_isa(), elements * index_t(sizeof(T)) > cached_bytes};
    }
    template <class T>
    void operator()(T const* from, index_t n, T* to) const {
        cpu::copy_row(isa, reinterpret_cast<std::byte const*>(from), std::size_t(n) * sizeof(T),
                      reinterpret_cast<std::byte*>(to), past);
    }
    /// After the last row of an index.
    void finish() const {
        if (past) cpu::finish_copies();
    }
};
/// MoveRows for rows that keep their type, one row an index.
template <class T>
struct HostMoveRows {
    HostCopyRow copy;
    MoveRows<T, HostSpace> all;
    void operator()(index_t i) const {
        index_t const other = all.index[i];
        copy(all.src.row(all.scatter ? i : other), all.out.cols,
             all.out.row(all.scatter ? other : i));
        copy.finish();
    }
};

template <Backend B, class Src, class T>
void move_rows(B& b, MatrixView<Src, space_of<B>> src, VectorView<index_t const, space_of<B>> index,
               MatrixView<T, space_of<B>> out, bool scatter) {
    if (out.cols == 0) return;
    if constexpr (HasWorkers<B> && std::same_as<std::remove_const_t<Src>, T>)
        b.parallel_for(index.size, HostMoveRows<T>{HostCopyRow::of<T>(index.size * out.cols),
                                                   {src, index, out, scatter}});
    else
        b.parallel_for(index.size * segments_of(out.cols),
                       MoveRows<T, space_of<B>>{src, index, out, scatter});
}
} // namespace detail

/// out[s] = src[index[s]].
/// @param src    [N,H], backend memory
/// @param index  [S], each in [0,N), backend memory
/// @param out    [S,H], backend memory, not overlapping src
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
template <Backend B, class Src, class T>
void gather_rows(B& b, MatrixView<Src, space_of<B>> src,
                 VectorView<index_t const, space_of<B>> index, MatrixView<T, space_of<B>> out) {
    expects(src.cols == out.cols && index.size == out.rows,
            "gather_rows: src is {}, out is {}, index has {}", src, out, index.size);
    detail::move_rows(b, src, index, out, false);
}

/// out[index[s]] = src[s]; other rows of out keep what they hold.
/// @param src    [S,H], backend memory
/// @param index  [S], distinct, each in [0,N), backend memory
/// @param out    [N,H], backend memory, not overlapping src
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
template <Backend B, class Src, class T>
void scatter_rows(B& b, MatrixView<Src, space_of<B>> src,
                  VectorView<index_t const, space_of<B>> index, MatrixView<T, space_of<B>> out) {
    expects(src.cols == out.cols && index.size == src.rows,
            "scatter_rows: src is {}, out is {}, index has {}", src, out, index.size);
    detail::move_rows(b, src, index, out, true);
}

} // namespace semoe::ops
