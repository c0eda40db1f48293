#pragma once

// A decoder-only transformer over bytes whose feed-forward parts are MoE layers. The embedding is
// tied: the same matrix reads bytes in and scores bytes out.

#include "attention.hpp"
#include "dense.hpp"
#include "model.hpp"

#include <semoe/ops/worker_scratch.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace train_lm {

inline constexpr index_t vocabulary = 256;

static_assert(hidden % 16 == 0,
              "train_lm: rows are taken in sixteens: make hidden in model.hpp a multiple of 16");
static_assert(hidden % (2 * num_heads) == 0,
              "train_lm: heads share hidden and rotate pairs: make hidden in model.hpp a multiple "
              "of 2 * num_heads");

/// How a model begins.
struct Start {
    std::uint64_t seed = 1;
    bool packed_moments = false; ///< of the experts: a byte each
    bool from_tier = false;      ///< the tier's store has all blocks of an earlier process
};

/// One residual block: x += attention(norm(x)); x += moe(norm(x)). Tier is where the blocks of the
/// MoE layer lie.
template <class Tier>
class Block {
public:
    using Moe = semoe::MoeLayer<Backend, Gate, Expert, semoe::comm::Self, Tier>;

    Block(Backend& b, Tier tier, semoe::layer_id i, Start const& start, index_t max_tokens)
      : norm1_{{b, "blocks." + std::to_string(i) + ".norm1", 1, hidden}}
      , norm2_{{b, "blocks." + std::to_string(i) + ".norm2", 1, hidden}}
      , attention_(b, "blocks." + std::to_string(i) + ".attention", hidden, num_heads, window,
                   max_tokens)
      , moe_(b, make_gate(), make_expert(), semoe::comm::Self{}, tier, make_config(i, start.seed))
      , context_(moe_.make_context(max_tokens, semoe::Mode::training))
      , x_(b, max_tokens * hidden)
      , middle_(b, max_tokens * hidden)
      , normed1_(b, max_tokens * hidden)
      , normed2_(b, max_tokens * hidden)
      , part_(b, max_tokens * hidden)
      , d_part_(b, max_tokens * hidden)
      , inverse1_(b, max_tokens)
      , inverse2_(b, max_tokens) {
        norm1_.scale.fill(b, 1);
        norm2_.scale.fill(b, 1);
        auto const stream = std::uint32_t(i) * 8 + 16;
        float const deviation = 1 / std::sqrt(float(hidden));
        attention_.qkv().randomize(b, start.seed, stream, deviation);
        attention_.out().randomize(b, start.seed, stream + 1,
                                   deviation / std::sqrt(2.f * float(num_layers)));
        if (!start.from_tier) moe_.initialize(start.seed);
        auto const optimizer = make_optimizer();
        packed_moments_ = start.packed_moments;
        if (packed_moments_)
            moe_.prepare(semoe::optim::AdamW8{optimizer}, !start.from_tier);
        else
            moe_.prepare(optimizer, !start.from_tier);
    }

    Moe& moe() { return moe_; }
    auto& context() { return context_; }

    /// x [T,H] in place.
    void forward(Backend& b, Matrix x, std::uint64_t step) {
        auto const at = [&](auto& buffer) { return buffer.matrix(x.rows, hidden); };
        b.copy(x_.data(), x.data, std::size_t(x.rows * hidden) * sizeof(float));
        norm1_.forward(b, x, at(normed1_), inverse1_.data());
        attention_.forward(b, at(normed1_), at(part_));
        for_rows(b, x.rows, AddRows{at(part_), x});
        b.copy(middle_.data(), x.data, std::size_t(x.rows * hidden) * sizeof(float));
        norm2_.forward(b, x, at(normed2_), inverse2_.data());
        moe_.forward(at(normed2_), at(part_), context_, {.step = step});
        for_rows(b, x.rows, AddRows{at(part_), x});
    }
    /// d [T,H]: the gradient of the block's output becomes that of its input.
    void backward(Backend& b, Matrix d) {
        auto const at = [&](auto& buffer) { return buffer.matrix(d.rows, hidden); };
        semoe::ops::cast(b, semoe::flat(d), semoe::flat(at(d_part_)));
        moe_.backward(at(d_part_), at(part_), context_);
        norm2_.backward(b, at(middle_), inverse2_.data(), at(part_), d);
        semoe::ops::cast(b, semoe::flat(d), semoe::flat(at(d_part_)));
        attention_.backward(b, at(normed1_), at(d_part_), at(part_));
        norm1_.backward(b, at(x_), inverse1_.data(), at(part_), d);
    }
    void update_moe(semoe::UpdateStep const& step) {
        if (packed_moments_)
            semoe::train_step(moe_, semoe::optim::AdamW8{make_optimizer()}, step);
        else
            semoe::train_step(moe_, make_optimizer(), step);
    }
    template <class F>
    void for_each_parameter(F&& f) {
        f(norm1_.scale), f(norm2_.scale), f(attention_.qkv()), f(attention_.out());
    }

private:
    RmsNorm norm1_, norm2_;
    Attention attention_;
    Moe moe_;
    typename Moe::Context context_;
    bool packed_moments_ = false;
    semoe::Buffer<float, Backend> x_, middle_;
    semoe::Buffer<Element, Backend> normed1_, normed2_, part_, d_part_;
    semoe::Buffer<float, Backend> inverse1_, inverse2_;
};

template <class Tier>
class Transformer {
public:
    Transformer(Backend backend, Tier tier, Start const& start, index_t max_tokens)
      : backend_(std::move(backend))
      , embedding_(backend_, "embedding", vocabulary, hidden)
      , norm_{{backend_, "norm", 1, hidden}}
      , max_tokens_(max_tokens)
      , x_(backend_, max_tokens * hidden)
      , normed_(backend_, max_tokens * hidden)
      , d_(backend_, max_tokens * hidden)
      , d_normed_(backend_, max_tokens * hidden)
      , logits_(backend_, max_tokens * vocabulary)
      , losses_(backend_, max_tokens)
      , inverse_(backend_, max_tokens) {
        backend_.reserve_scratch(
            std::max(semoe::ops::worker_scratch_bytes(),
                     semoe::ops::linear_scratch_bytes<Backend, Element>(hidden, 3 * hidden)));
        blocks_.reserve(std::size_t(num_layers));
        for (index_t i = 0; i < num_layers; ++i)
            blocks_.push_back(std::make_unique<Block<Tier>>(backend_, tier, semoe::layer_id(i),
                                                            start, max_tokens));
        embedding_.randomize(backend_, start.seed, 1, 0.05f);
        norm_.scale.fill(backend_, 1);
        squared_norms_.resize(blocks_.size());
    }

    Backend& backend() { return backend_; }
    std::vector<std::unique_ptr<Block<Tier>>>& blocks() { return blocks_; }
    index_t max_tokens() const { return max_tokens_; }

    /// Logits of every position. @param bytes  [T], whole windows
    Matrix forward(std::vector<std::uint8_t> const& bytes, std::uint64_t step) {
        auto const n = index_t(bytes.size());
        Matrix const x = x_.matrix(n, hidden);
        backend_.parallel_for(n, Embed{bytes.data(), embedding_.value(), x});
        for (std::size_t i = 0; i < blocks_.size(); ++i) {
            finish_update(i + 1);
            blocks_[i]->forward(backend_, x, step);
        }
        norm_.forward(backend_, x, normed_.matrix(n, hidden), inverse_.data());
        Matrix const logits = logits_.matrix(n, vocabulary);
        semoe::ops::gemm_nt(backend_, normed_.matrix(n, hidden), embedding_.value(), logits);
        return logits;
    }
    /// Mean nats a byte. The logits become their gradients when asked for.
    double loss(std::vector<std::uint8_t> const& targets, bool gradient) {
        auto const n = index_t(targets.size());
        for_rows(
            backend_, n,
            CrossEntropy{targets.data(), logits_.matrix(n, vocabulary), losses_.data(), gradient});
        double sum = 0;
        for (index_t t = 0; t < n; ++t) sum += double(losses_.data()[t]);
        return sum / double(n);
    }
    /// Adds every gradient of the mean loss. @pre loss(targets, true)
    void backward(std::vector<std::uint8_t> const& bytes) {
        auto const n = index_t(bytes.size());
        Matrix const d_logits = logits_.matrix(n, vocabulary), d = d_.matrix(n, hidden);
        semoe::ops::gemm_tn(backend_, d_logits, normed_.matrix(n, hidden), embedding_.gradient(),
                            semoe::ops::Accumulate::yes);
        semoe::ops::gemm_nn(backend_, d_logits, embedding_.value(), d_normed_.matrix(n, hidden));
        semoe::ops::fill(backend_, semoe::flat(d), 0.f);
        norm_.backward(backend_, x_.matrix(n, hidden), inverse_.data(), d_normed_.matrix(n, hidden),
                       d);
        for (std::size_t i = blocks_.size(); i-- > 0;) {
            blocks_[i]->backward(backend_, d);
            // Now, while a tier still has the layer's gradients in memory.
            squared_norms_[i] = blocks_[i]->moe().grad_norm_squared();
        }
        backend_.parallel_for(vocabulary, EmbedBackward{bytes.data(), d, embedding_.gradient()});
    }
    /// Of dense parameters; those of MoE layers are forgotten once they were used.
    void zero_grad() {
        for_each_parameter([&](auto& p) { p.zero_grad(backend_); });
    }
    /// One clipped AdamW step. That of each MoE layer is put off until its next forward: a tier
    /// brings its states while the layer before it computes.
    /// @return the gradient's norm before clipping
    double update(index_t step) {
        double squared = 0;
        for_each_parameter([&](auto& p) { squared += p.grad_norm_squared(backend_); });
        for (double s : squared_norms_) squared += s;
        double const n = double(step + 1), w = double(warmup);
        semoe::UpdateStep const how{.step = step,
                                    .lr_factor = n < w ? n / w : std::sqrt(w / n),
                                    .gradient_scale =
                                        semoe::optim::clip_scale(squared, gradient_limit),
                                    .zero_grad = true};
        auto const optimizer = make_optimizer();
        for_each_parameter([&](auto& p) { p.update(backend_, optimizer, how); });
        put_off_ = how;
        updated_ = 0;
        return std::sqrt(squared);
    }
    /// What update() put off. @post parameters are those of the last step
    void finish_update() { finish_update(blocks_.size()); }
    template <class F>
    void for_each_parameter(F&& f) {
        f(embedding_);
        for (auto& block : blocks_) block->for_each_parameter(f);
        f(norm_.scale);
    }

private:
    /// What update() put off, of the first so many layers.
    void finish_update(std::size_t layers) {
        layers = std::min(layers, blocks_.size());
        for (; put_off_ && updated_ < layers; ++updated_) blocks_[updated_]->update_moe(*put_off_);
        if (updated_ == blocks_.size()) put_off_.reset();
    }

    struct Embed {
        std::uint8_t const* bytes;
        ConstMatrix table;
        Matrix x;
        void operator()(index_t t) const {
            for (index_t h = 0; h < hidden; ++h) x(t, h) = table(bytes[t], h);
        }
    };
    /// One byte value an index, so that the sum over tokens has one order.
    struct EmbedBackward {
        std::uint8_t const* bytes;
        ConstMatrix d;
        Matrix gradient;
        void operator()(index_t v) const {
            for (index_t t = 0; t < d.rows; ++t)
                if (bytes[t] == v)
                    for (index_t h = 0; h < hidden; ++h) gradient(v, h) += d(t, h);
        }
    };
    struct CrossEntropy {
        std::uint8_t const* targets;
        Matrix logits;
        float* losses;
        bool gradient;
        SEMOE_INLINE void operator()(index_t t) const {
            float* const z = logits.row(t);
            float most[16], lanes[16] = {}, p[vocabulary], top = -1e30f, sum = 0;
            for (index_t j = 0; j < 16; ++j) most[j] = z[j];
            for (index_t v = 16; v < vocabulary; v += 16)
                for (index_t j = 0; j < 16; ++j) most[j] = z[v + j] > most[j] ? z[v + j] : most[j];
            for (float const m : most) top = std::max(top, m);
            for (index_t v = 0; v < vocabulary; v += 16)
                for (index_t j = 0; j < 16; ++j) {
                    p[v + j] = semoe::exp(z[v + j] - top);
                    lanes[j] += p[v + j];
                }
            for (float const l : lanes) sum += l;
            losses[t] = std::log(sum) + top - z[targets[t]];
            if (!gradient) return;
            float const scale = 1 / (sum * float(logits.rows));
            for (index_t v = 0; v < vocabulary; v += 16)
                for (index_t j = 0; j < 16; ++j) z[v + j] = p[v + j] * scale;
            z[targets[t]] -= 1 / float(logits.rows);
        }
    };

    Backend backend_;
    Parameter<float> embedding_;
    std::vector<std::unique_ptr<Block<Tier>>> blocks_;
    RmsNorm norm_;
    std::vector<double> squared_norms_; // of the MoE layers' gradients
    std::optional<semoe::UpdateStep> put_off_;
    std::size_t updated_ = 0; // so many layers have it behind them
    index_t max_tokens_;
    semoe::Buffer<float, Backend> x_, normed_, d_, d_normed_, logits_, losses_, inverse_;
};

} // namespace train_lm
