#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

namespace semoe::comm::detail {

inline constexpr int max_thread_ranks = 64;

/// out[i] = from[0][i] + from[1][i] + ..., one block of elements an index. out may be one of them.
template <class Real>
struct SumRanks {
    static constexpr index_t block = 64;

    Real const* from[max_thread_ranks] = {};
    int ranks = 0;
    Real* out = nullptr;
    index_t size = 0;

    index_t blocks() const { return (size + block - 1) / block; }

    SEMOE_HD void operator()(index_t i) const {
        index_t const begin = i * block, left = size - begin;
        if (left >= block)
            add(begin, block);
        else
            add(begin, left);
    }

private:
    SEMOE_HD void add(index_t begin, index_t count) const {
        Real sum[block];
        for (index_t j = 0; j < count; ++j) sum[j] = from[0][begin + j];
        for (int p = 1; p < ranks; ++p)
            for (index_t j = 0; j < count; ++j) sum[j] += from[p][begin + j];
        for (index_t j = 0; j < count; ++j) out[begin + j] = sum[j];
    }
};

} // namespace semoe::comm::detail
