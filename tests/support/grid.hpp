#pragma once

#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/clip.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/schedule/sequential.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/resident.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <mutex>

namespace semoe::test {

/// One training step of a small layer spread over ranks: what every composition must agree on.
struct GridCase {
    index_t num_tokens = 23, hidden = 12, intermediate = 10, num_experts = 7, top_k = 3;
    MoeConfig config = {.layer = 2, .aux_loss_weight = 0.02, .z_loss_weight = 0.001, .seed = 5};
};
struct Outcome {
    std::vector<float> y, dx; // [T,H], all ranks' rows
    Named gradients, weights; // of all ranks; weights after one update
    double aux_loss = 0, z_loss = 0, norm = 0;
    std::vector<index_t> tokens_per_expert;
};

/// Tokens are dealt to ranks in runs, uneven on purpose: rank 1 of several has none.
inline std::vector<index_t> deal(index_t num_tokens, int ranks) {
    std::vector<index_t> counts(static_cast<std::size_t>(ranks));
    index_t left = num_tokens;
    for (int r = 0; r < ranks; ++r) {
        index_t const share = r == 1 && ranks > 2 ? 0 : left / (ranks - r);
        counts[std::size_t(r)] = r + 1 == ranks ? left : share;
        left -= counts[std::size_t(r)];
    }
    return counts;
}

/// What several ranks hold must have the same bits on each.
/// @param backend(rank)        the rank's backend
/// @param tier(backend)        its tier
template <class MakeBackend, class MakeTier, class Sch>
Outcome run_step(GridCase const& n, int ranks, MakeBackend make_backend, MakeTier make_tier,
                 Sch schedule) {
    auto const x = random_values<float>(1, n.num_tokens * n.hidden);
    auto const dy = random_values<float>(2, n.num_tokens * n.hidden);
    auto const counts = deal(n.num_tokens, ranks);
    Outcome out;
    out.y.resize(x.size());
    out.dx.resize(x.size());
    Named summary;
    std::string apart;
    std::mutex mutex;
    comm::ThreadWorld world{ranks, {.timeout = std::chrono::seconds(60)}};
    world.run([&](comm::Threads rank) {
        auto b = make_backend(rank.rank());
        index_t first = 0;
        for (int r = 0; r < rank.rank(); ++r) first += counts[std::size_t(r)];
        index_t const tokens = counts[std::size_t(rank.rank())];
        auto const begin = first * n.hidden, end = (first + tokens) * n.hidden;
        auto const part = [&](std::vector<float> const& v) {
            return to_backend(b, std::vector<float>(v.begin() + begin, v.begin() + end));
        };
        MoeLayer layer{b,
                       gate::TopK<gate::Softmax>{.num_experts = n.num_experts, .top_k = n.top_k},
                       expert::SwiGlu<float>{.hidden = n.hidden, .intermediate = n.intermediate},
                       rank,
                       make_tier(b),
                       schedule,
                       n.config};
        layer.initialize(11);
        auto context = layer.make_context(tokens + 2, Mode::training);
        auto const in = part(x), d_out = part(dy);
        auto y = part(x), dx = part(x);
        layer.forward(in.matrix(tokens, n.hidden), y.matrix(tokens, n.hidden), context);
        layer.backward(d_out.matrix(tokens, n.hidden), dx.matrix(tokens, n.hidden), context);
        double const norm = layer.grad_norm_squared();
        auto const gradients = parameters_of(layer, BlockKind::gradient);
        double const scale = optim::clip_scale(norm, 1);
        train_step(layer, optim::AdamW{.lr = 1e-2}, UpdateStep{.gradient_scale = scale});
        layer.tier().flush(b);
        auto const weights = parameters_of(layer);
        auto const y_host = to_host(b, y), dx_host = to_host(b, dx);
        std::lock_guard const lock(mutex);
        std::copy(y_host.begin(), y_host.end(), out.y.begin() + begin);
        std::copy(dx_host.begin(), dx_host.end(), out.dx.begin() + begin);
        apart += add_rank(out.gradients, gradients) + add_rank(out.weights, weights) +
                 add_rank(summary, summary_of(context)) +
                 add_rank(summary, {{"norm and scale", {norm, scale}}});
        out.aux_loss = context.losses.aux_loss;
        out.z_loss = context.losses.z_loss;
        out.norm = norm;
        out.tokens_per_expert = context.counters.tokens_per_expert;
    });
    REQUIRE(apart == "");
    return out;
}

} // namespace semoe::test
