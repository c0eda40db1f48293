#pragma once

#include "baselines/baseline.hpp"

namespace bench {

/// Three plain loops on one thread.
template <class T>
class NaiveProducts {
public:
    static constexpr bool trains = false;

    explicit NaiveProducts(std::vector<LayerWeights<T>> const& layers)
      : layers_(layers) {}

    char const* name() const { return "naive"; }
    bool takes(index_t tokens) const { return tokens <= 4; }
    void prepare(index_t) {}
    void gate_up(index_t layer, index_t expert, index_t m, T const* in, float* out) const {
        multiply(in, m, weights(layer, expert).gate_up(), out);
    }
    void down(index_t layer, index_t expert, index_t m, T const* in, float* out) const {
        multiply(in, m, weights(layer, expert).down, out);
    }

private:
    ExpertWeights<T> const& weights(index_t layer, index_t expert) const {
        return layers_[std::size_t(layer)][std::size_t(expert)];
    }
    static void multiply(T const* in, index_t m, Matrix<T const> w, float* out) {
        for (index_t i = 0; i < m; ++i)
            for (index_t n = 0; n < w.rows; ++n) {
                float sum = 0;
                for (index_t k = 0; k < w.cols; ++k)
                    sum += float(in[i * w.cols + k]) * float(w(n, k));
                out[i * w.rows + n] = sum;
            }
    }

    std::vector<LayerWeights<T>> layers_;
};

} // namespace bench
