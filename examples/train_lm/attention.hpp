#pragma once

// Causal self-attention with rotary positions. A task is one head of one window; its products run
// on the library's operations.

#include "dense.hpp"

#include <vector>

namespace train_lm {

/// sin and cos of every position and pair of a head.
class Rotary {
public:
    Rotary(index_t positions, index_t head)
      : half_(head / 2)
      , table_(std::size_t(positions * head)) {
        for (index_t p = 0; p < positions; ++p)
            for (index_t i = 0; i < half_; ++i) {
                double const angle = double(p) * std::pow(10000.0, -double(i) / double(half_));
                at(p)[i] = float(std::cos(angle));
                at(p)[half_ + i] = float(std::sin(angle));
            }
    }
    /// Turns one head's row in place; `sign` -1 turns back, which is the gradient.
    void turn(float* row, index_t position, float sign) const {
        float const* const c = table_.data() + position * 2 * half_;
        for (index_t i = 0; i < half_; ++i) {
            float const a = row[i], b = row[half_ + i], s = sign * c[half_ + i];
            row[i] = a * c[i] - b * s;
            row[half_ + i] = a * s + b * c[i];
        }
    }

private:
    float* at(index_t p) { return table_.data() + p * 2 * half_; }
    index_t half_;
    std::vector<float> table_;
};

class Attention {
public:
    Attention(Backend& b, std::string const& name, index_t width, index_t heads, index_t positions,
              index_t max_tokens)
      : qkv_{{b, name + ".qkv", 3 * width, width}}
      , out_{{b, name + ".out", width, width}}
      , hidden_(width)
      , heads_(heads)
      , window_(positions)
      , rotary_(positions, width / heads)
      , projected_(b, max_tokens * 3 * width)
      , mixed_(b, max_tokens * width)
      , d_projected_(b, max_tokens * 3 * width)
      , d_mixed_(b, max_tokens * width)
      , weights_(b, max_tokens * heads * positions)
      , d_weights_(b, max_tokens * heads * positions) {}

    Parameter& qkv() { return qkv_.w; }
    Parameter& out() { return out_.w; }

    /// @param x  [T,H], T a multiple of the window
    void forward(Backend& b, ConstMatrix x, Matrix y) {
        auto const all = projected_.matrix(x.rows, 3 * hidden_);
        qkv_.forward(b, x, all);
        b.parallel_for(x.rows, Turn{&rotary_, all, heads_, window_, 1.f});
        b.parallel_tasks(x.rows / window_ * heads_, ForwardTask{this, &b, x.rows});
        out_.forward(b, mixed_.matrix(x.rows, hidden_), y);
    }
    /// dx is overwritten.
    void backward(Backend& b, ConstMatrix x, ConstMatrix dy, Matrix dx) {
        auto const d_all = d_projected_.matrix(x.rows, 3 * hidden_);
        out_.backward(b, mixed_.matrix(x.rows, hidden_), dy, d_mixed_.matrix(x.rows, hidden_));
        b.parallel_tasks(x.rows / window_ * heads_, BackwardTask{this, &b, x.rows});
        b.parallel_for(x.rows, Turn{&rotary_, d_all, heads_, window_, -1.f});
        qkv_.backward(b, x, d_all, dx);
    }

private:
    /// Rotates queries and keys of one token.
    struct Turn {
        Rotary const* rotary;
        Matrix qkv;
        index_t heads, window;
        float sign;
        void operator()(index_t t) const {
            index_t const head = qkv.cols / 3 / heads;
            for (index_t i = 0; i < 2 * heads; ++i)
                rotary->turn(qkv.row(t) + i * head, t % window, sign);
        }
    };
    /// Views of task i: query, key, value and output of a head, and its window's weights.
    struct Head {
        Matrix q, k, v, o, p;
        float scale;
        Head(Attention& a, float* qkv, float* mixed, float* weights, index_t tokens, index_t i) {
            index_t const head = a.hidden_ / a.heads_, first = i / a.heads_ * a.window_;
            index_t const column = i % a.heads_ * head;
            auto const all = Matrix{qkv, tokens, 3 * a.hidden_}.row_range(first, a.window_);
            q = all.col_range(column, head);
            k = all.col_range(a.hidden_ + column, head);
            v = all.col_range(2 * a.hidden_ + column, head);
            o = Matrix{mixed, tokens, a.hidden_}
                    .row_range(first, a.window_)
                    .col_range(column, head);
            p = {weights + i * a.window_ * a.window_, a.window_, a.window_};
            scale = 1 / std::sqrt(float(head));
        }
    };
    struct ForwardTask {
        Attention* a;
        Backend* b;
        index_t tokens;
        void operator()(index_t i, std::span<std::byte>) const {
            Head const h(*a, a->projected_.data(), a->mixed_.data(), a->weights_.data(), tokens, i);
            semoe::ops::gemm_nt(*b, h.q, h.k, h.p);
            for (index_t r = 0; r < h.p.rows; ++r) softmax(h.p.row(r), r + 1, h.p.cols, h.scale);
            semoe::ops::gemm_nn(*b, h.p, h.v, h.o);
        }
        /// Of the first n entries, which are scaled; the others become zero.
        static void softmax(float* row, index_t n, index_t size, float scale) {
            float top = row[0], sum = 0;
            for (index_t j = 1; j < n; ++j) top = std::max(top, row[j]);
            for (index_t j = n; j < size; ++j) row[j] = -1e30f;
            for (index_t j = 0; j < size; j += 16)
                for (index_t k = j; k < j + 16; ++k) row[k] = semoe::exp((row[k] - top) * scale);
            for (index_t j = 0; j < n; ++j) sum += row[j];
            for (index_t j = 0; j < size; ++j) row[j] = j < n ? row[j] / sum : 0;
        }
    };
    struct BackwardTask {
        Attention* a;
        Backend* b;
        index_t tokens;
        void operator()(index_t i, std::span<std::byte>) const {
            Head const h(*a, a->projected_.data(), a->mixed_.data(), a->weights_.data(), tokens, i);
            Head const d(*a, a->d_projected_.data(), a->d_mixed_.data(), a->d_weights_.data(),
                         tokens, i);
            semoe::ops::gemm_tn(*b, h.p, d.o, d.v);
            semoe::ops::gemm_nt(*b, d.o, h.v, d.p);
            for (index_t r = 0; r < h.p.rows; ++r) {
                float const* const p = h.p.row(r);
                float* const dp = d.p.row(r);
                float dot = 0;
                for (index_t j = 0; j <= r; ++j) dot += p[j] * dp[j];
                for (index_t j = 0; j < h.p.cols; ++j) dp[j] = p[j] * (dp[j] - dot) * h.scale;
            }
            semoe::ops::gemm_nn(*b, d.p, h.k, d.q);
            semoe::ops::gemm_tn(*b, d.p, h.q, d.k);
        }
    };

    Linear qkv_, out_;
    index_t hidden_, heads_, window_;
    Rotary rotary_;
    semoe::Buffer<float, Backend> projected_, mixed_, d_projected_, d_mixed_;
    semoe::Buffer<float, Backend> weights_, d_weights_; // [windows*heads, window, window]
};

} // namespace train_lm
