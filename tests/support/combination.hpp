#pragma once

#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/ops/tolerance.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/schedule/sequential.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

namespace semoe::test {

/// One layer against the oracle: forward, losses, counters, every gradient.
struct Combination {
    index_t num_tokens = 7, hidden = 6, intermediate = 5, shared_intermediate = 0;
    MoeConfig config = {};
    int ranks = 1;
    index_t chunks = 1;
    int slots = 0;        // of the cache; 0: resident
    bool masked = false;  // every third token is padding
    bool one_hot = false; // all tokens alike, so that few experts take everything
    std::uint64_t seed = 1;
    bool backward = true;
};

/// How far a layer over T may lie from the oracle: of a tensor's largest number, or of a loss.
struct Tolerances {
    double output, gradient, router_gradient, loss;
};
/// In units of half the distance from 1 to the next number. Losses are sums in double of what a
/// layer's logits give, which are floats or doubles.
template <class T>
constexpr Tolerances tolerances() {
    if constexpr (std::same_as<T, double>) return {1e-9, 1e-6, 1e-6, 1e-9}; // the differences'
    // A float layer rounds in sums of 100 products, three deep, to either side: a fifth of 100
    // units. The gradient of a router is what is left where such sums cancel.
    constexpr double unit = ops::unit_roundoff<T>();
    if constexpr (std::same_as<T, float>) return {32 * unit, 64 * unit, 128 * unit, 1e-6};
    // A layer over 16 bits rounds numbers between operations as well: the activation, an expert's
    // row and their sum; for a gradient what enters the unit, the activation, and two of its own.
    return {3 * unit, 4 * unit, 10 * unit, 1e-6};
}

/// What is left of numbers in a layer over T.
template <class T>
std::vector<T> narrow(std::vector<double> const& values) {
    std::vector<T> narrowed(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) narrowed[i] = T(accumulate_t<T>(values[i]));
    return narrowed;
}
template <class T>
std::vector<double> widen(std::vector<T> const& values) {
    return {values.begin(), values.end()};
}

inline std::vector<double> tokens_of(Combination const& n) {
    auto x = random_values<double>(n.seed, n.num_tokens * n.hidden);
    if (n.one_hot)
        for (index_t t = 1; t < n.num_tokens; ++t)
            for (index_t h = 0; h < n.hidden; ++h)
                x[std::size_t(t * n.hidden + h)] =
                    x[std::size_t(h)] * (1 + 1e-3 * double(t)); // no ties, one direction
    return x;
}

/// Equal but for rounding: of the tensor, or of sums that should be zero.
inline bool equal_within(std::vector<double> const& a, std::vector<double> const& b,
                         double tolerance) {
    auto const near = [](double x, double y) { return std::abs(x - y) < 1e-9; }; // NaN is not
    return relative_error(a, b) < tolerance ||
           std::equal(a.begin(), a.end(), b.begin(), b.end(), near);
}

/// Runs the layer on n.ranks thread ranks and compares all of it with the oracle.
template <class G, class X>
void check_combination(Combination const& n, G const& gate, testing::ReferenceGate const& rule,
                       X const& expert, std::function<double(double)> activation,
                       std::function<double(double)> derivative) {
    using testing::Vector;
    using T = typename X::value_type;
    constexpr Tolerances tolerance = tolerances<T>();
    auto const x = widen(narrow<T>(tokens_of(n)));
    auto const dy = widen(random_values<T>(n.seed + 1, n.num_tokens * n.hidden));
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(n.num_tokens), 1);
    if (n.masked)
        for (std::size_t t = 0; t < mask.size(); t += 3) mask[t] = 0;
    Vector y(x.size()), dx(x.size());
    Named weights, gradients, summary;
    std::string apart; // replicas must have the same bits on every rank
    RouterLosses losses;
    LayerCounters counters;
    std::mutex mutex;
    auto const run = [&](auto schedule, auto make_tier) {
        static CpuBackend const shared{.threads = 2};
        comm::ThreadWorld const world{n.ranks, {.timeout = std::chrono::seconds(60)}};
        world.run([&](comm::Threads rank) {
            CpuBackend b = shared;
            index_t const first = n.num_tokens * rank.rank() / n.ranks;
            index_t const tokens = n.num_tokens * (rank.rank() + 1) / n.ranks - first;
            auto const part = [&](Vector const& v) {
                return to_backend(b, narrow<T>({v.begin() + first * n.hidden,
                                                v.begin() + (first + tokens) * n.hidden}));
            };
            MoeLayer layer{b, gate, expert, rank, make_tier(b), schedule, n.config};
            layer.initialize(n.seed + 2);
            auto context =
                layer.make_context(tokens, n.backward ? Mode::training : Mode::inference);
            auto const in = part(x), d_out = part(dy);
            auto out = part(x), d_in = part(x);
            auto const m = to_backend(
                b, std::vector<std::uint8_t>(mask.begin() + first, mask.begin() + first + tokens));
            ForwardOptions<HostSpace> options{.step = n.seed};
            if (n.masked) options.mask = m.view();
            layer.forward(in.matrix(tokens, n.hidden), out.matrix(tokens, n.hidden), context,
                          options);
            if (n.backward)
                layer.backward(d_out.matrix(tokens, n.hidden), d_in.matrix(tokens, n.hidden),
                               context);
            auto const own_weights = parameters_of(layer);
            auto const own_gradients =
                n.backward ? parameters_of(layer, BlockKind::gradient) : Named{};
            double const norm = n.backward ? layer.grad_norm_squared() : 0;
            std::lock_guard const lock(mutex);
            std::copy_n(out.data(), tokens * n.hidden, y.begin() + first * n.hidden);
            std::copy_n(d_in.data(), tokens * n.hidden, dx.begin() + first * n.hidden);
            apart += add_rank(weights, own_weights) + add_rank(gradients, own_gradients) +
                     add_rank(summary, summary_of(context)) + add_rank(summary, {{"norm", {norm}}});
            losses = context.losses;
            counters = context.counters;
        });
    };
    auto const with_tier = [&](auto schedule) {
        // Compilers take seconds for a layer, and a tier sees neither gate nor expert: one pair of
        // them comes with both tiers.
        if constexpr (std::same_as<G, gate::TopK<gate::Softmax>> &&
                      std::same_as<X, expert::SwiGlu<double>>)
            if (n.slots == 0)
                return run(schedule, [](CpuBackend& b) { return tier::Resident<CpuBackend>{b}; });
        run(schedule, [&](CpuBackend& b) {
            return tier::Cached<CpuBackend, tier::HostStore>{
                b, tier::HostStore{}, {.slots = n.slots > 0 ? n.slots : 64}};
        });
    };
    with_tier(schedule::Chunked{.chunks = n.chunks});
    REQUIRE(apart == "");

    auto oracle = reference_of(weights, n.hidden, n.intermediate, gate.num_experts, rule,
                               activation, derivative, n.shared_intermediate);
    oracle.capacity = {.factor = n.config.capacity.factor,
                       .minimum = n.config.capacity.minimum,
                       .by_probability = n.config.capacity.drop == Drop::probability};
    if (router_probability<G>() == RouterProbability::sigmoid)
        oracle.probabilities = testing::reference_sigmoid_share;
    oracle.aux_loss_weight = n.config.aux_loss_weight;
    oracle.z_loss_weight = n.config.z_loss_weight;
    oracle.mutual_information_weight = n.config.mutual_information_weight;
    std::vector<char> const marks(mask.begin(), mask.end());
    auto const expected = oracle.forward(x, n.masked ? marks : std::vector<char>{});
    CHECK(relative_error(y, expected.y) < tolerance.output);
    CHECK(losses.aux_loss == doctest::Approx(expected.aux_loss).epsilon(tolerance.loss));
    CHECK(losses.z_loss == doctest::Approx(expected.z_loss).epsilon(tolerance.loss));
    CHECK(losses.mutual_information ==
          doctest::Approx(expected.mutual_information).epsilon(tolerance.loss));
    CHECK(counters.dropped == expected.dropped);
    std::vector<index_t> load(static_cast<std::size_t>(gate.num_experts));
    for (auto const& kept : expected.kept)
        for (expert_id e : kept)
            if (e >= 0) ++load[std::size_t(e)];
    CHECK(counters.tokens_per_expert == load);
    if (!n.backward) return;
    auto const g = oracle.backward(x, dy, expected, n.masked ? marks : std::vector<char>{});
    CHECK(equal_within(dx, g.dx, tolerance.gradient));
    auto const named = named_gradients(g);
    CHECK(named.size() == gradients.size());
    for (auto const& expected_gradient : named) {
        std::string const& name = expected_gradient.first; // clang 14 captures no binding
        CAPTURE(name);
        auto const it = gradients.find(name);
        REQUIRE(it != gradients.end());
        CHECK(equal_within(it->second, expected_gradient.second,
                           name.starts_with("router.") ? tolerance.router_gradient
                                                       : tolerance.gradient));
    }
}

/// A seeded choice of everything that is not a type.
inline Combination draw(std::uint64_t seed) {
    std::mt19937_64 engine(seed);
    auto const pick = [&](auto... options) {
        index_t const all[] = {index_t(options)...};
        return all[engine() % sizeof...(options)];
    };
    Combination n;
    n.seed = 1000 + seed;
    n.num_tokens = pick(0, 1, 7, 13, 64);
    n.hidden = pick(3, 6, 17);
    n.intermediate = pick(1, 5, 19);
    n.ranks = int(pick(1, 1, 2, 3));
    n.chunks = pick(1, 1, 3);
    n.slots = int(pick(0, 0, 1, 2));
    n.masked = pick(0, 0, 1) == 1;
    n.one_hot = pick(0, 0, 1) == 1;
    n.config.layer = layer_id(pick(0, 3));
    n.config.aux_loss_weight = pick(0, 1) == 1 ? 0.1 : 0;
    n.config.z_loss_weight = pick(0, 1) == 1 ? 0.01 : 0;
    n.config.mutual_information_weight = pick(0, 0, 1) == 1 ? 0.05 : 0;
    n.config.recompute = pick(0, 1) == 1;
    index_t const rule = pick(0, 0, 1, 2);
    if (rule > 0)
        n.config.capacity = {.factor = double(pick(1, 5, 10, 15)) / 10,
                             .minimum = pick(0, 1, 4),
                             .drop = rule == 1 ? Drop::position : Drop::probability};
    return n;
}
/// The same with sizes beside those of the tiles that fused experts work in, and rows for several.
inline Combination draw_beside_tiles(std::uint64_t seed) {
    Combination n = draw(seed);
    index_t const sizes[] = {31, 33, 96}, tokens[] = {13, 65, 100};
    n.hidden = sizes[seed % 3];
    n.intermediate = sizes[seed / 3 % 3];
    n.num_tokens = tokens[seed / 2 % 3];
    return n;
}

} // namespace semoe::test
