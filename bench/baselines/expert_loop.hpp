#pragma once

#include "baselines/baseline.hpp"
#include "semoe/core/math.hpp"

#include <cstring>
#include <utility>

namespace bench {

/// The loop around two products an expert: gather the rows, gate with SiLU, add to the tokens.
///
/// Products has name(), takes(tokens), prepare(rows), and
///     gate_up(layer, expert, rows, in [rows,H], out [rows,2I])
///     down(layer, expert, rows, in [rows,I], out [rows,H])
/// with rows of T in and of float out, none of them padded.
template <class T, class Products>
class ExpertLoop final : public Baseline<T> {
public:
    ExpertLoop(Shape const& shape, index_t max_tokens, int threads, Products products)
      : H_(shape.hidden)
      , I_(shape.intermediate)
      , threads_(threads)
      , products_(std::move(products))
      , rows_(std::size_t(shape.num_experts))
      , in_(std::size_t(max_tokens * H_))
      , gated_(std::size_t(max_tokens * I_))
      , pre_(std::size_t(max_tokens * 2 * I_))
      , out_(std::size_t(max_tokens * H_))
      , sum_(std::size_t(max_tokens * H_)) {
        for (auto& rows : rows_) rows.reserve(std::size_t(max_tokens));
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
        std::memset(sum_.data(), 0, std::size_t(batch.x.rows * H_) * sizeof(float));
        for (std::size_t e = 0; e < rows_.size(); ++e) {
            index_t const m = index_t(rows_[e].size());
            if (m == 0) continue;
            Row const* const rows = rows_[e].data();
            gather(batch.x, rows, m);
            products_.gate_up(layer, index_t(e), m, in_.data(), pre_.data());
            gate(m);
            products_.down(layer, index_t(e), m, gated_.data(), out_.data());
            scatter(batch.weights, rows, m);
        }
        finish(batch.y);
    }

private:
    struct Row {
        index_t token, choice;
    };

    void group(Matrix<expert_id const> ids) {
        for (auto& rows : rows_) rows.clear();
        for (index_t t = 0; t < ids.rows; ++t)
            for (index_t k = 0; k < ids.cols; ++k)
                if (ids(t, k) >= 0) rows_[std::size_t(ids(t, k))].push_back({t, k});
    }
    void gather(Matrix<T const> x, Row const* rows, index_t m) {
#pragma omp parallel for num_threads(threads_) if (m > 8)
        for (index_t i = 0; i < m; ++i)
            std::memcpy(&in_[std::size_t(i * H_)], x.row(rows[i].token),
                        std::size_t(H_) * sizeof(T));
    }
    void gate(index_t m) {
#pragma omp parallel for num_threads(threads_) if (m > 8)
        for (index_t i = 0; i < m; ++i) {
            float const* const g = &pre_[std::size_t(i * 2 * I_)];
            float const* const u = g + I_;
            T* const to = &gated_[std::size_t(i * I_)];
            SEMOE_INDEPENDENT
            for (index_t j = 0; j < I_; ++j) to[j] = T(g[j] / (1.0f + semoe::exp(-g[j])) * u[j]);
        }
    }
    void scatter(Matrix<float const> weights, Row const* rows, index_t m) {
#pragma omp parallel for num_threads(threads_) if (m > 8)
        for (index_t i = 0; i < m; ++i) {
            float const* const from = &out_[std::size_t(i * H_)];
            float* const to = &sum_[std::size_t(rows[i].token * H_)];
            float const w = weights(rows[i].token, rows[i].choice);
            SEMOE_INDEPENDENT
            for (index_t h = 0; h < H_; ++h) to[h] += w * from[h];
        }
    }
    void finish(Matrix<T> y) {
#pragma omp parallel for num_threads(threads_) if (y.rows > 8)
        for (index_t t = 0; t < y.rows; ++t) {
            float const* const from = &sum_[std::size_t(t * H_)];
            T* const to = y.row(t);
            SEMOE_INDEPENDENT
            for (index_t h = 0; h < H_; ++h) to[h] = T(from[h]);
        }
    }

    index_t H_, I_;
    int threads_;
    Products products_;
    std::vector<std::vector<Row>> rows_;
    std::vector<T> in_, gated_;
    std::vector<float> pre_, out_, sum_;
};

} // namespace bench
