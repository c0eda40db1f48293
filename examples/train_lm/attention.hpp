#pragma once

// Causal self-attention with rotary positions. A task is one head of one window; its products run
// on the library's operations, and take no keys beyond the block of their queries.

#include "dense.hpp"

#include <algorithm>
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
                table_[std::size_t(p * 2 * half_ + i)] = float(std::cos(angle));
                table_[std::size_t((p * 2 + 1) * half_ + i)] = float(std::sin(angle));
            }
    }
    /// Turns one head's row in place and scales it; `sign` -1 turns back, which is the gradient.
    SEMOE_INLINE void turn(Element* row, index_t position, float sign, float scale) const {
        float const* const cosines = table_.data() + position * 2 * half_;
        float const* const sines = cosines + half_;
        if (half_ % 16 == 0)
            for (index_t i = 0; i < half_; i += 16)
                turn<16>(row + i, cosines + i, sines + i, sign, scale);
        else
            for (index_t i = 0; i < half_; ++i)
                turn<1>(row + i, cosines + i, sines + i, sign, scale);
    }

private:
    template <int N>
    SEMOE_INLINE void turn(Element* row, float const* cosines, float const* sines, float sign,
                           float scale) const {
        Element first[N], second[N];
        for (int j = 0; j < N; ++j) {
            float const a = semoe::convert<float>(row[j]) * scale;
            float const b = semoe::convert<float>(row[half_ + j]) * scale;
            first[j] = semoe::convert<Element>(a * cosines[j] - b * sign * sines[j]);
            second[j] = semoe::convert<Element>(a * sign * sines[j] + b * cosines[j]);
        }
        for (int j = 0; j < N; ++j) row[j] = first[j], row[half_ + j] = second[j];
    }
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

    Parameter<Element>& qkv() { return qkv_.w; }
    Parameter<Element>& out() { return out_.w; }

    /// @param x  [T,H], T a multiple of the window
    void forward(Backend& b, ConstRows x, Rows y) {
        auto const all = projected_.matrix(x.rows, 3 * hidden_);
        qkv_.forward(b, x, all);
        for_rows(b, x.rows, Turn{&rotary_, all, heads_, window_, 1});
        b.parallel_tasks(x.rows / window_ * heads_, ForwardTask{this, &b, x.rows});
        out_.forward(b, mixed_.matrix(x.rows, hidden_), y);
    }
    /// dx is overwritten.
    void backward(Backend& b, ConstRows x, ConstRows dy, Rows dx) {
        auto const d_all = d_projected_.matrix(x.rows, 3 * hidden_);
        out_.backward(b, mixed_.matrix(x.rows, hidden_), dy, d_mixed_.matrix(x.rows, hidden_));
        b.parallel_tasks(x.rows / window_ * heads_, BackwardTask{this, &b, x.rows});
        for_rows(b, x.rows, Turn{&rotary_, d_all, heads_, window_, -1});
        qkv_.backward(b, x, d_all, dx);
    }

private:
    /// Queries that are taken at once, and keys.
    static constexpr index_t block = 64;

    /// Rotates queries and keys of one token; queries by 1 / sqrt(head) as well.
    struct Turn {
        Rotary const* rotary;
        Rows qkv;
        index_t heads, window;
        float sign;
        SEMOE_INLINE void operator()(index_t t) const {
            index_t const head = qkv.cols / 3 / heads;
            float const scale = 1 / std::sqrt(float(head));
            for (index_t i = 0; i < 2 * heads; ++i)
                rotary->turn(qkv.row(t) + i * head, t % window, sign, i < heads ? scale : 1);
        }
    };
    /// Query, key, value and output of a head, and its window's weights.
    struct Head {
        Rows q, k, v, o;
        Matrix p;
        Head(Attention& a, Element* qkv, Element* mixed, float* weights, index_t tokens,
             index_t i) {
            index_t const head = a.hidden_ / a.heads_, first = i / a.heads_ * a.window_;
            index_t const column = i % a.heads_ * head;
            auto const all = Rows{qkv, tokens, 3 * a.hidden_}.row_range(first, a.window_);
            q = all.col_range(column, head);
            k = all.col_range(a.hidden_ + column, head);
            v = all.col_range(2 * a.hidden_ + column, head);
            o = Rows{mixed, tokens, a.hidden_}.row_range(first, a.window_).col_range(column, head);
            p = {weights + i * a.window_ * a.window_, a.window_, a.window_};
        }
    };
    /// Scores of one query become weights; keys after it get none.
    struct Softmax {
        Matrix p; // rows are queries from `first` on
        index_t first;
        SEMOE_INLINE void operator()(index_t r) const {
            float* const row = p.row(r);
            index_t const seen = first + r + 1;
            for (index_t j = seen; j < p.cols; ++j) row[j] = -1e30f;
            float most[16], sum[16] = {}, top = -1e30f, total = 0;
            for (float& m : most) m = -1e30f;
            index_t const whole = p.cols / 16 * 16;
            for (index_t c = 0; c < whole; c += 16)
                for (index_t j = 0; j < 16; ++j)
                    most[j] = row[c + j] > most[j] ? row[c + j] : most[j];
            for (index_t j = whole; j < p.cols; ++j) top = std::max(top, row[j]);
            for (float const m : most) top = std::max(top, m);
            for (index_t c = 0; c < whole; c += 16)
                for (index_t j = 0; j < 16; ++j) {
                    row[c + j] = semoe::exp(row[c + j] - top);
                    sum[j] += row[c + j];
                }
            for (index_t j = whole; j < p.cols; ++j) total += row[j] = semoe::exp(row[j] - top);
            for (float const s : sum) total += s;
            float const scale = 1 / total;
            for (index_t c = 0; c < whole; c += 16)
                for (index_t j = 0; j < 16; ++j) row[c + j] *= scale;
            for (index_t j = whole; j < p.cols; ++j) row[j] *= scale;
        }
    };
    /// The gradient of a query's weights becomes that of its scores.
    struct SoftmaxBackward {
        ConstMatrix p;
        Matrix dp;
        SEMOE_INLINE void operator()(index_t r) const {
            float const* const w = p.row(r);
            float* const d = dp.row(r);
            float sum[16] = {}, dot = 0;
            index_t const whole = p.cols / 16 * 16;
            for (index_t c = 0; c < whole; c += 16)
                for (index_t j = 0; j < 16; ++j) sum[j] += w[c + j] * d[c + j];
            for (index_t j = whole; j < p.cols; ++j) dot += w[j] * d[j];
            for (float const s : sum) dot += s;
            for (index_t c = 0; c < whole; c += 16)
                for (index_t j = c; j < c + 16; ++j) d[j] = w[j] * (d[j] - dot);
            for (index_t j = whole; j < p.cols; ++j) d[j] = w[j] * (d[j] - dot);
        }
    };
    struct ForwardTask {
        Attention* a;
        Backend* b;
        index_t tokens;
        void operator()(index_t i, std::span<std::byte>) const {
            Head const h(*a, a->projected_.data(), a->mixed_.data(), a->weights_.data(), tokens, i);
            for (index_t first = 0; first < h.p.rows; first += block) {
                index_t const n = std::min(block, h.p.rows - first), seen = first + n;
                auto const p = h.p.row_range(first, n).col_range(0, seen);
                semoe::ops::gemm_nt(*b, h.q.row_range(first, n), h.k.row_range(0, seen), p);
                for_rows(*b, n, Softmax{p, first});
                semoe::ops::gemm_nn(*b, p, h.v.row_range(0, seen), h.o.row_range(first, n));
            }
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
            index_t const all = h.p.rows;
            for (index_t first = 0; first < all; first += block) {
                index_t const n = std::min(block, all - first), seen = first + n;
                auto const p = h.p.row_range(first, n).col_range(0, seen);
                auto const dp = d.p.row_range(first, n).col_range(0, seen);
                semoe::ops::gemm_nt(*b, d.o.row_range(first, n), h.v.row_range(0, seen), dp);
                for_rows(*b, n, SoftmaxBackward{p, dp});
                semoe::ops::gemm_nn(*b, dp, h.k.row_range(0, seen), d.q.row_range(first, n));
            }
            for (index_t first = 0; first < all; first += block) { // keys, and who sees them
                index_t const n = std::min(block, all - first), later = all - first;
                auto const seen_by = [&](Matrix m) {
                    return m.row_range(first, later).col_range(first, n);
                };
                semoe::ops::gemm_tn(*b, seen_by(h.p), d.o.row_range(first, later),
                                    d.v.row_range(first, n));
                semoe::ops::gemm_tn(*b, seen_by(d.p), h.q.row_range(first, later),
                                    d.k.row_range(first, n));
            }
        }
    };

    Linear qkv_, out_;
    index_t hidden_, heads_, window_;
    Rotary rotary_;
    semoe::Buffer<Element, Backend> projected_, mixed_, d_projected_, d_mixed_;
    semoe::Buffer<float, Backend> weights_, d_weights_; // [windows*heads, window, window]
};

} // namespace train_lm
