#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/message.hpp"
#include "semoe/ops/detail/product.hpp"

namespace semoe::ops {

/// Rows of a matrix that one panel of LayoutId::panels_16 holds.
inline constexpr index_t panel_rows = 16;

/// Elements that the panels of an [N,K] matrix occupy, padding included.
constexpr index_t panel_elements(index_t n, index_t k) {
    return (n + panel_rows - 1) / panel_rows * panel_rows * k;
}

namespace detail {
template <class T, class Space>
struct PackPanel {
    MatrixView<T const, Space> rows;
    T* panels;
    /// One index is one k of one panel: 16 elements side by side.
    SEMOE_HD void operator()(index_t i) const {
        index_t const first = i / rows.cols * panel_rows, k = i % rows.cols;
        for (index_t j = 0; j < panel_rows; ++j)
            panels[i * panel_rows + j] = first + j < rows.rows ? rows(first + j, k) : T{};
    }
};
template <class T, class Space>
struct UnpackPanel {
    T const* panels;
    MatrixView<T, Space> rows;
    SEMOE_HD void operator()(index_t i) const {
        index_t const first = i / rows.cols * panel_rows, k = i % rows.cols;
        for (index_t j = 0; j < panel_rows && first + j < rows.rows; ++j)
            rows(first + j, k) = panels[i * panel_rows + j];
    }
};
template <class T, class Space, class P>
void expect_panels(char const* name, MatrixView<T, Space> rows, VectorView<P, Space> panels) {
    expects(panels.size == panel_elements(rows.rows, rows.cols), [&] {
        return message("{}: {} makes {} elements of panels, {} given", name, rows,
                       panel_elements(rows.rows, rows.cols), panels.size);
    });
}
} // namespace detail

/// Rows [N,K] to panels [ceil(N/16)][K][16], LayoutId::panels_16, padded with zeros: the order in
/// which a product w^T reads its weights.
/// @param rows    [N,K], backend memory
/// @param panels  panel_elements(N,K), backend memory, not overlapping rows
/// @throws precondition_error naming the sizes that do not fit
/// @sync enqueues
template <Backend B, class Rows, class T>
void pack_panels(B& b, MatrixView<Rows, space_of<B>> rows, VectorView<T, space_of<B>> panels) {
    detail::expect_panels("pack_panels", rows, panels);
    b.parallel_for(panels.size / panel_rows, detail::PackPanel<T, space_of<B>>{rows, panels.data});
}

/// Panels back to rows.
/// @param panels  panel_elements(N,K), backend memory
/// @param rows    [N,K], backend memory, overwritten
template <Backend B, class Panels, class T>
void unpack_panels(B& b, VectorView<Panels, space_of<B>> panels, MatrixView<T, space_of<B>> rows) {
    detail::expect_panels("unpack_panels", rows, panels);
    b.parallel_for(panels.size / panel_rows,
                   detail::UnpackPanel<T, space_of<B>>{panels.data, rows});
}

} // namespace semoe::ops
