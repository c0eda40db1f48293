#include "semoe/checkpoint/import.hpp"

#include "semoe/checkpoint/safetensors_writer.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "support/faulty_file_system.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

using namespace semoe;
using namespace semoe::checkpoint;

namespace import_test {
namespace {

constexpr index_t H = 8, I = 6, E = 3;
using Swi = expert::SwiGlu<bf16>;
using Experts = expert::WithShared<Swi, Swi>;
using Index = std::vector<index_t>;

template <class Store = tier::HostStore>
auto make_layer(Store store = {}) {
    CpuBackend b{.threads = 1};
    Swi const one{.hidden = H, .intermediate = I};
    return MoeLayer{b,
                    gate::TopK<gate::Softmax>{.num_experts = E, .top_k = 2},
                    Experts{one, one, true},
                    comm::Self{},
                    tier::Cached{b, store, {.slots = 1}},
                    MoeConfig{.layer = 4}};
}
/// "layers.4.experts.0.up_proj" as models are often published.
std::string published(std::string const& name) {
    std::map<std::string, std::string> const dense{
        {"layers.4.router.weight", "gate.weight"},
        {"layers.4.router.shared_gate", "shared_expert_gate.weight"}};
    auto const found = dense.find(name);
    std::string rest = found != dense.end() ? found->second : name.substr(9) + ".weight";
    if (rest.starts_with("shared.")) rest = "shared_expert." + rest.substr(7);
    return "model.layers.4.mlp." + rest;
}

struct Tensor {
    Dtype dtype;
    Index shape;
    std::vector<float> values;
};
using Tensors = std::map<std::string, Tensor>;

/// What a layer of these has, each in a type of its own, and a tensor of somebody else's.
Tensors tensors_of_layer() {
    Tensors all;
    auto layer = make_layer();
    layer.initialize(1);
    unsigned n = 0;
    layer.for_each_parameter([&](std::string const& name, auto view, Shape) {
        Tensor t{n++ % 2 ? Dtype::F32 : Dtype::BF16, {view.rows, view.cols}, {}};
        for (index_t i = 0; i < view.rows * view.cols; ++i)
            t.values.push_back(float(bf16(float(view.data[i])))); // exact in either type
        if (view.rows == 1) t.shape.erase(t.shape.begin());
        all[published("layers.4." + name)] = t;
    });
    all["model.embed_tokens.weight"] = {Dtype::F32, {2, 2}, {1, 2, 3, 4}};
    return all;
}
void write(std::string const& path, Tensors const& tensors) {
    SafetensorsWriter writer{path};
    for (auto const& [name, t] : tensors) writer.declare(name, t.dtype, t.shape);
    for (auto const& [name, t] : tensors) {
        if (t.dtype == Dtype::F32) {
            writer.write(name, std::as_bytes(std::span(t.values)));
        } else {
            std::vector<bf16> const narrow(t.values.begin(), t.values.end());
            writer.write(name, std::as_bytes(std::span(narrow)));
        }
    }
    writer.commit();
}

} // namespace

TEST_CASE("checkpoint/import: other names and types, through a tier of one slot") {
    test::ScratchDirectory directory;
    std::string const path = directory / "model.safetensors";
    Tensors const tensors = tensors_of_layer();
    write(path, tensors);
    auto layer = make_layer();
    import_weights(path, published, layer);
    index_t seen = 0;
    layer.for_each_parameter([&](std::string const& name, auto view, Shape) {
        CAPTURE(name);
        auto const& wanted = tensors.at(published("layers.4." + name)).values;
        bool same = index_t(wanted.size()) == view.rows * view.cols;
        for (index_t i = 0; same && i < view.rows * view.cols; ++i)
            same = float(view.data[i]) == wanted[std::size_t(i)];
        CHECK(same);
        ++seen;
    });
    CHECK(seen == index_t(tensors.size()) - 1);
}

TEST_CASE("checkpoint/import: all experts in one tensor, whichever way it lies") {
    test::ScratchDirectory directory;
    std::string const path = directory / "fused.safetensors";
    auto source = make_layer();
    source.initialize(1);
    for (bool const transposed : {false, true})
        for (bool const interleaved : {false, true}) {
            /// "layers.4.experts.1.up_proj" is half of slice 1: its second half, or every other
            /// row.
            auto const part_of = [&](std::string const& name) -> TensorPart {
                if (name.find(".experts.") == std::string::npos) return {.name = published(name)};
                std::string const matrix = name.substr(19);
                bool const down = matrix == "down_proj";
                return {.name = down ? "down" : "gate_up",
                        .slice = name[17] - '0',
                        .slices = E,
                        .part = matrix == "up_proj" ? 1 : 0,
                        .parts = down ? 1 : 2,
                        .interleaved = interleaved,
                        .transposed = transposed};
            };
            Tensors tensors;
            source.for_each_parameter([&](std::string const& name, auto view, Shape) {
                TensorPart const p = part_of("layers.4." + name);
                bool const one = p.slices == 0, turned = p.transposed;
                index_t const all = view.rows * p.parts, slice = all * view.cols;
                Tensor& t = tensors[p.name];
                t.dtype = p.name == "down" ? Dtype::BF16 : Dtype::F32;
                t.shape = turned ? Index{view.cols, all} : Index{all, view.cols};
                if (!one) t.shape.insert(t.shape.begin(), E);
                t.values.resize(std::size_t(one ? slice : E * slice));
                for (index_t r = 0; r < view.rows; ++r)
                    for (index_t c = 0; c < view.cols; ++c) {
                        index_t const row =
                            p.interleaved ? r * p.parts + p.part : p.part * view.rows + r;
                        index_t const at = turned ? c * all + row : row * view.cols + c;
                        t.values[std::size_t(p.slice * slice + at)] = float(view.row(r)[c]);
                    }
            });
            CHECK(tensors.at("gate_up").shape ==
                  (transposed ? Index{E, H, 2 * I} : Index{E, 2 * I, H}));
            write(path, tensors);
            auto layer = make_layer();
            import_weights(path, part_of, layer);
            CHECK(test::parameters_of(layer) == test::parameters_of(source));

            auto const fewer = [&](std::string const& name) {
                TensorPart part = part_of(name);
                part.slices -= part.slices > 0;
                return part;
            };
            CHECK_THROWS_WITH_AS(import_weights(path, fewer, layer),
                                 doctest::Contains("'gate_up': shape is [3,"), store_error);
            tensors.at("down").shape = {E, H, I, 1};
            write(path, tensors);
            CHECK_THROWS_AS(import_weights(path, part_of, layer), store_error);
            CHECK(test::parameters_of(layer) == test::parameters_of(source));
        }
}

TEST_CASE("checkpoint/import: part of a vector, and parts that no tensor has") {
    test::ScratchDirectory directory;
    std::string const path = directory / "biases.safetensors";
    write(path, {{"bias", {Dtype::F32, {2, 6}, {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}}}});
    CpuBackend b{.threads = 1};
    Reader reader{path};
    float bias[3] = {};
    VectorView<float, HostSpace> const view{bias, 3};
    reader.read_values(b, {.name = "bias", .slice = 1, .slices = 2, .part = 1, .parts = 2}, view);
    CHECK(std::vector<float>(bias, bias + 3) == std::vector<float>{13, 14, 15});
    reader.read_values(
        b, {.name = "bias", .slice = 1, .slices = 2, .part = 0, .parts = 2, .interleaved = true},
        view);
    CHECK(std::vector<float>(bias, bias + 3) == std::vector<float>{10, 12, 14});
    for (TensorPart const& part :
         {TensorPart{.name = "bias", .slice = 2, .slices = 2, .parts = 2},
          TensorPart{.name = "bias", .slice = -1, .slices = 2},
          TensorPart{.name = "bias", .slice = 1},
          TensorPart{.name = "bias", .slices = 2, .part = 2, .parts = 2},
          TensorPart{.name = "bias", .slices = 2, .parts = 0},
          TensorPart{
              .name = "bias", .slices = 2, .parts = std::numeric_limits<index_t>::max() / 3}})
        CHECK_THROWS_WITH_AS(reader.check_values(part, view), doctest::Contains("'bias'"),
                             precondition_error);
}

TEST_CASE("checkpoint/import: a flush makes a file of blocks of them") {
    test::ScratchDirectory directory;
    std::string const path = directory / "model.safetensors", blocks = directory / "model.semoe";
    write(path, tensors_of_layer());
    auto resident = make_layer();
    import_weights(path, published, resident);
    {
        auto layer = make_layer(tier::FileStore{blocks});
        import_weights(path, published, layer);
        layer.tier().flush(layer.backend());
    }
    auto served = make_layer(tier::FileStore{blocks, {.read_only = true}});
    CHECK(test::parameters_of(served) == test::parameters_of(resident));
}

TEST_CASE("checkpoint/import: what a file lacks is named, and nothing has been written") {
    test::ScratchDirectory directory;
    std::string const path = directory / "model.safetensors";
    std::string const name = "model.layers.4.mlp.experts.2.down_proj.weight";
    auto const refused = [&](auto const& change, std::string const& what) {
        Tensors tensors = tensors_of_layer();
        change(tensors);
        write(path, tensors);
        auto layer = make_layer();
        layer.initialize(2);
        auto const before = test::parameters_of(layer);
        CHECK_THROWS_WITH_AS(import_weights(path, published, layer),
                             (path + ": tensor '" + name + "': " + what).c_str(), store_error);
        CHECK(test::parameters_of(layer) == before);
    };
    refused([&](Tensors& t) { t.erase(name); }, "missing");
    refused([&](Tensors& t) { t[name].shape = {I, H}; }, "shape is [6,8], this model has [8,6]");
    refused(
        [&](Tensors& t) {
            t[name].dtype = Dtype::U16; // as many bytes as BF16
        },
        "dtype is U16, this model has BF16");
}

} // namespace import_test
