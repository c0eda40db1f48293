#pragma once

// The parts of a transformer that are no Mixture-of-Experts layer: parameters, linear maps,
// RMSNorm. All on the CPU; rows are tokens. What products multiply is of type Element, sums and
// what is added up over layers are float.

#include "model.hpp"

#include <semoe/ops/cast.hpp>
#include <semoe/ops/linear.hpp>
#include <semoe/ops/reduce.hpp>
#include <semoe/ops/vectorised.hpp>

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>

namespace train_lm {

using semoe::index_t;
using Backend = semoe::CpuBackend;
template <class T>
using MatrixOf = semoe::MatrixView<T, semoe::HostSpace>;
using Matrix = MatrixOf<float>;
using ConstMatrix = MatrixOf<float const>;
using Rows = MatrixOf<Element>;
using ConstRows = MatrixOf<Element const>;

/// f(i) for every row, compiled for the processor's instruction set: f is SEMOE_INLINE and works on
/// 16 neighbours at a time.
template <class F>
struct EveryRow {
    F f;
    struct Row {
        F const& f;
        index_t i;
        SEMOE_INLINE void operator()() const { f(i); }
    };
    void operator()(index_t i) const { semoe::ops::vectorised(Row{f, i}); }
};
template <class F>
void for_rows(Backend& b, index_t rows, F const& f) {
    b.parallel_for(rows, EveryRow<F>{f});
}

template <class From, class To>
SEMOE_INLINE void convert_16(From const* from, To* to) {
    for (index_t j = 0; j < 16; ++j) to[j] = semoe::convert<To>(from[j]);
}

/// A matrix with its gradient and Adam's moments, and a master in float where it is not float.
template <class T>
class Parameter {
public:
    static constexpr bool has_master = !std::is_same_v<T, float>;

    Parameter(Backend& b, std::string name, index_t rows, index_t cols)
      : name_(std::move(name))
      , rows_(rows)
      , cols_(cols)
      , value_(b, rows * cols)
      , master_(b, has_master ? rows * cols : 0)
      , gradient_(b, rows * cols)
      , moments_(b, 2 * rows * cols)
      , sums_(b, semoe::ops::sum_squares_scratch(rows * cols) + 1) {
        semoe::ops::fill(b, moments_.view(), 0.f);
        zero_grad(b);
    }

    std::string const& name() const { return name_; }
    MatrixOf<T> value() const { return value_.matrix(rows_, cols_); }
    Matrix gradient() const { return gradient_.matrix(rows_, cols_); }

    void fill(Backend& b, float v) {
        set(b, [=](index_t) { return v; });
    }
    /// Uniform with standard deviation `deviation`.
    void randomize(Backend& b, std::uint64_t seed, std::uint32_t stream, float deviation) {
        semoe::RngKey const key{seed, 0, stream};
        set(b, [=](index_t i) {
            return (semoe::random_uniform(key, i, 0) * 2 - 1) * deviation * std::sqrt(3.f);
        });
    }
    void zero_grad(Backend& b) { semoe::ops::fill(b, gradient_.view(), 0.f); }
    void update(Backend& b, semoe::optim::AdamW const& optimizer, semoe::UpdateStep step) {
        optimizer.update(b,
                         semoe::ParameterBlock<T, semoe::HostSpace>{
                             value_.view(), master_.view(), gradient_.view(), moments_.view()},
                         step);
    }
    double grad_norm_squared(Backend& b) const {
        double* const sum = sums_.data() + sums_.size() - 1;
        semoe::ops::sum_squares(b, gradient_.view(), sums_.view(), sum);
        return *sum;
    }
    template <class Visit>
    void visit(Backend& b, Visit& f) {
        f(b, name_, value());
        if (!f.states) return;
        f(b, "moments." + name_, moments_.matrix(2 * rows_, cols_));
        if (has_master) f(b, "master." + name_, master_.matrix(rows_, cols_));
    }

private:
    template <class F>
    void set(Backend& b, F const& value) {
        auto& floats = [&]() -> auto& {
            if constexpr (has_master)
                return master_;
            else
                return value_;
        }
        ();
        for (index_t i = 0; i < floats.size(); ++i) floats.data()[i] = value(i);
        if constexpr (has_master) semoe::ops::cast(b, master_.view(), value_.view());
    }

    std::string name_;
    index_t rows_, cols_;
    semoe::Buffer<T, Backend> value_;
    semoe::Buffer<float, Backend> master_, gradient_, moments_;
    semoe::Buffer<double, Backend> sums_;
};

/// y = x w^T, and its gradients.
struct Linear {
    Parameter<Element> w; // [out,in]

    void forward(Backend& b, ConstRows x, Rows y) { semoe::ops::linear(b, x, w.value(), y); }
    /// dx is overwritten.
    void backward(Backend& b, ConstRows x, ConstRows dy, Rows dx) {
        semoe::ops::linear_backward_weights(b, dy, x, w.gradient(), semoe::ops::Accumulate::yes);
        semoe::ops::linear_backward_input(b, dy, w.value(), dx);
    }
};

/// y = scale * x / sqrt(mean(x^2) + 1e-6), a row each.
struct RmsNorm {
    Parameter<float> scale; // [1,H]

    struct InverseRms {
        ConstMatrix x;
        float* inverse; // [T]
        SEMOE_INLINE void operator()(index_t t) const {
            float const* const row = x.row(t);
            float sum[16] = {}, total = 0;
            for (index_t h = 0; h < x.cols; h += 16)
                for (index_t j = 0; j < 16; ++j) sum[j] += row[h + j] * row[h + j];
            for (float const v : sum) total += v;
            inverse[t] = 1 / std::sqrt(total / float(x.cols) + 1e-6f);
        }
    };
    template <class T>
    struct Forward {
        ConstMatrix x;
        float const *inverse, *scale;
        MatrixOf<T> y;
        SEMOE_INLINE void operator()(index_t t) const {
            float const* const row = x.row(t);
            float const r = inverse[t];
            float out[16];
            for (index_t h = 0; h < x.cols; h += 16) {
                for (index_t j = 0; j < 16; ++j) out[j] = row[h + j] * r * scale[h + j];
                convert_16(out, y.row(t) + h);
            }
        }
    };
    /// dx += the gradient of x.
    template <class T>
    struct Backward {
        ConstMatrix x;
        MatrixOf<T const> dy;
        float const *inverse, *scale;
        Matrix dx;
        SEMOE_INLINE void operator()(index_t t) const {
            float const r = inverse[t];
            float d[16], sum[16] = {}, dot = 0;
            for (index_t h = 0; h < x.cols; h += 16) {
                convert_16(dy.row(t) + h, d);
                for (index_t j = 0; j < 16; ++j) sum[j] += d[j] * scale[h + j] * x.row(t)[h + j];
            }
            for (float const v : sum) dot += v;
            float const shrink = dot * r * r / float(x.cols);
            for (index_t h = 0; h < x.cols; h += 16) {
                float const* const from = x.row(t) + h;
                float* const to = dx.row(t) + h;
                convert_16(dy.row(t) + h, d);
                for (index_t j = 0; j < 16; ++j)
                    to[j] += r * (d[j] * scale[h + j] - from[j] * shrink);
            }
        }
    };
    /// Sixteen columns an index, so that the sum over tokens has one order.
    template <class T>
    struct ScaleGradient {
        ConstMatrix x;
        MatrixOf<T const> dy;
        float const* inverse;
        float* gradient;
        SEMOE_INLINE void operator()(index_t i) const {
            index_t const h = i * 16;
            float d[16], sum[16] = {};
            for (index_t t = 0; t < x.rows; ++t) {
                convert_16(dy.row(t) + h, d);
                for (index_t j = 0; j < 16; ++j) sum[j] += d[j] * x.row(t)[h + j] * inverse[t];
            }
            for (index_t j = 0; j < 16; ++j) gradient[h + j] += sum[j];
        }
    };

    /// @param inverse  [T], kept for backward
    template <class T>
    void forward(Backend& b, ConstMatrix x, MatrixOf<T> y, float* inverse) {
        for_rows(b, x.rows, InverseRms{x, inverse});
        for_rows(b, x.rows, Forward<T>{x, inverse, scale.value().data, y});
    }
    template <class T>
    void backward(Backend& b, ConstMatrix x, float const* inverse, MatrixOf<T> dy, Matrix dx) {
        for_rows(b, x.cols / 16, ScaleGradient<T>{x, dy, inverse, scale.gradient().data});
        for_rows(b, x.rows, Backward<T>{x, dy, inverse, scale.value().data, dx});
    }
};

/// to += from.
struct AddRows {
    ConstRows from;
    Matrix to;
    SEMOE_INLINE void operator()(index_t t) const {
        float x[16];
        for (index_t h = 0; h < to.cols; h += 16) {
            float* const row = to.row(t) + h;
            convert_16(from.row(t) + h, x);
            for (index_t j = 0; j < 16; ++j) row[j] += x[j];
        }
    }
};

} // namespace train_lm
