#include "semoe/checkpoint/checkpoint.hpp"
#include "semoe/checkpoint/safetensors_store.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/tier/cached.hpp"
#include "support/faulty_file_system.hpp"
#include "support/layer.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace activation_test {
namespace {

gate::TopK<gate::Softmax> const gate{.num_experts = 3, .top_k = 2};
CpuBackend const backend{.threads = 1};

template <class Act>
expert::Gated<float, Act> const gated{.hidden = 8, .intermediate = 6};
using ops::activation::Gelu, ops::activation::Silu;

/// A user's own, without a name.
struct Square {
    float operator()(float x) const { return x * x; }
};

template <class X>
void save(std::string const& path, X const& expert) {
    MoeLayer layer{backend, gate, expert};
    layer.initialize(1);
    checkpoint::save(path, {}, layer);
}
template <class X>
void expect_refused(std::string const& path, X const& expert, std::string const& text) {
    MoeLayer layer{backend, gate, expert};
    layer.initialize(2);
    auto const before = parameters_of(layer);
    CHECK_THROWS_WITH_AS(checkpoint::load(path, layer), (path + ": " + text).c_str(), store_error);
    CHECK_THROWS_WITH_AS(checkpoint::load_weights(path, layer), (path + ": " + text).c_str(),
                         store_error);
    CHECK(parameters_of(layer) == before);
}

} // namespace

TEST_CASE("checkpoint/activation: experts of another activation are refused by both names") {
    ScratchDirectory directory;
    std::string const path = directory / "silu";
    std::string const differs = "layers.0.experts.activation is silu, this model has gelu";
    save(path, gated<Silu>);
    expect_refused(path, gated<Gelu>, differs);
    using Store = checkpoint::SafetensorsStore;
    CHECK_THROWS_WITH_AS(
        (MoeLayer{backend, gate, gated<Gelu>, comm::Self{},
                  tier::Cached{backend, Store{path, backend, gate, gated<Gelu>}, {.slots = 1}}}),
        doctest::Contains(differs.c_str()), store_error);

    save(path, expert::Quantized{quant::Int8{}, gated<Silu>});
    expect_refused(path, expert::Quantized{quant::Int8{}, gated<Gelu>}, differs);

    save(path, expert::WithShared{gated<Silu>, gated<Silu>});
    expect_refused(path, expert::WithShared{gated<Silu>, gated<Gelu>},
                   "layers.0.shared.activation is silu, this model has gelu");
}

TEST_CASE("checkpoint/activation: one without a name fits any, in the file and in the model") {
    ScratchDirectory directory;
    std::string const path = directory / "file";
    MoeLayer named{backend, gate, gated<Silu>};
    MoeLayer nameless{backend, gate, gated<Square>};
    named.initialize(1);
    checkpoint::save(path, {}, named);
    checkpoint::load(path, nameless);
    CHECK(parameters_of(nameless) == parameters_of(named));

    nameless.initialize(2);
    checkpoint::save(path, {}, nameless);
    checkpoint::load(path, named);
    CHECK(parameters_of(named) == parameters_of(nameless));
}

} // namespace activation_test
