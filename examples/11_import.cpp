// Weights that another program published, under its names and in its types, into a layer.

#include <semoe/checkpoint/import.hpp>
#include <semoe/checkpoint/safetensors_writer.hpp>
#include <semoe/semoe.hpp>

#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

using semoe::bf16, semoe::index_t;

namespace {
constexpr index_t hidden = 16, intermediate = 24, num_experts = 4, tokens = 5;

/// "layers.0.experts.3.gate_proj" is "model.layers.0.mlp.experts.3.gate_proj.weight" there, and the
/// router is called gate.
std::string published(std::string const& ours) {
    std::string const layer = "layers.0.", name = ours.substr(layer.size());
    return "model." + layer + "mlp." + (name == "router.weight" ? "gate.weight" : name + ".weight");
}
/// A file as another program would write it, all of it in bf16.
void write_model(std::string const& path) {
    std::map<std::string, std::vector<index_t>> shapes{
        {"model.layers.0.mlp.gate.weight", {num_experts, hidden}},
        {"model.embed_tokens.weight", {8, hidden}}};
    for (index_t e = 0; e < num_experts; ++e) {
        std::string const expert = "model.layers.0.mlp.experts." + std::to_string(e);
        shapes[expert + ".gate_proj.weight"] = {intermediate, hidden};
        shapes[expert + ".up_proj.weight"] = {intermediate, hidden};
        shapes[expert + ".down_proj.weight"] = {hidden, intermediate};
    }
    semoe::checkpoint::SafetensorsWriter writer{path};
    for (auto const& [name, shape] : shapes)
        writer.declare(name, semoe::checkpoint::Dtype::BF16, shape);
    for (auto const& [name, shape] : shapes) {
        std::vector<bf16> values(std::size_t(shape[0] * shape[1]));
        for (std::size_t i = 0; i < values.size(); ++i)
            values[i] = bf16(float((i * 37 + name.size()) % 101) / 100 - 0.5f);
        writer.write(name, std::as_bytes(std::span(values)));
    }
    writer.commit();
}
} // namespace

int main() {
    auto const path =
        (std::filesystem::temp_directory_path() / "semoe_example_11.safetensors").string();
    write_model(path);

    semoe::MoeLayer layer{
        semoe::CpuBackend{},
        semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = num_experts, .top_k = 2},
        semoe::expert::SwiGlu<bf16>{.hidden = hidden, .intermediate = intermediate}};
    semoe::checkpoint::import_weights(path, published, layer);

    // The router computes in float: its weights were widened on the way.
    auto const file = semoe::checkpoint::SafetensorsFile{path};
    auto const gate = file.values<float>("model.layers.0.mlp.gate.weight");
    bool same = false;
    layer.for_each_parameter([&](std::string const& name, auto view, auto const&) {
        if (name != "router.weight") return;
        same = true;
        for (std::size_t i = 0; i < gate.size(); ++i) same &= float(view.data[i]) == gate[i];
    });

    std::vector<bf16> x(tokens * hidden, bf16(0.5f)), y(x.size());
    auto context = layer.make_context(tokens);
    layer.forward({x.data(), tokens, hidden}, {y.data(), tokens, hidden}, context);
    std::filesystem::remove(path);
    std::printf("%zu tensors, of which the layer took %lld; y[0] = %.4f\n", file.names().size(),
                static_cast<long long>(1 + 3 * num_experts), double(float(y[0])));
    return same && float(y[0]) != 0 ? 0 : 1;
}
