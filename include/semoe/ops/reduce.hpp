#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/vectorised.hpp"

namespace semoe::ops {

namespace detail {
inline constexpr index_t sum_block = 8192;

/// Sixteen chains, which vector units run side by side, added up in order.
template <class T, class Space>
struct SumSquaresBlock {
    VectorView<T const, Space> v;
    double* partial;
    SEMOE_HD void operator()(index_t i) const {
        index_t const begin = i * sum_block, end = min(begin + sum_block, v.size);
        partial[i] = vectorised(Range{v, begin, end});
    }

private:
    struct Range {
        VectorView<T const, Space> v;
        index_t begin, end;
        SEMOE_HD SEMOE_INLINE double operator()() const {
            double lanes[16] = {};
            index_t j = begin;
            for (; j + 16 <= end; j += 16) {
                T const* const x = v.data + j;
                for (int l = 0; l < 16; ++l) lanes[l] += square(x[l]);
            }
            for (int l = 0; j < end; ++j, ++l) lanes[l] += square(v[j]);
            double sum = 0;
            for (double const lane : lanes) sum += lane;
            return sum;
        }
        SEMOE_HD SEMOE_INLINE static double square(T x) {
            return convert<double>(x) * convert<double>(x);
        }
    };
};
struct SumInOrder {
    double const* partial;
    index_t n;
    double* out;
    SEMOE_HD void operator()(index_t) const {
        double sum = 0;
        for (index_t i = 0; i < n; ++i) sum += partial[i];
        *out = sum;
    }
};
} // namespace detail

/// Doubles of scratch that sum_squares needs for n elements.
constexpr index_t sum_squares_scratch(index_t n) {
    return (n + detail::sum_block - 1) / detail::sum_block;
}

/// *out = sum of v[i]^2 in double, in an order that depends on n alone.
/// @param v        [n], backend memory
/// @param scratch  sum_squares_scratch(n) doubles of backend memory
/// @param out      one double in backend memory, overwritten
/// @throws precondition_error naming both sizes when the scratch is too small
/// @sync enqueues
template <Backend B, class T>
void sum_squares(B& b, VectorView<T, space_of<B>> v, VectorView<double, space_of<B>> scratch,
                 double* out) {
    index_t const blocks = sum_squares_scratch(v.size);
    expects(scratch.size >= blocks, "sum_squares: scratch holds {} doubles, {} needed",
            scratch.size, blocks);
    b.parallel_for(blocks,
                   detail::SumSquaresBlock<std::remove_const_t<T>, space_of<B>>{v, scratch.data});
    b.parallel_for(1, detail::SumInOrder{scratch.data, blocks, out});
}

} // namespace semoe::ops
