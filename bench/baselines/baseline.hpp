#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
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

    /// [2I,H], for one product. @pre up follows gate, as it does in a layer
    Matrix<T const> gate_up() const {
        semoe::expects(up.data == gate.data + gate.rows * gate.ld && up.ld == gate.ld,
                       "bench: up_proj does not follow gate_proj");
        return {gate.data, 2 * gate.rows, gate.cols, gate.ld};
    }
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

/// Layers that share one shape.
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
    /// Of the forward before, for those made for training: gradients of x and of every expert that
    /// has rows, overwritten.
    virtual void backward(index_t layer, Batch<T> const& batch, Matrix<T const> dy,
                          Matrix<T> dx) = 0;
    /// What backward left of one expert.
    virtual ExpertWeights<float> gradients(index_t expert) const = 0;
};

/// What the baselines are made for.
struct BaselineOptions {
    int threads = 1;
    index_t max_tokens = 1;
    bool training = false;
};

/// What was found when the benchmarks were configured, for layers with these weights. For training
/// only those that have a backward.
template <class T>
std::vector<std::unique_ptr<Baseline<T>>> make_baselines(Shape const& shape,
                                                         std::vector<LayerWeights<T>> const& layers,
                                                         BaselineOptions const& options);
/// Their names.
char const* baseline_names();

/// Bytes that they take beside the layers' own.
inline double baseline_bytes(Shape const& s, int layers, double element,
                             BaselineOptions const& options) {
    double const elements = double(s.num_experts) * s.expert_elements();
    double const rows = double(options.max_tokens * s.top_k);
    // oneDNN's copies of the weights; gradients of each of two, and what forward saves.
    double bytes = layers * elements * element * (options.training ? 2 : 1);
    if (options.training)
        bytes += (element < 4 ? 1 : 2) *
                 (elements * 4 + rows * double(s.hidden + 2 * s.intermediate) * 4);
    return bytes;
}

} // namespace bench
