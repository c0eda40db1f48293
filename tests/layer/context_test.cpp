#include "semoe/expert/gated.hpp"
#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/topk.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using test::random_values;

namespace context_test {
namespace {

constexpr index_t H = 8, I = 6, T = 5;
using Layer = MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, expert::SwiGlu<float>>;

Layer make_layer(index_t num_experts, index_t top_k, index_t hidden = H, MoeConfig config = {}) {
    Layer layer{CpuBackend{.threads = 1},
                {.num_experts = num_experts, .top_k = top_k},
                expert::SwiGlu<float>{.hidden = hidden, .intermediate = I},
                config};
    layer.initialize(3);
    return layer;
}

} // namespace

TEST_CASE("layer/context: layers of one shape take turns with a context, in training too") {
    auto first = make_layer(4, 2), second = make_layer(4, 2);
    auto context = first.make_context(T, Mode::training);
    auto own = second.make_context(T, Mode::training);
    auto x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
    std::vector<float> y(x.size()), dx(x.size()), expected(x.size());
    MatrixView<float, HostSpace> const in{x.data(), T, H}, out{y.data(), T, H};
    first.forward(in, out, context);
    second.forward(in, out, context);
    second.backward({dy.data(), T, H}, {dx.data(), T, H}, context);
    auto const lent = test::parameters_of(second, BlockKind::gradient);

    second.zero_grad();
    second.forward(in, {expected.data(), T, H}, own);
    CHECK(y == expected);
    second.backward({dy.data(), T, H}, {expected.data(), T, H}, own);
    CHECK(dx == expected);
    CHECK(lent == test::parameters_of(second, BlockKind::gradient));
}
TEST_CASE("layer/context: that of a layer of another shape is refused") {
    auto context = make_layer(4, 2).make_context(T, Mode::training);
    std::vector<float> rows(T * 16), weights(T * 4, 0.5f);
    std::vector<expert_id> const ids(T * 4, -1);
    auto const refused = [&](Layer layer) {
        index_t const n = layer.hidden(), K = layer.gate().top_k;
        MatrixView<float, HostSpace> const m{rows.data(), T, n};
        std::string const what = "the context was made by another layer";
        CHECK_THROWS_WITH_AS(layer.forward(m, m, context), doctest::Contains(what.c_str()),
                             precondition_error);
        CHECK_THROWS_WITH_AS(
            layer.forward_routed(m, {ids.data(), T, K}, {weights.data(), T, K}, m, context),
            doctest::Contains(what.c_str()), precondition_error);
        CHECK_THROWS_WITH_AS(layer.backward(m, m, context), doctest::Contains(what.c_str()),
                             precondition_error);
    };
    refused(make_layer(5, 2));
    refused(make_layer(4, 3));
    refused(make_layer(4, 2, 16));
    refused(make_layer(4, 2, H, {.capacity = {.factor = 1}}));
    refused(make_layer(4, 2, H, {.recompute = true}));
}
TEST_CASE("layer/context: experts that choose have memory for what they choose") {
    auto const layer_of = [](double factor) {
        return MoeLayer{CpuBackend{.threads = 1},
                        gate::ExpertChoice{.num_experts = 8, .capacity_factor = factor},
                        expert::SwiGlu<float>{.hidden = 64, .intermediate = 48}};
    };
    auto few = layer_of(1), all = layer_of(8);
    constexpr index_t tokens = 64;
    index_t const row = 3 * 48 * 4; // saved gate and up, and the activation
    index_t const saving =
        all.workspace_bytes(tokens, Mode::training) - few.workspace_bytes(tokens, Mode::training);
    CHECK(saving >= 7 * tokens * row);
    auto context = few.make_context(tokens);
    std::vector<float> rows(tokens * 64);
    MatrixView<float, HostSpace> const m{rows.data(), tokens, 64};
    few.initialize(1);
    few.forward(m, m, context);
    CHECK(context.counters.tokens_per_expert == std::vector<index_t>(8, tokens / 8));
    CHECK_THROWS_WITH_AS(all.forward(m, m, context),
                         doctest::Contains("the context was made by another layer"),
                         precondition_error);
}
TEST_CASE("layer/context: that of a gate that needs less is refused") {
    auto context = make_layer(4, 4).make_context(T);
    MoeLayer layer{CpuBackend{.threads = 1},
                   gate::ExpertChoice{.num_experts = 4, .capacity_factor = 2},
                   expert::SwiGlu<float>{.hidden = H, .intermediate = I}};
    std::vector<float> rows(T * H);
    MatrixView<float, HostSpace> const m{rows.data(), T, H};
    CHECK_THROWS_WITH_AS(layer.forward(m, m, context),
                         doctest::Contains("the context was made by another layer"),
                         precondition_error);
}

} // namespace context_test
