#pragma once

#include "semoe/core/message.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/testing/contract.hpp"
#include "semoe/testing/detail/transfer.hpp"

#include <algorithm>
#include <vector>

namespace semoe::testing::detail {

/// Tokens as a gate sees them, on the host.
template <class Real>
struct GateBatch {
    index_t num_tokens = 0, num_experts = 0;
    std::vector<Real> logits; // [T,E]
    std::vector<std::uint8_t> mask;
    index_t first_token = 0;
    bool training = false;

    std::vector<std::int32_t> token_ids() const {
        std::vector<std::int32_t> ids(static_cast<std::size_t>(num_tokens));
        for (std::size_t t = 0; t < ids.size(); ++t)
            ids[t] = std::int32_t((first_token + index_t(t)) * 7919 % 257);
        return ids;
    }
    Real& logit(index_t t, index_t e) { return logits[std::size_t(t * num_experts + e)]; }
    GateBatch rows(index_t first, index_t count) const {
        GateBatch part = *this;
        auto const begin = logits.begin() + first * num_experts;
        part.num_tokens = count;
        part.first_token = first_token + first;
        part.logits.assign(begin, begin + count * num_experts);
        if (!mask.empty()) part.mask.assign(mask.begin() + first, mask.begin() + first + count);
        return part;
    }
};
template <class Real>
struct GateAnswer {
    index_t slots = 0;
    std::vector<expert_id> ids; // [T,K]
    std::vector<Real> weights;  // [T,K]

    expert_id const* row(index_t t) const { return ids.data() + t * slots; }
};

/// Bits are what counts: NaN equals NaN.
template <class T>
bool same(std::vector<T> const& a, std::vector<T> const& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](T x, T y) { return x == y || (x != x && y != y); });
}
template <class Real>
bool same(GateAnswer<Real> const& a, GateAnswer<Real> const& b) {
    return same(a.ids, b.ids) && same(a.weights, b.weights);
}

/// Padded matrices in backend memory; what lies past the last column must not change.
template <class B, class Real>
struct GateMemory {
    static constexpr index_t padding = 3;

    B& b;
    Buffer<Real, B> logits, weights;
    Buffer<std::uint8_t, B> mask;
    Buffer<std::int32_t, B> token_ids;
    Buffer<expert_id, B> ids;
    Buffer<std::byte, B> scratch;
    RouteInput<B, Real> input;
    Assignment<B, Real> out;

    GateMemory(B& backend, GateBatch<Real> const& batch, index_t slots, index_t scratch_bytes)
      : b(backend)
      , logits(padded(batch.logits, batch.num_tokens, batch.num_experts))
      , weights(padded(std::vector<Real>(std::size_t(batch.num_tokens * slots), 99),
                       batch.num_tokens, slots))
      , mask(upload(b, batch.mask))
      , token_ids(upload(b, batch.token_ids()))
      , ids(padded(std::vector<expert_id>(std::size_t(batch.num_tokens * slots), 99),
                   batch.num_tokens, slots))
      , scratch(b, scratch_bytes) {
        input.logits = matrix(logits, batch.num_tokens, batch.num_experts);
        input.mask = mask.view();
        input.token_ids = token_ids.view();
        input.rng = {11, 5, 2};
        input.first_token = batch.first_token;
        input.training = batch.training;
        input.scratch = scratch.view();
        out.topk_ids = matrix(ids, batch.num_tokens, slots);
        out.topk_weights = matrix(weights, batch.num_tokens, slots);
    }

    template <class T>
    Buffer<T, B> padded(std::vector<T> const& dense, index_t rows, index_t cols) {
        std::vector<T> wide(std::size_t(rows * (cols + padding)), T(99));
        for (index_t r = 0; r < rows; ++r)
            std::copy_n(dense.begin() + r * cols, cols, wide.begin() + r * (cols + padding));
        return upload(b, wide);
    }
    template <class T>
    std::vector<T> dense(Buffer<T, B> const& padded, index_t rows, index_t cols, char const* name) {
        auto const wide = download(b, padded);
        std::vector<T> dense;
        for (index_t r = 0; r < rows; ++r) {
            auto const row = wide.begin() + r * (cols + padding);
            dense.insert(dense.end(), row, row + cols);
            require(std::all_of(row + cols, row + cols + padding, [](T v) { return v == T(99); }),
                    message("Gate: {} is written past its last column", name));
        }
        return dense;
    }
    template <class T>
    static MatrixView<T, space_of<B>> matrix(Buffer<T, B> const& padded, index_t rows,
                                             index_t cols) {
        return {padded.data(), rows, cols, cols + padding};
    }
    GateAnswer<Real> answer() {
        index_t const T = out.topk_ids.rows, K = out.topk_ids.cols;
        return {K, dense(ids, T, K, "topk_ids"), dense(weights, T, K, "topk_weights")};
    }
};

/// A gate on a backend, seen from the host: what the suite needs to know of either.
template <class Real>
struct GateRun {
    index_t num_experts, slots;
    bool global, trains;

    GateRun(index_t experts, index_t slots_per_token, bool needs_global, bool has_backward)
      : num_experts(experts)
      , slots(slots_per_token)
      , global(needs_global)
      , trains(has_backward) {}
    virtual ~GateRun() = default;
    virtual GateAnswer<Real> forward(GateBatch<Real> const& batch) = 0;
    /// d_weights [T,K] -> d_logits [T,E]
    virtual std::vector<Real> backward(GateBatch<Real> const& batch,
                                       std::vector<Real> const& d_weights) = 0;
};
template <class B, class G, class Real>
struct GateRunOf final : GateRun<Real> {
    B& b;
    G const& gate;

    static constexpr bool differentiable() {
        if constexpr (gate_trains<G>())
            return DifferentiableGate<G, B, Real>;
        else
            return false;
    }
    GateRunOf(B& backend, G const& g)
      : GateRun<Real>(g.num_experts, slots_per_token(g), needs_global_batch<G>(), differentiable())
      , b(backend)
      , gate(g) {}

    GateAnswer<Real> forward(GateBatch<Real> const& batch) override {
        GateMemory<B, Real> m(b, batch, this->slots, gate_scratch_bytes(gate, batch.num_tokens));
        gate.forward(b, m.input, m.out);
        return m.answer();
    }
    std::vector<Real> backward(GateBatch<Real> const& batch,
                               std::vector<Real> const& d_weights) override {
        index_t const T = batch.num_tokens, E = batch.num_experts, K = this->slots;
        GateMemory<B, Real> m(b, batch, K, gate_scratch_bytes(gate, T));
        auto const dw = m.padded(d_weights, T, K);
        auto const dz = m.padded(std::vector<Real>(batch.logits.size(), 99), T, E);
        if constexpr (differentiable()) {
            gate.forward(b, m.input, m.out);
            gate.backward(b, m.input, m.out, m.matrix(dw, T, K), m.matrix(dz, T, E));
        }
        return m.dense(dz, T, E, "d_logits");
    }
};

} // namespace semoe::testing::detail
