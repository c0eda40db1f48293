#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

namespace semoe::ops {

namespace detail {
/// Larger key first, then the lower id: no two elements are equal.
template <class Key>
SEMOE_HD bool ranks_before(Key const& key, expert_id a, expert_id b) {
    auto const x = key(a), y = key(b);
    return x > y || (x == y && a < b);
}
/// Restores the heap below `at`, whose root ranks last.
template <class Key>
SEMOE_HD void sift_down(Key const& key, expert_id* heap, index_t at, index_t size) {
    expert_id const moving = heap[at];
    for (index_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
        if (child + 1 < size && ranks_before(key, heap[child], heap[child + 1])) ++child;
        if (!ranks_before(key, moving, heap[child])) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}
} // namespace detail

/// The k best of n candidates, best first; equal keys go to the lower id. For use within functors:
/// it runs on one thread and needs no memory but its output. NaN keys make the choice arbitrary,
/// though still k distinct ids.
/// @param key  key(expert_id) gives a comparable value; called O(n log k) times
/// @param ids  k elements, overwritten
/// @pre 0 <= k <= n
template <class Key>
SEMOE_HD void select_topk(Key const& key, index_t n, index_t k, expert_id* ids) {
    if (k <= 0) return;
    for (index_t i = 0; i < k; ++i) ids[i] = expert_id(i);
    for (index_t i = k / 2; i-- > 0;) detail::sift_down(key, ids, i, k);
    for (index_t e = k; e < n; ++e) {
        if (!detail::ranks_before(key, expert_id(e), ids[0])) continue;
        ids[0] = expert_id(e);
        detail::sift_down(key, ids, 0, k);
    }
    for (index_t last = k - 1; last > 0; --last) {
        expert_id const worst = ids[0];
        ids[0] = ids[last];
        ids[last] = worst;
        detail::sift_down(key, ids, 0, last);
    }
}

/// A row of values as keys: select_topk(RowKey<float>{row}, n, k, ids).
template <class T>
struct RowKey {
    T const* values;
    SEMOE_HD T operator()(expert_id e) const { return values[e]; }
};

} // namespace semoe::ops
