#pragma once

// The parts of a transformer that are no Mixture-of-Experts layer: parameters, linear maps,
// RMSNorm. All on the CPU in float; rows are tokens.

#include <semoe/semoe.hpp>

#include <cmath>
#include <string>
#include <utility>

namespace train_lm {

using semoe::index_t;
using Backend = semoe::CpuBackend;
using Matrix = semoe::MatrixView<float, semoe::HostSpace>;
using ConstMatrix = semoe::MatrixView<float const, semoe::HostSpace>;

/// A matrix with its gradient and Adam's moments.
class Parameter {
public:
    Parameter(Backend& b, std::string name, index_t rows, index_t cols)
      : name_(std::move(name))
      , rows_(rows)
      , cols_(cols)
      , value_(b, rows * cols)
      , gradient_(b, rows * cols)
      , moments_(b, 2 * rows * cols) {
        semoe::ops::fill(b, moments_.view(), 0.f);
        zero_grad(b);
    }

    std::string const& name() const { return name_; }
    Matrix value() const { return value_.matrix(rows_, cols_); }
    Matrix gradient() const { return gradient_.matrix(rows_, cols_); }
    Matrix moments() const { return moments_.matrix(2 * rows_, cols_); }

    void fill(Backend& b, float v) { semoe::ops::fill(b, value_.view(), v); }
    /// Uniform with standard deviation `deviation`.
    void randomize(std::uint64_t seed, std::uint32_t stream, float deviation) {
        semoe::RngKey const key{seed, 0, stream};
        for (index_t i = 0; i < value_.size(); ++i)
            value_.data()[i] =
                (semoe::random_uniform(key, i, 0) * 2 - 1) * deviation * std::sqrt(3.f);
    }
    void zero_grad(Backend& b) { semoe::ops::fill(b, gradient_.view(), 0.f); }
    void update(Backend& b, semoe::optim::AdamW const& optimizer, semoe::UpdateStep step) {
        optimizer.update(b,
                         semoe::ParameterBlock<float, semoe::HostSpace>{
                             value_.view(), {}, gradient_.view(), moments_.view()},
                         step);
    }
    double grad_norm_squared() const {
        double sum = 0;
        for (index_t i = 0; i < gradient_.size(); ++i)
            sum += double(gradient_.data()[i]) * double(gradient_.data()[i]);
        return sum;
    }
    template <class Visit>
    void visit(Backend& b, Visit& f) {
        f(b, name_, value());
        if (f.states) f(b, "moments." + name_, moments());
    }

private:
    std::string name_;
    index_t rows_, cols_;
    semoe::Buffer<float, Backend> value_, gradient_, moments_;
};

/// y = x w^T, and its gradients.
struct Linear {
    Parameter w; // [out,in]

    void forward(Backend& b, ConstMatrix x, Matrix y) {
        semoe::ops::gemm_nt(b, x, ConstMatrix(w.value()), y);
    }
    /// dx is overwritten.
    void backward(Backend& b, ConstMatrix x, ConstMatrix dy, Matrix dx) {
        semoe::ops::gemm_tn(b, dy, x, w.gradient(), semoe::ops::Accumulate::yes);
        semoe::ops::gemm_nn(b, dy, ConstMatrix(w.value()), dx);
    }
};

/// y = scale * x / sqrt(mean(x^2) + 1e-6), a row each.
struct RmsNorm {
    Parameter scale; // [1,H]

    struct Forward {
        ConstMatrix x;
        float const* scale;
        Matrix y;
        static float inverse_rms(float const* x, index_t n) {
            float sum[16] = {};
            for (index_t h = 0; h < n; h += 16)
                for (index_t j = 0; j < 16; ++j) sum[j] += x[h + j] * x[h + j];
            float total = 0;
            for (float v : sum) total += v;
            return 1 / std::sqrt(total / float(n) + 1e-6f);
        }
        void operator()(index_t t) const {
            float const r = inverse_rms(x.row(t), x.cols);
            for (index_t h = 0; h < x.cols; h += 16)
                for (index_t j = h; j < h + 16; ++j) y(t, j) = x(t, j) * r * scale[j];
        }
    };
    /// dx += the gradient of x.
    struct Backward {
        ConstMatrix x, dy;
        float const* scale;
        Matrix dx;
        void operator()(index_t t) const {
            float const r = Forward::inverse_rms(x.row(t), x.cols);
            float dot = 0;
            for (index_t h = 0; h < x.cols; ++h) dot += dy(t, h) * scale[h] * x(t, h);
            float const shrink = dot * r * r / float(x.cols);
            for (index_t h = 0; h < x.cols; ++h)
                dx(t, h) += r * (dy(t, h) * scale[h] - x(t, h) * shrink);
        }
    };
    /// One column an index, so that the sum over tokens has one order.
    struct ScaleGradient {
        ConstMatrix x, dy;
        float const* inverse; // [T]
        float* gradient;
        void operator()(index_t h) const {
            float sum = 0;
            for (index_t t = 0; t < x.rows; ++t) sum += dy(t, h) * x(t, h) * inverse[t];
            gradient[h] += sum;
        }
    };
    struct InverseRms {
        ConstMatrix x;
        float* inverse;
        void operator()(index_t t) const { inverse[t] = Forward::inverse_rms(x.row(t), x.cols); }
    };

    void forward(Backend& b, ConstMatrix x, Matrix y) {
        b.parallel_for(x.rows, Forward{x, scale.value().data, y});
    }
    /// @param inverse  [T], scratch
    void backward(Backend& b, ConstMatrix x, ConstMatrix dy, Matrix dx, float* inverse) {
        b.parallel_for(x.rows, InverseRms{x, inverse});
        b.parallel_for(x.cols, ScaleGradient{x, dy, inverse, scale.gradient().data});
        b.parallel_for(x.rows, Backward{x, dy, scale.value().data, dx});
    }
};

/// to += from.
struct AddRows {
    ConstMatrix from;
    Matrix to;
    void operator()(index_t t) const {
        for (index_t h = 0; h < to.cols; h += 16)
            for (index_t j = h; j < h + 16; ++j) to(t, j) += from(t, j);
    }
};

} // namespace train_lm
