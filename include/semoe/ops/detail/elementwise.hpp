#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cost.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/cpu/kernels.hpp"
#include "semoe/ops/group.hpp"

namespace semoe::ops::detail {

// An elementwise body over rows of T has
//     using Real = accumulate_t<T>;
//     static constexpr int inputs, outputs;
//     T const* in(int i, GroupPlace at) const;   T* out(int i, GroupPlace at) const;
//     SEMOE_INLINE void compute(Real const (&x)[inputs][16], Real (&y)[outputs][16]) const;
// compute() sees 16 columns at a time, in loops of 16 over local arrays: that is what compilers
// vectorise at -O2. All of a block's inputs are read before its outputs are written, so an output
// may take the place of the input at the same position.

/// Columns of one row that one index handles.
inline constexpr index_t elementwise_segment = 256;

template <class Body>
struct GroupedElementwise {
    Body body;
    Group<std::byte const> group;
    index_t cols;
    SEMOE_HD void operator()(index_t i) const {
        using Real = typename Body::Real;
        index_t const segments = (cols + elementwise_segment - 1) / elementwise_segment;
        auto const at = group.place(i / segments);
        index_t const first = i % segments * elementwise_segment;
        index_t const last = min(first + elementwise_segment, cols);
        Real x[Body::inputs][16], y[Body::outputs][16];
        for (index_t c = first; c < last; c += 16) {
            for (int k = 0; k < Body::inputs; ++k)
                for (index_t j = 0; j < 16; ++j)
                    x[k][j] = c + j < last ? convert<Real>(body.in(k, at)[c + j]) : Real(0);
            body.compute(x, y);
            for (int k = 0; k < Body::outputs; ++k)
                for (index_t j = 0; j < 16 && c + j < last; ++j)
                    body.out(k, at)[c + j] = convert<typename Body::Element>(y[k][j]);
        }
    }
    Cost cost() const {
        double const elements = double(group.total_rows()) * double(cols);
        return {0, elements * (Body::inputs + Body::outputs) * sizeof(typename Body::Element)};
    }
};
/// The same compiled for the host's instruction set.
template <class Body>
struct HostElementwise {
    Isa isa;
    Body body;
    Group<std::byte const> group;
    index_t cols;
    void operator()(index_t i) const {
        index_t const segments = (cols + elementwise_segment - 1) / elementwise_segment;
        auto const at = group.place(i / segments);
        index_t const first = i % segments * elementwise_segment;
        cpu::with_kernels(isa, [&](auto kernels) {
            kernels.map(body, at, first, min(first + elementwise_segment, cols));
        });
    }
};

/// Applies the body to the first `cols` columns of every row of a group.
template <Backend B, class Body>
void grouped_elementwise(B& b, Group<std::byte const> const& g, index_t cols, Body const& body) {
    index_t const n = g.total_rows() * ((cols + elementwise_segment - 1) / elementwise_segment);
    if constexpr (HasWorkers<B>)
        b.parallel_for(n, HostElementwise<Body>{selected_isa(), body, g, cols});
    else
        b.parallel_for(n, GroupedElementwise<Body>{body, g, cols});
}

} // namespace semoe::ops::detail
