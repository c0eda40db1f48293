#pragma once

#include "semoe/core/types.hpp"

#include <cstddef>
#include <limits>
#include <span>

namespace semoe::comm::detail {

/// The sum of counts that are not negative; the largest number where it would be larger.
inline index_t sum_of_rows(std::span<index_t const> counts) {
    constexpr index_t most = std::numeric_limits<index_t>::max();
    index_t sum = 0;
    for (index_t n : counts) sum = n > most - sum ? most : sum + n;
    return sum;
}
/// Whether memory of so many bytes holds them.
inline bool rows_fit(index_t rows, std::size_t row_bytes, index_t bytes) {
    return row_bytes == 0 || rows <= bytes / index_t(row_bytes);
}

} // namespace semoe::comm::detail
