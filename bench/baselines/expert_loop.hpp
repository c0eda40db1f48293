#pragma once

#include "baselines/baseline.hpp"
#include "baselines/memory.hpp"
#include "semoe/core/math.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace bench {

/// The loop around an expert's products: gather the rows, gate with SiLU, add to the tokens.
///
/// Products has name(), takes(tokens), prepare(rows), and, with m rows of T in and of float out,
/// none of them padded:
///     gate_up(layer, expert, m, in [m,H], out [m,2I])
///     down(layer, expert, m, in [m,I], out [m,H])
/// Where Products::trains also their backward, and the gradients of the weights:
///     gate_up_backward(layer, expert, m, d_out [m,2I], d_in [m,H])
///     down_backward(layer, expert, m, d_out [m,H], d_in [m,I])
///     gradient(m, d_out [m,N], N, in [m,K], K, out [N,K])
template <class T, class Products>
class ExpertLoop final : public Baseline<T> {
public:
    ExpertLoop(Shape const& shape, BaselineOptions const& options, Products products)
      : H_(shape.hidden)
      , I_(shape.intermediate)
      , threads_(options.threads)
      , training_(options.training)
      , products_(std::move(products))
      , rows_(std::size_t(shape.num_experts)) {
        auto const m = std::size_t(options.max_tokens), H = std::size_t(H_), I = std::size_t(I_);
        std::size_t const saved = training_ ? m * std::size_t(shape.top_k) : m;
        in_.resize(m * H);
        gated_.resize(m * I);
        sum_.resize(m * H);
        pre_.resize(saved * 2 * I);
        out_.resize(saved * H);
        for (auto& rows : rows_) rows.reserve(m);
        if (!training_) return;
        d_out_.resize(m * H);
        d_pre_.resize(m * 2 * I);
        d_gated_.resize(m * I);
        d_in_.resize(m * H);
        d_weights_.resize(saved);
        gradients_.resize(rows_.size() * 3 * H * I);
    }

    char const* name() const override { return products_.name(); }
    bool takes(index_t tokens) const override { return products_.takes(tokens); }
    void prepare(Matrix<expert_id const> ids) override {
        group(ids);
        for (auto const& rows : rows_)
            if (!rows.empty()) products_.prepare(index_t(rows.size()));
    }

    void forward(index_t layer, Batch<T> const& batch) override {
        group(batch.ids);
        clear_sum(batch.x.rows);
        for_each_expert([&](index_t e, Row const* rows, index_t m, index_t saved) {
            float* const pre = &pre_[std::size_t(saved * 2 * I_)];
            float* const out = &out_[std::size_t(saved * H_)];
            gather(batch.x, rows, m);
            products_.gate_up(layer, e, m, in_.data(), pre);
            gate(pre, m);
            products_.down(layer, e, m, gated_.data(), out);
            add_to_sum(rows, m, out, [&](Row row) { return batch.weights(row.token, row.choice); });
        });
        write_sum(batch.y);
    }

    void backward(index_t layer, Batch<T> const& batch, Matrix<T const> dy, Matrix<T> dx) override {
        if constexpr (Products::trains) {
            clear_sum(batch.x.rows);
            for_each_expert([&](index_t e, Row const* rows, index_t m, index_t saved) {
                float const* const pre = &pre_[std::size_t(saved * 2 * I_)];
                gather(batch.x, rows, m);
                gate(pre, m);
                gather_gradient(batch.weights, dy, rows, m, &out_[std::size_t(saved * H_)]);
                products_.down_backward(layer, e, m, d_out_.data(), d_gated_.data());
                products_.gradient(m, d_out_.data(), H_, gated_.data(), I_,
                                   gradient(e) + 2 * I_ * H_);
                gate_backward(pre, m);
                products_.gate_up_backward(layer, e, m, d_pre_.data(), d_in_.data());
                products_.gradient(m, d_pre_.data(), 2 * I_, in_.data(), H_, gradient(e));
                add_to_sum(rows, m, d_in_.data(), [](Row) { return 1.0f; });
            });
            write_sum(dx);
        }
    }
    ExpertWeights<float> gradients(index_t expert) const override {
        float const* const g = gradients_.data() + expert * 3 * H_ * I_;
        return {{g, I_, H_}, {g + I_ * H_, I_, H_}, {g + 2 * I_ * H_, H_, I_}};
    }

private:
    struct Row {
        index_t token, choice;
    };

    /// f(i) for i in [0, n), on all threads where that pays.
    template <class F>
    void each(index_t n, F const& f) const {
#pragma omp parallel for num_threads(threads_) if (n > 8)
        for (index_t i = 0; i < n; ++i) f(i);
    }
    /// f(expert, rows, how many, where its saved rows begin)
    template <class F>
    void for_each_expert(F const& f) const {
        index_t saved = 0;
        for (std::size_t e = 0; e < rows_.size(); ++e) {
            index_t const m = index_t(rows_[e].size());
            if (m == 0) continue;
            f(index_t(e), rows_[e].data(), m, saved);
            if (training_) saved += m;
        }
    }
    float* gradient(index_t expert) { return gradients_.data() + expert * 3 * H_ * I_; }

    void group(Matrix<expert_id const> ids) {
        for (auto& rows : rows_) rows.clear();
        for (index_t t = 0; t < ids.rows; ++t)
            for (index_t k = 0; k < ids.cols; ++k)
                if (ids(t, k) >= 0) rows_[std::size_t(ids(t, k))].push_back({t, k});
    }
    void gather(Matrix<T const> x, Row const* rows, index_t m) {
        each(m, [&](index_t i) {
            std::memcpy(&in_[std::size_t(i * H_)], x.row(rows[i].token),
                        std::size_t(H_) * sizeof(T));
        });
    }
    /// d_out = weight * dy, and the gradients of the weights.
    void gather_gradient(Matrix<float const> weights, Matrix<T const> dy, Row const* rows,
                         index_t m, float const* out) {
        each(m, [&](index_t i) {
            auto const [t, k] = rows[i];
            T const* const from = dy.row(t);
            T* const to = &d_out_[std::size_t(i * H_)];
            float const* const o = out + i * H_;
            float const w = weights(t, k);
            float dot = 0;
            for (index_t h = 0; h < H_; ++h) {
                to[h] = T(w * float(from[h]));
                dot += o[h] * float(from[h]);
            }
            d_weights_[std::size_t(t * weights.cols + k)] = dot;
        });
    }
    void gate(float const* pre, index_t m) {
        each(m, [&](index_t i) {
            float const* const g = pre + i * 2 * I_;
            float const* const u = g + I_;
            T* const to = &gated_[std::size_t(i * I_)];
            SEMOE_INDEPENDENT
            for (index_t j = 0; j < I_; ++j) to[j] = T(g[j] / (1.0f + semoe::exp(-g[j])) * u[j]);
        });
    }
    void gate_backward(float const* pre, index_t m) {
        each(m, [&](index_t i) {
            float const* const g = pre + i * 2 * I_;
            float const* const u = g + I_;
            float const* const d = &d_gated_[std::size_t(i * I_)];
            T* const d_g = &d_pre_[std::size_t(i * 2 * I_)];
            T* const d_u = d_g + I_;
            SEMOE_INDEPENDENT
            for (index_t j = 0; j < I_; ++j) {
                float const s = 1.0f / (1.0f + semoe::exp(-g[j]));
                d_g[j] = T(d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s)));
                d_u[j] = T(d[j] * g[j] * s);
            }
        });
    }
    void clear_sum(index_t tokens) {
        each(tokens,
             [&](index_t t) { std::fill_n(&sum_[std::size_t(t * H_)], std::size_t(H_), 0.0f); });
    }
    template <class Weight>
    void add_to_sum(Row const* rows, index_t m, float const* from, Weight const& weight) {
        each(m, [&](index_t i) {
            float const* const row = from + i * H_;
            float* const to = &sum_[std::size_t(rows[i].token * H_)];
            float const w = weight(rows[i]);
            SEMOE_INDEPENDENT
            for (index_t h = 0; h < H_; ++h) to[h] += w * row[h];
        });
    }
    void write_sum(Matrix<T> to) const {
        each(to.rows, [&](index_t t) {
            float const* const from = &sum_[std::size_t(t * H_)];
            T* const row = to.row(t);
            SEMOE_INDEPENDENT
            for (index_t h = 0; h < H_; ++h) row[h] = T(from[h]);
        });
    }

    index_t H_, I_;
    int threads_;
    bool training_;
    Products products_;
    std::vector<std::vector<Row>> rows_;
    HostVector<T> in_, gated_, d_out_, d_pre_;
    HostVector<float> pre_, out_; ///< in training of all experts, else of one
    HostVector<float> sum_, d_gated_, d_in_, d_weights_, gradients_;
};

} // namespace bench
