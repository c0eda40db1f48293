#pragma once

#include "layer/stage.hpp"

namespace bench {

/// One row of the table: a shape, an element type, a routing, some work and a number of tokens.
struct Row {
    Shape shape;
    Weights weights = Weights::bf16;
    Skew skew = Skew::balanced;
    Work work = Work::forward;
    index_t tokens = 1;

    bool training() const { return work == Work::forward_backward || is_step(work); }
    Factors factors() const {
        if (weights == Weights::floats) return Factors::floats;
        if (weights == Weights::bf16) return Factors::bf16;
        return weights == Weights::int8 ? Factors::bytes : Factors::half_bytes;
    }
    /// "OLMoE/bf16/balanced/forward/512"
    std::string name() const {
        return std::string(shape.name) + "/" + to_string(weights) + "/" + to_string(skew) + "/" +
               to_string(work) + "/" + std::to_string(tokens);
    }
};

/// What a row's timing found.
struct Outcome {
    double seconds = 0; ///< median
    double rows_per_expert = 0;
    Cost cost;
    double bandwidth = 0; ///< bytes a second, probed between the calls
    double peak = 0;      ///< flops a second, the most seen so far
    std::vector<std::pair<std::string, double>> baselines; ///< name and median seconds
};

namespace detail {

/// Inputs and outputs of T tokens, and routings that take turns.
template <class T>
struct Inputs {
    index_t tokens, hidden;
    std::vector<T> x, y, dy, dx;
    std::vector<Routing> routings;

    Inputs(Row const& row, index_t num_layers)
      : tokens(row.tokens)
      , hidden(row.shape.hidden)
      , x(std::size_t((tokens + different) * hidden))
      , y(std::size_t(tokens * hidden))
      , dy(row.training() ? y.size() : 0)
      , dx(dy.size()) {
        auto const uniform = [](std::size_t i, int draw) {
            return T(2 * semoe::random_uniform({.seed = 99}, index_t(i), draw) - 1);
        };
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = uniform(i, 0);
        for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = uniform(i, 1);
        std::vector<RoutingStream> streams;
        for (index_t l = 0; l < num_layers; ++l)
            streams.emplace_back(row.shape, row.skew, std::uint64_t(17 + l));
        index_t const count = tokens < 64 ? 32 : 8;
        for (index_t i = 0; i < count * num_layers; ++i)
            routings.push_back(streams[std::size_t(i % num_layers)].next(tokens));
    }

    Routing const& routing(index_t call) const {
        return routings[std::size_t(call) % routings.size()];
    }
    Matrix<T const> x_view(index_t call) const {
        return {x.data() + call * tokens % different * hidden, tokens, hidden};
    }
    Matrix<T> view(std::vector<T>& v) const { return {v.data(), tokens, hidden}; }

private:
    static constexpr index_t different = 1024;
};

template <class T>
double difference(std::vector<T> const& a, std::vector<T> const& b) {
    double error = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        double const x = double(a[i]), y = double(b[i]);
        error += (x - y) * (x - y);
        size += x * x;
    }
    return std::sqrt(error / std::max(size, 1e-30));
}
/// Of two gradients of one expert, the largest of the three matrices' differences.
inline double difference(ExpertWeights<float> const& a, ExpertWeights<float> const& b) {
    auto const of = [](Matrix<float const> x, Matrix<float const> y) {
        return difference(std::vector<float>(x.data, x.data + x.rows * x.cols),
                          std::vector<float>(y.data, y.data + y.rows * y.cols));
    };
    return std::max({of(a.gate, b.gate), of(a.up, b.up), of(a.down, b.down)});
}

} // namespace detail

/// Times one row. Before that, each baseline must give what the layer gives.
/// @throws std::runtime_error naming a baseline that disagrees
template <class X>
Outcome time_row(Row const& row, Stage<X>& stage, Probes& probes, Budget budget) {
    using semoe::Mode;
    using T = typename Stage<X>::T;
    detail::Inputs<T> in(row, stage.num_layers());
    auto context =
        stage.layer(0).make_context(row.tokens, row.training() ? Mode::training : Mode::inference);
    semoe::optim::AdamW const optimizer{.lr = 1e-5};
    double touched = 0;
    index_t calls = 0, step = 0;

    auto const forward = [&](index_t call) {
        auto& layer = stage.layer(call);
        if (row.work == Work::gate_forward)
            return layer.forward(in.x_view(call), in.view(in.y), context);
        Routing const& r = in.routing(call);
        layer.forward_routed(in.x_view(call), r.ids_view(), r.weights_view(), in.view(in.y),
                             context);
    };
    auto const run = [&](index_t call) {
        auto& layer = stage.layer(call);
        if constexpr (Stage<X>::trains) {
            if (row.training()) layer.zero_grad();
            forward(call);
            if (row.work == Work::step_at_once)
                return layer.backward_and_update(in.view(in.dy), in.view(in.dx), context, optimizer,
                                                 {.step = step++});
            if (row.training()) layer.backward(in.view(in.dy), in.view(in.dx), context);
            if (row.work == Work::training_step)
                semoe::train_step(layer, optimizer, {.step = step++});
        } else {
            forward(call);
        }
    };
    auto const count_touched = [&](index_t) {
        if (std::exchange(calls, calls + 1) == 0) return; // no forward yet
        for (index_t n : context.counters.tokens_per_expert) touched += n > 0 ? 1 : 0;
    };

    std::vector<Contender> contenders{{"semoe", run, count_touched}};
    if (row.work == Work::forward || row.work == Work::forward_backward)
        for (auto& baseline : stage.baselines()) {
            if (!baseline->takes(row.tokens)) continue;
            for (Routing const& r : in.routings) baseline->prepare(r.ids_view());
            auto const run_baseline = [&row, &in, &stage, b = baseline.get()](index_t call) {
                Routing const& r = in.routing(call);
                Batch<T> const batch{in.x_view(call), r.ids_view(), r.weights_view(),
                                     in.view(in.y)};
                b->forward(call % stage.num_layers(), batch);
                if (row.training())
                    b->backward(call % stage.num_layers(), batch, in.view(in.dy), in.view(in.dx));
            };
            run(0);
            auto const y = in.y, dx = in.dx;
            run_baseline(0);
            double error = std::max(detail::difference(y, in.y), detail::difference(dx, in.dx));
            if (row.training()) {
                auto const ours =
                    stage.template weights_of<float>(stage.layer(0), semoe::BlockKind::gradient);
                expert_id const expert = in.routing(0).ids[0];
                error = std::max(error, detail::difference(ours[std::size_t(expert)],
                                                           baseline->gradients(expert)));
            }
            if (!(error < (std::is_same_v<T, float> ? 1e-4 : 0.02)))
                throw std::runtime_error(std::string(baseline->name()) + " differs by " +
                                         std::to_string(error));
            contenders.push_back({baseline->name(), run_baseline});
        }
    std::vector<double> bandwidths;
    std::size_t const timed = contenders.size();
    PeakProbe& peak = probes.peak(row.factors());
    contenders.push_back({.name = "memory",
                          .run = [&](index_t) { bandwidths.push_back(probes.measure_memory()); },
                          .share = 0.2});
    contenders.push_back({.name = "peak", .run = [&](index_t) { peak.measure(); }, .share = 0.05});

    measure(contenders, budget);
    count_touched(0);

    Outcome outcome;
    outcome.seconds = median(contenders[0].seconds);
    outcome.bandwidth = median(bandwidths);
    outcome.peak = peak.best();
    double const experts = touched / double(contenders[0].calls);
    outcome.cost =
        cost_of(row.shape, row.work, row.tokens, experts, double(sizeof(T)), stage.weight_bytes());
    outcome.rows_per_expert = double(row.tokens * row.shape.top_k) / experts;
    for (std::size_t i = 1; i < timed; ++i)
        outcome.baselines.emplace_back(contenders[i].name, median(contenders[i].seconds));
    return outcome;
}

} // namespace bench
