#pragma once

#include "baselines/baseline.hpp"

#include <cblas.h>

namespace bench {

/// OpenBLAS's sgemm on the weights as they lie.
class OpenBlasProducts {
public:
    static constexpr bool trains = true;

    OpenBlasProducts(std::vector<LayerWeights<float>> const& layers, int threads)
      : layers_(layers) {
        openblas_set_num_threads(threads);
    }

    char const* name() const { return "OpenBLAS"; }
    bool takes(index_t) const { return true; }
    void prepare(index_t) {}
    void gate_up(index_t layer, index_t expert, index_t m, float const* in, float* out) const {
        multiply(in, m, weights(layer, expert).gate_up(), out);
    }
    void down(index_t layer, index_t expert, index_t m, float const* in, float* out) const {
        multiply(in, m, weights(layer, expert).down, out);
    }
    void gate_up_backward(index_t layer, index_t expert, index_t m, float const* d_out,
                          float* d_in) const {
        multiply_backward(d_out, m, weights(layer, expert).gate_up(), d_in);
    }
    void down_backward(index_t layer, index_t expert, index_t m, float const* d_out,
                       float* d_in) const {
        multiply_backward(d_out, m, weights(layer, expert).down, d_in);
    }
    void gradient(index_t m, float const* d_out, index_t n, float const* in, index_t k,
                  float* out) const {
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blasint(n), blasint(k), blasint(m),
                    1.0f, d_out, blasint(n), in, blasint(k), 0.0f, out, blasint(k));
    }

private:
    ExpertWeights<float> const& weights(index_t layer, index_t expert) const {
        return layers_[std::size_t(layer)][std::size_t(expert)];
    }
    static void multiply(float const* in, index_t m, Matrix<float const> w, float* out) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blasint(m), blasint(w.rows),
                    blasint(w.cols), 1.0f, in, blasint(w.cols), w.data, blasint(w.ld), 0.0f, out,
                    blasint(w.rows));
    }
    static void multiply_backward(float const* d_out, index_t m, Matrix<float const> w,
                                  float* d_in) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(m), blasint(w.cols),
                    blasint(w.rows), 1.0f, d_out, blasint(w.rows), w.data, blasint(w.ld), 0.0f,
                    d_in, blasint(w.cols));
    }

    std::vector<LayerWeights<float>> layers_;
};

} // namespace bench
