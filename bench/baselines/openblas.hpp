#pragma once

#include "baselines/baseline.hpp"

#include <cblas.h>

namespace bench {

/// OpenBLAS's sgemm on the weights as they lie.
class OpenBlasProducts {
public:
    OpenBlasProducts(std::vector<LayerWeights<float>> const& layers, int threads)
      : layers_(layers) {
        openblas_set_num_threads(threads);
    }

    char const* name() const { return "OpenBLAS"; }
    bool takes(index_t) const { return true; }
    void prepare(index_t) {}
    void gate_up(index_t layer, index_t expert, index_t m, float const* in, float* out) const {
        ExpertWeights<float> const& w = layers_[std::size_t(layer)][std::size_t(expert)];
        multiply(in, m, w.gate, out, 2 * w.gate.rows);
        multiply(in, m, w.up, out + w.gate.rows, 2 * w.gate.rows);
    }
    void down(index_t layer, index_t expert, index_t m, float const* in, float* out) const {
        ExpertWeights<float> const& w = layers_[std::size_t(layer)][std::size_t(expert)];
        multiply(in, m, w.down, out, w.down.rows);
    }

private:
    static void multiply(float const* in, index_t m, Matrix<float const> w, float* out,
                         index_t ld) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blasint(m), blasint(w.rows),
                    blasint(w.cols), 1.0f, in, blasint(w.cols), w.data, blasint(w.ld), 0.0f, out,
                    blasint(ld));
    }

    std::vector<LayerWeights<float>> layers_;
};

} // namespace bench
