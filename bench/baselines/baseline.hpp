#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/view.hpp"
#include "support/shapes.hpp"

#include <memory>
#include <vector>

/// What a user would write without this library: one expert after the other, two products each.
namespace bench {

using semoe::expert_id;
template <class T>
using Matrix = semoe::MatrixView<T, semoe::HostSpace>;

/// One expert's matrices, as the layer holds them.
template <class T>
struct ExpertWeights {
    Matrix<T const> gate, up; ///< [I,H]
    Matrix<T const> down;     ///< [H,I]
};
template <class T>
using LayerWeights = std::vector<ExpertWeights<T>>;

template <class T>
struct Batch {
    Matrix<T const> x;           ///< [T,H]
    Matrix<expert_id const> ids; ///< [T,K]
    Matrix<float const> weights; ///< [T,K]
    Matrix<T> y;                 ///< [T,H], overwritten
};

/// A forward of layers that share one shape.
template <class T>
class Baseline {
public:
    virtual ~Baseline() = default;
    virtual char const* name() const = 0;
    /// Whether it is worth the time that this many tokens take.
    virtual bool takes(index_t tokens) const = 0;
    /// Builds what depends on how many rows each expert gets; never timed.
    virtual void prepare(Matrix<expert_id const> ids) = 0;
    virtual void forward(index_t layer, Batch<T> const& batch) = 0;
};

/// What was found when the benchmarks were configured, for layers with these weights.
template <class T>
std::vector<std::unique_ptr<Baseline<T>>> make_baselines(Shape const& shape, index_t max_tokens,
                                                         std::vector<LayerWeights<T>> const& layers,
                                                         int threads);
/// Their names.
char const* baseline_names();

} // namespace bench
