#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace semoe::checkpoint {

/// Where a matrix lies in a file that holds several in one tensor: all experts' in slices, gate's
/// and up's rows together, or the other way round. As published models of E experts have them:
///
///     // up_proj [I, H] of expert 3 in [E, 2I, H]; with .transposed = true in [E, H, 2I]
///     {.name = "experts.gate_up_proj", .slice = 3, .slices = E, .part = 1, .parts = 2}
///     // down_proj [H, I] in [E, I, H]
///     {.name = "experts.down_proj", .slice = 3, .slices = E, .transposed = true}
struct TensorPart {
    std::string name;
    index_t slice = 0, slices = 0; ///< which of the first dimension, and its size; 0: it has none
    index_t part = 0, parts = 1;   ///< which of as many equal parts of a slice's rows
    bool interleaved = false;      ///< row r of the part is the slice's row r * parts + part
    bool transposed = false;       ///< the slice's columns are its rows
};

/// Elements of a tensor as rows: (r, c) is number first + r * row_step + c * column_step.
struct ElementRows {
    index_t first, rows, cols, row_step, column_step;
};

namespace detail {

inline void expect_part(TensorPart const& p, index_t rows, index_t cols) {
    expects(p.slices == 0 ? p.slice == 0 : 0 <= p.slice && p.slice < p.slices,
            "checkpoint::TensorPart '{}': slice is {}, of {}", p.name, p.slice, p.slices);
    expects(0 <= p.part && p.part < p.parts, "checkpoint::TensorPart '{}': part is {}, of {}",
            p.name, p.part, p.parts);
    index_t elements = rows;
    bool fits = true;
    for (index_t const n : {p.parts, std::max<index_t>(cols, 1), std::max<index_t>(p.slices, 1)})
        fits = !__builtin_mul_overflow(elements, n, &elements) && fits;
    expects(fits, "checkpoint::TensorPart '{}': {} slices of {} parts of [{},{}] are too many",
            p.name, p.slices, p.parts, rows, cols);
}
/// The tensor that has such parts of rows x cols, which are a vector's elements if cols is 0.
inline std::vector<index_t> shape_of(TensorPart const& p, index_t rows, index_t cols) {
    std::vector<index_t> shape;
    if (p.slices > 0) shape.push_back(p.slices);
    index_t const all = rows * p.parts;
    if (p.transposed && cols > 0) shape.push_back(cols);
    shape.push_back(all);
    if (!p.transposed && cols > 0) shape.push_back(cols);
    return shape;
}
inline ElementRows elements_of(TensorPart const& p, index_t rows, index_t cols) {
    index_t const all = rows * p.parts;
    index_t const first = p.interleaved ? p.part : p.part * rows;
    index_t const step = p.interleaved ? p.parts : 1;
    if (cols == 0) return {p.slice * all + first, 1, rows, 0, step};
    index_t const slice = p.slice * all * cols;
    if (p.transposed) return {slice + first, rows, cols, step, all};
    return {slice + first * cols, rows, cols, step * cols, 1};
}

} // namespace detail
} // namespace semoe::checkpoint
