#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/schedule/chunked.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <limits>
#include <thread>

using namespace semoe;
using test::random_values;
using test::to_backend;
using test::to_host;

namespace moe_layer_test {
namespace {

constexpr index_t H = 24, I = 20, E = 8, K = 3, T = 37;
using TopK = gate::TopK<gate::Softmax>;
using Layer = MoeLayer<CpuBackend, TopK, expert::SwiGlu<float>>;
using Mat = MatrixView<float, HostSpace>;

Layer make_layer(CpuBackend b, MoeConfig config = {}) {
    Layer layer{b, TopK{.num_experts = E, .top_k = K},
                expert::SwiGlu<float>{.hidden = H, .intermediate = I}, config};
    layer.initialize(3);
    return layer;
}
Mat rows(std::vector<float>& v) { return {v.data(), index_t(v.size()) / H, H}; }

std::vector<float> forward(Layer& layer, std::vector<float> x) {
    auto context = layer.make_context(index_t(x.size()) / H);
    std::vector<float> y(x.size());
    layer.forward(rows(x), rows(y), context);
    return y;
}
struct Step {
    std::vector<float> y, dx;
    test::Named gradients;
};
Step step(Layer& layer, std::vector<float> x, std::vector<float> dy) {
    auto context = layer.make_context(index_t(x.size()) / H, Mode::training);
    Step s{std::vector<float>(x.size()), std::vector<float>(x.size()), {}};
    layer.forward(rows(x), rows(s.y), context);
    layer.backward(rows(dy), rows(s.dx), context);
    s.gradients = test::parameters_of(layer, BlockKind::gradient);
    return s;
}

} // namespace

TEST_CASE("layer/moe_layer: dropless forward has the same bits for any split of the batch") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    auto const x = random_values<float>(1, T * H);
    auto const whole = forward(layer, x);
    for (index_t const part : {index_t(1), index_t(2), index_t(7), index_t(36)}) {
        std::vector<float> pieces;
        for (index_t t = 0; t < T; t += part) {
            auto const end = std::min(t + part, T);
            auto const y = forward(layer, {x.begin() + t * H, x.begin() + end * H});
            pieces.insert(pieces.end(), y.begin(), y.end());
        }
        CHECK(pieces == whole);
    }
}

TEST_CASE(
    "layer/moe_layer: a training step has the same bits for any number of threads, and again") {
    auto const x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    MoeConfig const config{.aux_loss_weight = 0.1, .z_loss_weight = 0.01};
    auto one = make_layer(CpuBackend{.threads = 1}, config);
    auto const expected = step(one, x, dy);
    for (int const threads : {1, 2, 3, 5}) {
        CAPTURE(threads);
        auto layer = make_layer(CpuBackend{.threads = threads}, config);
        for (int again = 0; again < 2; ++again) {
            layer.zero_grad();
            auto const got = step(layer, x, dy);
            CHECK(got.y == expected.y);
            CHECK(got.dx == expected.dx);
            CHECK(got.gradients == expected.gradients);
        }
    }
}

TEST_CASE("layer/moe_layer: recomputing activations changes no bit, and several chunks need memory "
          "for those of one") {
    auto const x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    CpuBackend const b{.threads = 2};
    auto saving = make_layer(b), recomputing = make_layer(b, {.recompute = true});
    auto const expected = step(saving, x, dy), got = step(recomputing, x, dy);
    CHECK(got.y == expected.y);
    CHECK(got.dx == expected.dx);
    CHECK(got.gradients == expected.gradients);
    auto const workspace = [&](bool recompute) {
        MoeLayer layer{b,
                       TopK{.num_experts = E, .top_k = K},
                       saving.expert(),
                       comm::Self{},
                       tier::Resident<CpuBackend>{b},
                       schedule::Chunked{.chunks = 4},
                       {.recompute = recompute}};
        return layer.workspace_bytes(T, Mode::training);
    };
    index_t const a_row = saving.expert().saved_columns() * index_t(sizeof(float));
    CHECK(workspace(false) - workspace(true) >= (T - (T + 3) / 4) * K * a_row - 64);
}

TEST_CASE(
    "layer/moe_layer: gradients of two micro-batches add up, bit for bit those of one batch") {
    auto const x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    CpuBackend const b{.threads = 2};
    auto whole = make_layer(b), parts = make_layer(b);
    auto const expected = step(whole, x, dy).gradients;
    auto const half = 17 * H;
    step(parts, {x.begin(), x.begin() + half}, {dy.begin(), dy.begin() + half});
    auto const got = step(parts, {x.begin() + half, x.end()}, {dy.begin() + half, dy.end()});
    CHECK(got.gradients == expected);
    parts.zero_grad();
    CHECK(parts.grad_norm_squared() == 0);
    CHECK(step(parts, x, dy).gradients == expected);
}

TEST_CASE("layer/moe_layer: the gradient norm is that of all parameters together") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    auto const s = step(layer, random_values<float>(1, T * H), random_values<float>(2, T * H));
    double sum = 0;
    for (auto const& [name, values] : s.gradients)
        for (double v : values) sum += v * v;
    CHECK(layer.grad_norm_squared() == doctest::Approx(sum).epsilon(1e-12));
}

TEST_CASE("layer/moe_layer: strided x and y are read and written in place") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    auto const x = random_values<float>(1, T * H);
    auto const expected = forward(layer, x);
    constexpr index_t ld = H + 5;
    std::vector<float> wide(T * ld, -1.f), out(T * ld, -2.f);
    for (index_t t = 0; t < T; ++t) std::copy_n(x.begin() + t * H, H, wide.begin() + t * ld);
    auto context = layer.make_context(T);
    layer.forward(Mat{wide.data(), T, H, ld}, Mat{out.data(), T, H, ld}, context);
    for (index_t t = 0; t < T; ++t) {
        CHECK(std::equal(out.begin() + t * ld, out.begin() + t * ld + H, expected.begin() + t * H));
        CHECK(std::count(out.begin() + t * ld + H, out.begin() + (t + 1) * ld, -2.f) == ld - H);
    }
}

TEST_CASE("layer/moe_layer: two threads run inference on one layer, each with its context") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    std::vector<std::vector<float>> x, expected;
    for (std::uint64_t i = 0; i < 2; ++i) {
        x.push_back(random_values<float>(i + 1, T * H));
        expected.push_back(forward(layer, x.back()));
    }
    std::atomic<int> wrong{0};
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < 2; ++i)
            threads.emplace_back([&, i] {
                auto context = layer.make_context(T);
                std::vector<float> y(x[i].size());
                for (int n = 0; n < 30; ++n) {
                    layer.forward(rows(x[i]), rows(y), context);
                    wrong += y != expected[i];
                }
            });
    }
    CHECK(wrong == 0);
}

TEST_CASE("layer/moe_layer: an engine's own routing gives what the gate's routing gives") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    auto x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    auto context = layer.make_context(T, Mode::training);
    std::vector<float> y(x.size()), dx(x.size()), y2(x.size()), dx2(x.size());
    layer.forward(rows(x), rows(y), context);
    auto& b = layer.backend();
    auto ids = to_host(b, context.assignment().topk_ids.data, T * K);
    auto weights = to_host(b, context.assignment().topk_weights.data, T * K);
    layer.backward(rows(dy), rows(dx), context);
    auto const d_weights = to_host(b, context.weight_gradients().data, T * K);

    layer.zero_grad();
    layer.forward_routed(rows(x), {ids.data(), T, K}, {weights.data(), T, K}, rows(y2), context);
    CHECK(y2 == y);
    CHECK(context.losses.aux_loss == 0);
    layer.backward(rows(dy), rows(dx2), context);
    CHECK(to_host(b, context.weight_gradients().data, T * K) == d_weights);
    CHECK(dx2 != dx); // the gradient through the router is the engine's
    auto const gradients = test::parameters_of(layer, BlockKind::gradient);
    for (double v : gradients.at("router.weight")) CHECK(v == 0);

    ids[5] = expert_id(E);
    CHECK_THROWS_WITH_AS(layer.forward_routed(rows(x), {ids.data(), T, K}, {weights.data(), T, K},
                                              rows(y2), context),
                         doctest::Contains("token 1 of rank 0"), data_error);
    ids[5] = ids[4];
    CHECK_THROWS_WITH_AS(layer.forward_routed(rows(x), {ids.data(), T, K}, {weights.data(), T, K},
                                              rows(y2), context),
                         doctest::Contains("repeated"), data_error);
    ids[5] = dropped_expert;
    weights[5] = std::numeric_limits<float>::quiet_NaN(); // of no choice: not looked at
    layer.forward_routed(rows(x), {ids.data(), T, K}, {weights.data(), T, K}, rows(y2), context);
    for (float const bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        auto broken = weights;
        broken[4] = bad;
        CHECK_THROWS_WITH_AS(layer.forward_routed(rows(x), {ids.data(), T, K},
                                                  {broken.data(), T, K}, rows(y2), context),
                             "MoeLayer: a routing weight that is not finite, token 1 of rank 0",
                             data_error);
    }
    std::fill(ids.begin(), ids.end(), dropped_expert);
    layer.forward_routed(rows(x), {ids.data(), T, K}, {weights.data(), T, K}, rows(y2), context);
    CHECK(std::count(y2.begin(), y2.end(), 0.f) == T * H);
}

TEST_CASE(
    "layer/moe_layer: a context tells which choices were kept, and what moves a balance bias") {
    auto layer = make_layer(CpuBackend{.threads = 1}, {.capacity = {.factor = 0.5}});
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size()), bias(E);
    auto context = layer.make_context(T);
    layer.forward(rows(x), rows(y), context);
    auto const chosen = context.assignment().topk_ids;
    auto const kept = context.kept_ids();
    std::vector<index_t> choices(E);
    index_t dropped = 0;
    for (index_t t = 0; t < T; ++t)
        for (index_t k = 0; k < K; ++k) {
            ++choices[std::size_t(chosen(t, k))];
            if (kept(t, k) == chosen(t, k)) continue;
            CHECK(kept(t, k) == dropped_expert);
            ++dropped;
        }
    CHECK(dropped > 0);
    CHECK(dropped == context.counters.dropped);

    update_balance_bias(layer.backend(), context.statistics(), 0.25,
                        VectorView<float, HostSpace>{bias.data(), E});
    for (std::size_t e = 0; e < std::size_t(E); ++e) {
        CAPTURE(e);
        index_t const above = choices[e] * E - T * K; // than the mean
        CHECK(bias[e] == (above > 0 ? -0.25f : above < 0 ? 0.25f : 0.f));
    }
}

TEST_CASE("layer/moe_layer: masked tokens give nothing, count for nothing and disturb nobody") {
    auto layer =
        make_layer(CpuBackend{.threads = 2}, {.aux_loss_weight = 0.1, .z_loss_weight = 0.1});
    auto const x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    auto const alone = step(layer, x, dy);
    auto context = layer.make_context(T, Mode::training);
    std::vector<float> ignored(x.size());
    auto in = x;
    layer.forward(rows(in), rows(ignored), context);
    auto const losses = context.losses;
    auto const counters = context.counters;

    // The same tokens with padding between them.
    std::vector<float> px, pdy;
    std::vector<std::uint8_t> mask;
    for (index_t t = 0; t < T; ++t)
        for (int padding : {0, 1}) {
            auto const from = x.begin() + t * H, d_from = dy.begin() + t * H;
            for (index_t h = 0; h < H; ++h) {
                px.push_back(padding ? 100.f * float(h) : from[h]);
                pdy.push_back(padding ? 7.f : d_from[h]);
            }
            mask.push_back(padding ? 0 : 1);
        }
    layer.zero_grad();
    auto padded = layer.make_context(2 * T, Mode::training);
    std::vector<float> y(px.size(), -1.f), dx(px.size(), -1.f);
    layer.forward(rows(px), rows(y), padded, {.mask = {mask.data(), 2 * T}});
    layer.backward(rows(pdy), rows(dx), padded);
    for (index_t t = 0; t < T; ++t) {
        CHECK(std::equal(y.begin() + 2 * t * H, y.begin() + (2 * t + 1) * H,
                         alone.y.begin() + t * H));
        CHECK(std::count(y.begin() + (2 * t + 1) * H, y.begin() + (2 * t + 2) * H, 0.f) == H);
        CHECK(std::count(dx.begin() + (2 * t + 1) * H, dx.begin() + (2 * t + 2) * H, 0.f) == H);
    }
    CHECK(padded.losses.aux_loss == doctest::Approx(losses.aux_loss).epsilon(1e-12));
    CHECK(padded.losses.z_loss == doctest::Approx(losses.z_loss).epsilon(1e-12));
    CHECK(padded.counters.tokens_per_expert == counters.tokens_per_expert);
    CHECK(padded.counters.num_tokens == T);
    CHECK(padded.counters.entropy == doctest::Approx(counters.entropy).epsilon(1e-12));
    CHECK(test::worst_error(test::parameters_of(layer, BlockKind::gradient), alone.gradients) <
          1e-6);
}

TEST_CASE("layer/moe_layer: equal logits are perfect balance, whose loss is 1") {
    auto layer = make_layer(CpuBackend{.threads = 1});
    layer.for_each_parameter(
        [&](std::string const& name, auto view, Shape) {
            if (name == "router.weight") ops::fill(layer.backend(), flat(view), 0.f);
        },
        BlockKind::weight, Access::write);
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size());
    auto context = layer.make_context(T);
    layer.forward(rows(x), rows(y), context);
    CHECK(context.losses.aux_loss == doctest::Approx(1).epsilon(1e-6));
    CHECK(context.counters.entropy == doctest::Approx(std::log(double(E))).epsilon(1e-6));
}

TEST_CASE("layer/moe_layer: a NaN logit is an error that names rank and token; the layer goes on") {
    auto layer = make_layer(CpuBackend{.threads = 2});
    auto x = random_values<float>(1, T * H);
    auto const expected = forward(layer, x);
    auto bad = x;
    bad[11 * H + 3] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH_AS(forward(layer, bad), doctest::Contains("token 11 of rank 0"), data_error);
    CHECK(forward(layer, x) == expected);
}

TEST_CASE("layer/moe_layer: bad shapes, contexts and configurations are refused by name") {
    CpuBackend const b{.threads = 1};
    auto layer = make_layer(b);
    auto context = layer.make_context(4);
    std::vector<float> x(5 * H), y(5 * H);
    CHECK_THROWS_WITH_AS(layer.forward(rows(x), rows(y), context),
                         doctest::Contains("5 tokens in a context made for 4"), precondition_error);
    CHECK_THROWS_WITH_AS(
        layer.forward(Mat{x.data(), 4, H - 1}, Mat{y.data(), 4, H - 1}, context),
        doctest::Contains("x must be [4,24] with an ld of at least 24, is [4,23] with ld 23"),
        precondition_error);
    CHECK_THROWS_WITH_AS(layer.backward(Mat{x.data(), 4, H}, Mat{y.data(), 4, H}, context),
                         doctest::Contains("made for inference"), precondition_error);
    auto training = layer.make_context(4, Mode::training);
    CHECK_THROWS_WITH_AS(layer.backward(Mat{x.data(), 0, H}, Mat{y.data(), 0, H}, training),
                         doctest::Contains("holds no forward"), precondition_error);
    CHECK_THROWS_WITH_AS(layer.make_context(-1), doctest::Contains("max_tokens is -1"),
                         precondition_error);
    CHECK_THROWS_WITH_AS(make_layer(b, {.layer = -2}), doctest::Contains("layer is -2"),
                         precondition_error);
    auto const build = [&](index_t top_k, index_t intermediate) {
        Layer const built{b, TopK{.num_experts = 4, .top_k = top_k},
                          expert::SwiGlu<float>{.hidden = H, .intermediate = intermediate}};
    };
    CHECK_THROWS_WITH_AS(build(5, I), doctest::Contains("top_k is 5"), precondition_error);
    CHECK_THROWS_WITH_AS(build(1, 0), doctest::Contains("intermediate"), precondition_error);
}

TEST_CASE("layer/moe_layer: an expert without rows has gradient zero, and may be left alone") {
    CpuBackend const b{.threads = 1};
    auto x = random_values<float>(1, H), dy = random_values<float>(2, H); // one token: K experts
    for (bool const skip : {false, true}) {
        auto layer = make_layer(b, {.skip_untouched = skip});
        optim::AdamW const optimizer{.lr = 0.1, .weight_decay = 0.5};
        auto const before = test::parameters_of(layer);
        auto context = layer.make_context(1, Mode::training);
        std::vector<float> y(x.size()), dx(x.size());
        layer.forward(rows(x), rows(y), context);
        layer.backward(rows(dy), rows(dx), context);
        train_step(layer, optimizer, UpdateStep{});
        auto const after = test::parameters_of(layer);
        for (index_t e = 0; e < E; ++e) {
            std::string const name = "experts." + std::to_string(e) + ".up_proj";
            bool const touched = context.counters.tokens_per_expert[std::size_t(e)] > 0;
            // Weight decay moves an expert without gradient, unless it is skipped.
            CHECK((after.at(name) != before.at(name)) == (touched || !skip));
        }
    }
}

TEST_CASE("layer/moe_layer: one optimizer's states are refused to another") {
    auto layer = make_layer(CpuBackend{.threads = 1});
    layer.prepare(optim::AdamW{});
    CHECK_THROWS_WITH_AS(train_step(layer, optim::Sgd{}, UpdateStep{}),
                         doctest::Contains("another optimizer"), precondition_error);
}

TEST_CASE("layer/moe_layer: T = 0 is an ordinary batch") {
    auto layer = make_layer(CpuBackend{.threads = 2}, {.aux_loss_weight = 1});
    auto const s = step(layer, {}, {});
    CHECK(s.y.empty());
    CHECK(layer.grad_norm_squared() == 0);
}

} // namespace moe_layer_test
