#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/checkpoint/safetensors.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

// One block of each family, made by transformers with random weights: inputs, routing, outputs and
// every gradient, in float and in double.

using namespace semoe;

namespace {

struct Family {
    char const* file;
    char const* prefix; // of the tensors
    char const* router;
    char const *gate_proj, *up_proj, *down_proj; // of one expert
    index_t intermediate, top_k;
    index_t shared_intermediate = 0;
};

/// The tensor that a parameter of ours has in the file.
std::string hub_name(Family const& f, std::string const& ours) {
    auto const starts = [&](char const* p) { return ours.rfind(p, 0) == 0; };
    auto const projection = [&](std::string const& slice, bool routed) -> std::string {
        if (!routed) return slice;
        return slice == "gate_proj" ? f.gate_proj : slice == "up_proj" ? f.up_proj : f.down_proj;
    };
    if (ours == "router.weight") return std::string(f.prefix) + f.router + ".weight";
    if (ours == "router.shared_gate") return std::string(f.prefix) + "shared_expert_gate.weight";
    if (starts("shared.")) return f.prefix + ("shared_expert." + ours.substr(7)) + ".weight";
    auto const dot = ours.rfind('.');
    return f.prefix + ours.substr(0, dot + 1) + projection(ours.substr(dot + 1), true) + ".weight";
}

template <class T, class G, class X>
void check_family(Family const& f, G gate, X expert, double tolerance) {
    checkpoint::SafetensorsFile const file{std::string(SEMOE_TEST_DATA "/layers/") + f.file};
    // Inputs and weights are float32; their double results are what the same numbers give widened.
    std::string const results = std::is_same_v<T, double> ? "f64." : "";
    auto const x_host = file.template values<T>("x"), dy_host = file.template values<T>("dy");
    index_t const H = expert.hidden, tokens = index_t(x_host.size()) / H;

    CpuBackend b{.threads = 2};
    MoeLayer layer{b, gate, expert};
    auto context = layer.make_context(tokens, Mode::training);
    layer.for_each_parameter(
        [&](std::string const& name, auto view, Shape) {
            auto const values = file.template values<T>(hub_name(f, name));
            REQUIRE(index_t(values.size()) == view.rows * view.cols);
            b.copy(view.data, values.data(), values.size() * sizeof(T));
        },
        BlockKind::weight, Access::write);
    layer.weights_changed();

    auto const x = test::to_backend(b, x_host), dy = test::to_backend(b, dy_host);
    auto y = test::to_backend(b, x_host), dx = test::to_backend(b, x_host);
    layer.forward(x.matrix(tokens, H), y.matrix(tokens, H), context);
    auto const chosen = context.assignment();
    auto const error = [&](auto const& ours, std::string const& name) {
        return test::relative_error(ours, file.template values<double>(name));
    };
    auto const ids = test::to_host(b, chosen.topk_ids.data, tokens * f.top_k);
    CHECK(ids == file.template values<std::int32_t>("topk_ids"));
    auto const host = [&](auto view) { return test::to_host(b, view.data, view.rows * view.cols); };
    CHECK(error(host(context.logits()), results + "router_logits") < tolerance);
    CHECK(error(host(chosen.topk_weights), results + "topk_weights") < tolerance);
    CHECK(error(test::to_host(b, y), results + "y") < tolerance);

    layer.backward(dy.matrix(tokens, H), dx.matrix(tokens, H), context);
    CHECK(error(test::to_host(b, dx), results + "dx") < tolerance);
    auto const gradients = test::parameters_of(layer, BlockKind::gradient);
    for (auto const& gradient : gradients) {
        std::string const& name = gradient.first; // clang 14 captures no binding
        CAPTURE(name);
        CHECK(error(gradient.second, results + "grad." + hub_name(f, name)) < tolerance);
    }
}

template <class T>
void check_families(double tolerance) {
    using expert::SwiGlu;
    Family const mixtral{.file = "mixtral.safetensors",
                         .prefix = "model.layers.0.block_sparse_moe.",
                         .router = "gate",
                         .gate_proj = "w1",
                         .up_proj = "w3",
                         .down_proj = "w2",
                         .intermediate = 28,
                         .top_k = 2};
    check_family<T>(mixtral, gate::TopK<gate::TopKSoftmax>{.num_experts = 8, .top_k = 2},
                    SwiGlu<T>{.hidden = 32, .intermediate = 28}, tolerance);
    Family olmoe{.file = "olmoe.safetensors",
                 .prefix = "model.layers.0.mlp.",
                 .router = "gate",
                 .gate_proj = "gate_proj",
                 .up_proj = "up_proj",
                 .down_proj = "down_proj",
                 .intermediate = 26,
                 .top_k = 3};
    check_family<T>(olmoe, gate::TopK<gate::Softmax>{.num_experts = 6, .top_k = 3},
                    SwiGlu<T>{.hidden = 36, .intermediate = 26}, tolerance);
    Family normalized = olmoe;
    normalized.file = "olmoe_normalized.safetensors";
    normalized.intermediate = 24;
    normalized.top_k = 2;
    check_family<T>(normalized, gate::TopK<gate::TopKSoftmax>{.num_experts = 4, .top_k = 2},
                    SwiGlu<T>{.hidden = 48, .intermediate = 24}, tolerance);
    Family qwen = olmoe;
    qwen.file = "qwen2_moe.safetensors";
    qwen.intermediate = 28;
    qwen.top_k = 3;
    qwen.shared_intermediate = 40;
    check_family<T>(qwen, gate::TopK<gate::Softmax>{.num_experts = 5, .top_k = 3},
                    expert::WithShared{SwiGlu<T>{.hidden = 44, .intermediate = 28},
                                       SwiGlu<T>{.hidden = 44, .intermediate = 40}, true},
                    tolerance);
}

} // namespace

TEST_CASE("layer/moe_layer: equals four reference blocks of three model families in double") {
    check_families<double>(1e-10);
}
TEST_CASE("layer/moe_layer: equals four reference blocks of three model families in float") {
    check_families<float>(1e-5);
}
