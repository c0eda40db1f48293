#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/types.hpp"
#include "semoe/ops/vectorised.hpp"

#include <limits>

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

/// A row of values as keys: select_topk(RowKey<float>{row}, n, k, ids, keys).
template <class T>
struct RowKey {
    T const* values;
    SEMOE_HD SEMOE_INLINE T operator()(index_t i) const { return values[i]; }
};

namespace detail {
/// Ids and their keys as a heap, whose root ranks last.
template <class Value, class Id>
struct Heap {
    Id* ids;
    Value* keys;

    SEMOE_HD bool before(index_t i, index_t j) const {
        return ranks_before(keys[i], ids[i], keys[j], ids[j]);
    }
    SEMOE_HD void swap(index_t i, index_t j) const {
        Id const id = ids[i];
        Value const key = keys[i];
        ids[i] = ids[j];
        keys[i] = keys[j];
        ids[j] = id;
        keys[j] = key;
    }
    /// Restores the heap below `at`.
    SEMOE_HD void sift_down(index_t at, index_t size) const {
        for (index_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
            if (child + 1 < size && before(child, child + 1)) ++child;
            if (!before(at, child)) break;
            swap(at, child);
            at = child;
        }
    }
};

template <class Key, class Id, class Value>
SEMOE_HD void select_by_heap(Key const& key, index_t n, index_t k, Id* ids, Value* keys) {
    Heap<Value, Id> const heap{ids, keys};
    for (index_t i = 0; i < k; ++i) {
        ids[i] = Id(i);
        keys[i] = key(i);
    }
    for (index_t i = k / 2; i-- > 0;) heap.sift_down(i, k);
    for (index_t i = k; i < n; ++i) {
        Value const candidate = key(i);
        if (!ranks_before(candidate, Id(i), keys[0], ids[0])) continue;
        ids[0] = Id(i);
        keys[0] = candidate;
        heap.sift_down(0, k);
    }
    for (index_t size = k - 1; size > 0; --size) {
        heap.swap(0, size);
        heap.sift_down(0, size);
    }
}

/// What selects among few: no branch depends on the candidates, which a processor would guess
/// wrong again and again.
template <class Value>
struct FewBest {
    static constexpr int lanes = 16, most = 256;

    Value* values; ///< n, in an array that has room up to a multiple of 16
    index_t n, k;
    int (&ids)[lanes]; ///< k of them are written, best first

    /// ranks[j] = how many of the 16 values lie before value j: the larger, or an equal one further
    /// to the left.
    SEMOE_INLINE static void rank(Value const (&values)[lanes], int (&ranks)[lanes]) {
        for (int j = 0; j < lanes; ++j) ranks[j] = 0;
        for (int i = 0; i < lanes; ++i) {
            Value const value = values[i];
            for (int j = 0; j < lanes; ++j)
                ranks[j] += int(value > values[j]) | (int(value == values[j]) & int(i < j));
        }
    }
    /// A value that at least k of n values reach, if so many are numbers: the k-th of the largest
    /// of every 16th.
    SEMOE_INLINE Value threshold() const {
        Value largest[lanes];
        int ranks[lanes];
        for (index_t j = 0; j < lanes; ++j) largest[j] = -std::numeric_limits<Value>::infinity();
        for (index_t i = 0; i < n; i += lanes)
            for (index_t j = 0; j < lanes; ++j) largest[j] = max(values[i + j], largest[j]);
        rank(largest, ranks);
        Value found = largest[0];
        for (index_t j = 0; j < lanes; ++j) found = ranks[j] == int(k) - 1 ? largest[j] : found;
        return found;
    }
    /// @return false, with nothing done, where more than 16 values reach the threshold, or NaN
    ///         would have to be chosen
    SEMOE_INLINE bool operator()() const {
        Value const none = -std::numeric_limits<Value>::infinity();
        for (index_t i = n; i % lanes != 0; ++i) values[i] = none;
        Value const least = threshold();
        Value best[lanes + 1];
        int from[lanes + 1], found = 0;
        for (int i = 0; i < int(n); ++i) {
            best[found] = values[i];
            from[found] = i;
            found += values[i] >= least;
            if (found > lanes) return false;
        }
        if (found < k) return false;
        for (int j = found; j < lanes; ++j) best[j] = none;
        int ranks[lanes];
        Value few[lanes];
        for (int j = 0; j < lanes; ++j) few[j] = best[j];
        rank(few, ranks);
        for (int j = 0; j < found; ++j)
            if (ranks[j] < k) ids[ranks[j]] = from[j];
        return true;
    }
};
/// values[i] = key(i)
template <class Key, class Value>
struct EvaluateKeys {
    Key const& key;
    index_t n;
    Value* values;

    SEMOE_INLINE void operator()() const {
        index_t i = 0;
        for (; i + 16 <= n; i += 16) {
            Value block[16];
            for (index_t j = 0; j < 16; ++j) block[j] = key(i + j);
            for (index_t j = 0; j < 16; ++j) values[i + j] = block[j];
        }
        for (; i < n; ++i) values[i] = key(i);
    }
};
} // namespace detail

/// The k best of n candidates in the order of ranks_before, best first. For use within functors:
/// it runs on one thread and needs no memory but its output.
/// @param key   key(i) gives candidate i's number; called once for every i in [0,n), in order
/// @param ids   k elements, overwritten: of type expert_id or index_t
/// @param keys  k elements, overwritten: the keys of `ids`
/// @pre 0 <= k <= n
/// @cost O(n + c log k), where c candidates are better than k of those before them
template <class Key, class Id, class Value>
SEMOE_HD void select_topk(Key const& key, index_t n, index_t k, Id* ids, Value* keys) {
    if (k <= 0) return;
#if !SEMOE_DEVICE_CODE
    using Few = detail::FewBest<Value>;
    if (k <= Few::lanes && n >= Few::lanes && n <= Few::most) {
        Value values[Few::most];
        int best[Few::lanes];
        vectorised(detail::EvaluateKeys<Key, Value>{key, n, values});
        if (!vectorised(Few{values, n, k, best}))
            return detail::select_by_heap(RowKey<Value>{values}, n, k, ids, keys);
        for (index_t i = 0; i < k; ++i) {
            ids[i] = Id(best[i]);
            keys[i] = values[best[i]];
        }
        return;
    }
#endif
    detail::select_by_heap(key, n, k, ids, keys);
}

} // namespace semoe::ops
