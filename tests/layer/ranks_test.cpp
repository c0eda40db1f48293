#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "support/grid.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <numeric>
#include <stdexcept>

// What several ranks must agree on, in a layer that has all that ranks hold together: a router and
// a shared expert with its gate.

using namespace semoe;
using test::random_values;

namespace ranks_test {
namespace {

constexpr index_t T = 23, H = 12, E = 7, K = 3;
using TopK = gate::TopK<gate::Softmax>;
using Swi = expert::SwiGlu<float>;
using Experts = expert::WithShared<Swi, Swi>;
using Tier = tier::Cached<CpuBackend, tier::HostStore>;
using Whole = MoeLayer<CpuBackend, TopK, Experts>;
using Spread = MoeLayer<CpuBackend, TopK, Experts, comm::Threads, Tier, schedule::Chunked>;

TopK const top{.num_experts = E, .top_k = K};
Experts const experts{{.hidden = H, .intermediate = 10}, {.hidden = H, .intermediate = 8}, true};
constexpr MoeConfig with_losses{
    .aux_loss_weight = 0.1, .z_loss_weight = 0.01, .mutual_information_weight = 0.05};
/// Of tokens, a rank's run; the middle one of three has none.
struct Part {
    index_t first, count;

    template <class V>
    auto of(std::vector<V>& all, index_t cols) const {
        return MatrixView<V, HostSpace>{all.data() + first * cols, count, cols};
    }
};
constexpr Part whole{0, T};

/// body(layer, context, the rank's tokens) on every rank.
template <class Body>
void on_ranks(int ranks, index_t chunks, MoeConfig const& config, Body const& body,
              index_t tokens = T) {
    static CpuBackend const shared{.threads = 2};
    auto const counts = test::deal(tokens, ranks);
    comm::ThreadWorld const world{ranks, {.timeout = std::chrono::seconds(60)}};
    world.run([&](comm::Threads rank) {
        auto const mine = counts.begin() + rank.rank();
        Spread layer{shared,
                     top,
                     experts,
                     rank,
                     Tier{shared, tier::HostStore{}, {.slots = 2}},
                     schedule::Chunked{.chunks = chunks},
                     config};
        layer.initialize(3);
        auto context = layer.make_context(*mine, Mode::training);
        body(layer, context, Part{std::accumulate(counts.begin(), mine, index_t(0)), *mine});
    });
}

/// An engine's routing, and what follows from it.
struct Routed {
    std::vector<float> x = random_values<float>(1, T*H), dy = random_values<float>(2, T*H),
                       weights = random_values<float>(3, T*K);
    std::vector<expert_id> ids;
    std::vector<float> y = std::vector<float>(x.size()), dx = y,
                       d_weights = std::vector<float>(weights.size());
    test::Named gradients;

    Routed() {
        for (expert_id t = 0; t < T; ++t)
            for (expert_id const k : {0, 2, 5})
                ids.push_back(t % 5 == k ? dropped_expert : (t * t + k) % expert_id(E));
    }
    template <class L>
    void forward(L& layer, typename L::Context& context, Part p) {
        layer.forward_routed(p.of(x, H), p.of(ids, K), p.of(weights, K), p.of(y, H), context);
    }
    template <class L>
    void backward(L& layer, typename L::Context& context, Part p) {
        layer.backward(p.of(dy, H), p.of(dx, H), context);
        auto const d = context.weight_gradients();
        std::copy_n(d.data, p.count * K, d_weights.begin() + p.first * K);
    }
    /// Through one rank with everything resident, in one chunk.
    static Routed expected() {
        Routed r;
        Whole layer{CpuBackend{.threads = 2}, top, experts};
        layer.initialize(3);
        auto context = layer.make_context(T, Mode::training);
        r.forward(layer, context, whole);
        r.backward(layer, context, whole);
        r.gradients = test::parameters_of(layer, BlockKind::gradient);
        return r;
    }
};

/// What `bad` throws on each of three ranks, which then go on with `good`.
template <class Bad, class Good>
std::vector<std::string> errors_of(MoeConfig const& config, Bad const& bad, Good const& good) {
    std::vector<std::string> texts;
    std::mutex mutex;
    on_ranks(3, 2, config, [&](Spread& layer, auto& context, Part p) {
        try {
            bad(layer, context, p);
        } catch (data_error const& e) {
            std::lock_guard const lock(mutex);
            texts.emplace_back(e.what());
        }
        good(layer, context, p);
    });
    return texts;
}
constexpr index_t last_rank = 7; // its first token

} // namespace

TEST_CASE("layer/ranks: gradients of thousands of tokens are within rounding of one rank's") {
    constexpr index_t many = 3000;
    auto x = random_values<float>(1, many * H), dy = random_values<float>(2, many * H);
    std::vector<float> y(x.size()), dx(x.size());
    auto const gradients = [&](auto& layer, auto& context, Part p) {
        layer.forward(p.of(x, H), p.of(y, H), context);
        layer.backward(p.of(dy, H), p.of(dx, H), context);
        return test::parameters_of(layer, BlockKind::gradient);
    };
    Whole layer{CpuBackend{.threads = 2}, top, experts, with_losses};
    layer.initialize(3);
    auto context = layer.make_context(many, Mode::training);
    auto const expected = gradients(layer, context, {0, many});
    for (int const ranks : {1, 2, 4})
        for (index_t const chunks : {1, 4}) {
            CAPTURE(ranks);
            CAPTURE(chunks);
            test::Named got;
            std::string apart;
            std::mutex mutex;
            on_ranks(
                ranks, chunks, with_losses,
                [&](Spread& part, auto& of_part, Part p) {
                    auto const mine = gradients(part, of_part, p);
                    std::lock_guard const lock(mutex);
                    apart += test::add_rank(got, mine);
                },
                many);
            CHECK(test::worst_error(got, expected) < 3e-6);
            CHECK(apart == "");
        }
}

TEST_CASE("layer/ranks: an engine's own routing gives the same, whatever ranks, tier and chunks") {
    auto const expected = Routed::expected();
    for (int const ranks : {1, 2, 3})
        for (index_t const chunks : {1, 2}) {
            CAPTURE(ranks);
            CAPTURE(chunks);
            Routed got;
            std::string apart;
            std::mutex mutex;
            on_ranks(ranks, chunks, with_losses, [&](Spread& layer, auto& context, Part p) {
                got.forward(layer, context, p);
                got.backward(layer, context, p);
                auto const gradients = test::parameters_of(layer, BlockKind::gradient);
                std::lock_guard const lock(mutex);
                apart += test::add_rank(got.gradients, gradients);
            });
            CHECK(got.y == expected.y);
            CHECK(got.d_weights == expected.d_weights);
            CHECK(test::relative_error(got.dx, expected.dx) < 1e-6);
            CHECK(test::worst_error(got.gradients, expected.gradients) < 1e-6);
            CHECK(apart == "");
        }
}

TEST_CASE("layer/ranks: what must be alike on all ranks and is not is named on each") {
    struct Given {
        TopK gate = top;
        Swi expert{.hidden = H, .intermediate = 10};
        schedule::Chunked schedule{.chunks = 2};
        MoeConfig config = with_losses;
        Mode mode = Mode::inference;
    };
    auto const errors = [](auto const& change) {
        std::vector<std::string> texts;
        std::mutex mutex;
        comm::ThreadWorld const world{3, {.timeout = std::chrono::seconds(60)}};
        world.run([&](comm::Threads rank) {
            Given given;
            if (rank.rank() == 1) change(given);
            CpuBackend b{.threads = 1};
            MoeLayer layer{
                b, given.gate, given.expert, rank, tier::Resident{b}, given.schedule, given.config};
            try {
                (void)layer.make_context(T, given.mode);
            } catch (precondition_error const& e) {
                std::lock_guard const lock(mutex);
                texts.emplace_back(e.what());
            }
        });
        return texts;
    };
    auto const named = [&](auto const& change, std::string const& what) {
        auto const texts = errors(change);
        CHECK(texts.size() == 3);
        for (std::string const& text : texts)
            CHECK(text.find("MoeLayer: " + what + " differs between ranks ") == 0);
    };
    named([](Given& g) { g.gate.num_experts = E + 1; }, "the number of experts");
    named([](Given& g) { g.gate.top_k = K + 1; }, "the number of choices a token");
    named([](Given& g) { g.expert.hidden = H + 1; }, "hidden");
    named([](Given& g) { g.expert.intermediate = 11; }, "the expert's size");
    named([](Given& g) { g.gate.scale = 2; }, "the gate's setting");
    named([](Given& g) { g.expert.bias = true; }, "the number of an expert's parameters");
    named([](Given& g) { g.schedule.chunks = 3; }, "the number of chunks");
    named([](Given& g) { g.config.capacity.factor = 0.5; }, "MoeConfig::capacity.factor");
    named([](Given& g) { g.config.layer = 2; }, "MoeConfig::layer");
    named([](Given& g) { g.config.seed = 2; }, "MoeConfig::seed");
    named([](Given& g) { g.config.z_loss_weight = 0; }, "MoeConfig::z_loss_weight");
    named([](Given& g) { g.config.mutual_information_weight = 1; },
          "MoeConfig::mutual_information_weight");
    named([](Given& g) { g.mode = Mode::training; }, "the context's mode");
    CHECK(errors([](Given&) {}).empty());
}

TEST_CASE("layer/ranks: other gates' settings and a shared expert's gate are named, too") {
    auto const refused = [](auto const& layer_of, std::string const& what) {
        comm::ThreadWorld(2, {.timeout = std::chrono::seconds(60)}).run([&](comm::Threads rank) {
            auto layer = layer_of(rank);
            CHECK_THROWS_WITH_AS((void)layer.make_context(T),
                                 doctest::Contains((what + " differs between ranks").c_str()),
                                 precondition_error);
        });
    };
    CpuBackend const b{.threads = 1};
    Swi const one{.hidden = H, .intermediate = 10};
    refused(
        [&](comm::Threads rank) {
            return MoeLayer{b, gate::Switch{.num_experts = E, .jitter = 0.1 * rank.rank()}, one,
                            rank};
        },
        "the gate's setting");
    refused(
        [&](comm::Threads rank) {
            gate::ExpertChoice const gate{.num_experts = E, .capacity_factor = 1.0 + rank.rank()};
            return MoeLayer{b, gate, one, rank};
        },
        "the gate's setting");
    refused(
        [&](comm::Threads rank) {
            gate::TopK<gate::Softmax> const gate{.num_experts = E, .top_k = K};
            return MoeLayer{b, gate, expert::WithShared<Swi, Swi>{one, one, rank.rank() == 1},
                            rank};
        },
        "the router's size");
}

TEST_CASE("layer/ranks: of an engine's own routing all ranks count tokens and refused choices") {
    Routed routed;
    std::vector<std::uint8_t> mask(T, 1);
    mask[2] = mask[last_rank + 4] = 0;
    std::vector<index_t> offered(E);
    for (index_t i = 0; i < T * K; ++i)
        if (mask[std::size_t(i / K)] != 0 && routed.ids[std::size_t(i)] >= 0)
            ++offered[std::size_t(routed.ids[std::size_t(i)])];
    index_t const all = std::accumulate(offered.begin(), offered.end(), index_t(0));
    for (auto const drop : {Drop::position, Drop::probability})
        for (double const factor : {0.0, 0.5}) { // 0: dropless
            CAPTURE(factor);
            on_ranks(3, 2, {.capacity = {.factor = factor, .drop = drop}},
                     [&](Spread& layer, auto& context, Part p) {
                         layer.forward_routed(p.of(routed.x, H), p.of(routed.ids, K),
                                              p.of(routed.weights, K), p.of(routed.y, H), context,
                                              {.mask = {mask.data() + p.first, p.count}});
                         auto const& n = context.counters;
                         auto const kept = std::accumulate(n.tokens_per_expert.begin(),
                                                           n.tokens_per_expert.end(), index_t(0));
                         bool const right =
                             n.num_tokens == T - 2 && n.dropped == all - kept && n.entropy == 0 &&
                             (factor == 0 ? n.tokens_per_expert == offered : n.dropped > 0) &&
                             context.losses.aux_loss == 0 && context.losses.z_loss == 0 &&
                             context.losses.mutual_information == 0;
                         if (!right) throw std::runtime_error("counters are wrong");
                     });
        }
}

TEST_CASE("layer/ranks: more rows than experts that choose would take are refused on every rank") {
    constexpr index_t tokens = 8;
    std::vector<expert_id> ids(tokens * 4, -1);
    std::vector<float> x(tokens * H), weights(ids.size(), 0.5f);
    comm::ThreadWorld(2, {.timeout = std::chrono::seconds(60)}).run([&](comm::Threads rank) {
        MoeLayer layer{CpuBackend{.threads = 1},
                       gate::ExpertChoice{.num_experts = 4, .capacity_factor = 1},
                       Swi{.hidden = H, .intermediate = 10}, rank};
        auto context = layer.make_context(tokens);
        std::vector<float> y(x.size());
        // Every token to that expert; below zero, to all in turns.
        auto const forward = [&](expert_id expert) {
            auto mine = ids;
            for (index_t t = 0; t < tokens; ++t)
                mine[std::size_t(t * 4)] = expert < 0 ? expert_id(t % 4) : expert;
            layer.forward_routed(MatrixView<float const, HostSpace>{x.data(), tokens, H},
                                 {mine.data(), tokens, 4}, {weights.data(), tokens, 4},
                                 MatrixView<float, HostSpace>{y.data(), tokens, H}, context);
        };
        forward(-1);
        CHECK_THROWS_WITH_AS(
            forward(1), "MoeLayer: expert 1 gets 16 rows, the gate's max_rows_per_expert allows 4",
            precondition_error);
        forward(-1);
    });
}

TEST_CASE("layer/ranks: a bad choice on one rank is the same error on all, and all go on") {
    auto const expected = Routed::expected();
    auto const at = std::size_t((last_rank + 9) * K);
    for (auto const drop : {Drop::position, Drop::probability})
        for (expert_id const id : {expert_id(E), -2, 1 << 30, expected.ids[at]}) {
            CAPTURE(id);
            Routed bad, good;
            bad.ids[at + 1] = id;
            // Room for all, yet choices are counted before anybody learns of the error.
            auto const texts = errors_of(
                {.capacity = {.factor = E, .drop = drop}},
                [&](auto&... args) { bad.forward(args...); },
                [&](auto&... args) { good.forward(args...); });
            CHECK(texts == std::vector<std::string>(3, "MoeLayer: an expert number that is out of "
                                                       "range, repeated or of a masked token, "
                                                       "token 9 of rank 2"));
            CHECK(good.y == expected.y);
        }
}

TEST_CASE("layer/ranks: a NaN logit on one rank is the same error on all, and all go on") {
    auto x = random_values<float>(1, T * H);
    auto bad = x;
    bad[std::size_t((last_rank + 5) * H + 3)] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> y(x.size()), expected(x.size());
    Whole one{CpuBackend{.threads = 2}, top, experts};
    one.initialize(3);
    auto in_one = one.make_context(T);
    one.forward(whole.of(x, H), whole.of(expected, H), in_one);
    auto const from = [&](std::vector<float>& in) {
        return [&](Spread& layer, auto& context, Part p) {
            layer.forward(p.of(in, H), p.of(y, H), context);
        };
    };
    CHECK(errors_of(with_losses, from(bad), from(x)) ==
          std::vector<std::string>(3, "MoeLayer: a logit that is not finite, token 5 of rank 2"));
    CHECK(y == expected);
}

TEST_CASE("layer/ranks: the losses' gradients, and they alone, are scaled by loss_scale") {
    auto x = random_values<float>(1, T * H);
    std::vector<float> zero(x.size()), y(x.size());
    struct Gradients {
        std::vector<double> router;
        std::vector<float> dx;
    };
    auto const at = [&](int ranks, double scale) {
        Gradients g{{}, std::vector<float>(x.size())};
        on_ranks(ranks, 2, with_losses, [&](Spread& layer, auto& context, Part p) {
            layer.forward(p.of(x, H), p.of(y, H), context);
            layer.backward(p.of(zero, H), p.of(g.dx, H), context, {.loss_scale = scale});
            auto gradients = test::parameters_of(layer, BlockKind::gradient);
            if (p.first == 0) g.router = gradients.at("router.weight");
        });
        return g;
    };
    auto const one = at(1, 1);
    for (int const ranks : {1, 3}) {
        CAPTURE(ranks);
        auto full = at(ranks, 1);
        auto const quarter = at(ranks, 0.25);
        CHECK(test::relative_error(full.router, one.router) < 1e-6);
        CHECK(std::count(full.router.begin(), full.router.end(), 0.0) == 0);
        for (double& v : full.router) v *= 0.25;
        for (float& v : full.dx) v *= 0.25f;
        CHECK(quarter.router == full.router);
        CHECK(quarter.dx == full.dx);
    }
}

TEST_CASE("layer/ranks: what ranks hold together has the same bits on each, step after step") {
    auto x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H), y = x, dx = x;
    for (int const ranks : {2, 3}) {
        test::Named weights, others; // of the last step, and of every step
        std::string apart;
        std::mutex mutex;
        on_ranks(ranks, 2, with_losses, [&](Spread& layer, auto& context, Part p) {
            for (index_t step = 0; step < 3; ++step) {
                layer.zero_grad();
                layer.forward(p.of(x, H), p.of(y, H), context);
                layer.backward(p.of(dy, H), p.of(dx, H), context);
                double const norm = layer.grad_norm_squared();
                double const scale = optim::clip_scale(norm, 0.5);
                auto own = test::summary_of(context);
                own.merge(test::parameters_of(layer, BlockKind::gradient));
                own["norm and scale"] = {norm, scale};
                train_step(layer, optim::AdamW{.lr = 1e-2},
                           {.step = step, .gradient_scale = scale});
                std::lock_guard const lock(mutex);
                for (auto const& [name, values] : own)
                    apart += test::add_rank(others, {{name + std::to_string(step), values}});
            }
            auto const own = test::parameters_of(layer);
            std::lock_guard const lock(mutex);
            apart += test::add_rank(weights, own);
        });
        CHECK(apart == "");
        CHECK(weights.count("shared.up_proj") == 1);
    }
}

} // namespace ranks_test
