#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <algorithm>
#include <cmath>
#include <string>

/// How large a model fits into given memories, and how much of each a given model takes, when it is
/// trained with Adam in 16 bits beside masters (SE-MoE, arXiv 2205.10034, section 2.1). All is
/// arithmetic on the host: nothing is allocated.
namespace semoe::plan {

/// Bytes a parameter: weight and gradient in 16 bits; master and two moments in 32.
inline constexpr double bytes_in_use = 2 + 2, bytes_at_rest = 4 + 4 + 4;

/// What counts of a model of Mixture-of-Experts layers.
struct ModelSize {
    double dense = 0;  ///< parameters that every token uses
    double sparse = 0; ///< parameters of experts, of all layers together
    index_t layers = 1;
    double active = 1; ///< probability that an expert is used in a step, from above 0 to 1

    /// @throws precondition_error naming the field
    void validate() const {
        expects(dense >= 0, "ModelSize: dense is {}, must not be negative", dense);
        expects(sparse >= 0, "ModelSize: sparse is {}, must not be negative", sparse);
        expects(layers >= 1, "ModelSize: layers is {}, must be at least 1", layers);
        expects(active > 0 && active <= 1, "ModelSize: active is {}, must be above 0, at most 1",
                active);
    }
};

/// Bytes in three memories: where layers are computed, where states are cached, where they rest.
/// Without an accelerator the first two are parts of one memory.
struct MemoryBytes {
    double compute = 0, cache = 0, storage = 0;

    /// @throws precondition_error naming the field
    void validate() const {
        expects(compute >= 0, "MemoryBytes: compute is {}, must not be negative", compute);
        expects(cache >= 0, "MemoryBytes: cache is {}, must not be negative", cache);
        expects(storage >= 0, "MemoryBytes: storage is {}, must not be negative", storage);
    }
};

namespace detail {

/// All digits, since the last may be what is missing.
inline std::string whole(double bytes) {
    return bytes < 0x1p63 ? std::to_string(index_t(bytes)) : message("{}", bytes);
}

} // namespace detail

/// What a model takes, over all devices together: dense states and the active experts of one layer
/// where it is computed, all states of active experts in the cache, masters and moments of all
/// experts at rest.
/// @throws precondition_error naming the field that is out of range
inline MemoryBytes memory_needed(ModelSize const& m) {
    m.validate();
    double const hot = m.active * m.sparse;
    return {(bytes_in_use + bytes_at_rest) * m.dense + bytes_in_use * hot / double(m.layers),
            (bytes_in_use + bytes_at_rest) * hot, bytes_at_rest * m.sparse};
}

/// The most parameters that experts may have.
/// @param available  bytes of one device
/// @param m          its `sparse` is not used
/// @throws precondition_error naming a field out of range, or what dense parameters alone need
inline double largest_sparse(MemoryBytes const& available, index_t devices, ModelSize const& m) {
    m.validate();
    available.validate();
    expects(devices >= 1, "largest_sparse: {} devices, must be at least 1", devices);
    double const n = double(devices);
    double const left = available.compute * n - (bytes_in_use + bytes_at_rest) * m.dense;
    expects(left >= 0, "largest_sparse: dense parameters need {} bytes a device, {} are available",
            detail::whole(std::ceil((bytes_in_use + bytes_at_rest) * m.dense / n)),
            detail::whole(available.compute));
    return std::min({left * double(m.layers) / (bytes_in_use * m.active),
                     available.cache * n / ((bytes_in_use + bytes_at_rest) * m.active),
                     available.storage * n / bytes_at_rest});
}

/// What each device takes of its memories when a model is spread evenly.
/// @throws precondition_error naming the memory that is too small and the least that would do
inline MemoryBytes split_memory(MemoryBytes const& available, index_t devices, ModelSize const& m) {
    MemoryBytes need = memory_needed(m);
    available.validate();
    expects(devices >= 1, "split_memory: {} devices, must be at least 1", devices);
    double const n = double(devices);
    need = {need.compute / n, need.cache / n, need.storage / n};
    auto const fits = [](char const* memory, double needed, double there) {
        expects(needed <= there, "split_memory: {} needs at least {} bytes a device, {} are there",
                memory, detail::whole(std::ceil(needed)), detail::whole(there));
    };
    fits("compute", need.compute, available.compute);
    fits("cache", need.cache, available.cache);
    fits("storage", need.storage, available.storage);
    return need;
}

} // namespace semoe::plan
