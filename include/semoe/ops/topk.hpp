#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/types.hpp"

namespace semoe::ops {

/// The order of every choice: the larger key first, a NaN after all numbers, equal keys by the
/// lower id. No two ids are equal, so the order is the same wherever it is computed.
template <class Value, class Id>
SEMOE_HD constexpr bool ranks_before(Value key_a, Id a, Value key_b, Id b) {
    if (key_a > key_b) return true;
    if (key_a < key_b) return false;
    bool const nan_a = key_a != key_a, nan_b = key_b != key_b;
    return nan_a == nan_b ? a < b : nan_b;
}

namespace detail {
/// Restores the heap below `at`, whose root ranks last.
template <class Key, class Id>
SEMOE_HD void sift_down(Key const& key, Id* heap, index_t at, index_t size) {
    Id const moving = heap[at];
    auto const moving_key = key(moving);
    for (index_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
        auto child_key = key(heap[child]);
        if (child + 1 < size) {
            auto const right_key = key(heap[child + 1]);
            if (ranks_before(child_key, heap[child], right_key, heap[child + 1])) {
                ++child;
                child_key = right_key;
            }
        }
        if (!ranks_before(moving_key, moving, child_key, heap[child])) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}
} // namespace detail

/// The k best of n candidates in the order of ranks_before, best first. For use within functors:
/// it runs on one thread and needs no memory but its output.
/// @param key  key(id) gives a number; called n times, and O(log k) times for every candidate that
///             is better than k of those before it
/// @param ids  k elements, overwritten: of type expert_id or index_t
/// @pre 0 <= k <= n
template <class Key, class Id>
SEMOE_HD void select_topk(Key const& key, index_t n, index_t k, Id* ids) {
    if (k <= 0) return;
    for (index_t i = 0; i < k; ++i) ids[i] = Id(i);
    for (index_t i = k / 2; i-- > 0;) detail::sift_down(key, ids, i, k);
    auto last_key = key(ids[0]);
    for (index_t i = k; i < n; ++i) {
        auto const candidate = key(Id(i));
        if (!ranks_before(candidate, Id(i), last_key, ids[0])) continue;
        ids[0] = Id(i);
        detail::sift_down(key, ids, 0, k);
        last_key = key(ids[0]);
    }
    for (index_t size = k - 1; size > 0; --size) {
        Id const worst = ids[0];
        ids[0] = ids[size];
        ids[size] = worst;
        detail::sift_down(key, ids, 0, size);
    }
}

/// A row of values as keys: select_topk(RowKey<float>{row}, n, k, ids).
template <class T>
struct RowKey {
    T const* values;
    SEMOE_HD T operator()(index_t i) const { return values[i]; }
};

} // namespace semoe::ops
