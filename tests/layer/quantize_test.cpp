#include "semoe/layer/quantize.hpp"

#include "semoe/checkpoint/checkpoint.hpp"
#include "semoe/checkpoint/safetensors_store.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/faulty_file_system.hpp"
#include "support/layer.hpp"
#include "support/matrix.hpp"

#include <chrono>
#include <cmath>
#include <doctest/doctest.h>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace quantize_test {
namespace {

constexpr index_t H = 72, I = 96, E = 4, num_tokens = 37;
using Choice = gate::TopK<gate::Softmax>;
Choice const top_2{.num_experts = E, .top_k = 2};

template <class T>
expert::SwiGlu<T> swiglu(index_t intermediate = I) {
    return {.hidden = H, .intermediate = intermediate};
}
template <class L>
std::vector<typename L::T> forward(L& layer, index_t tokens = num_tokens) {
    using T = typename L::T;
    auto x = random_values<T>(9, tokens * H);
    std::vector<T> y(x.size());
    auto context = layer.make_context(tokens);
    layer.forward(MatrixView<T const, HostSpace>(x.data(), tokens, H),
                  MatrixView<T, HostSpace>(y.data(), tokens, H), context);
    return y;
}
/// Weights of a quantised layer as the numbers that they stand for.
template <class L>
Named numbers_of(L& layer) {
    using T = typename L::T;
    Named all{{"router.weight", parameters_of(layer)["router.weight"]}};
    auto& b = layer.backend();
    auto const add = [&](expert_id id, std::string const& prefix, auto const& expert) {
        auto const lease =
            layer.tier().acquire(b, {layer.config().layer, id, BlockKind::weight}, Access::read);
        BlockLayout const floats = expert.base.layout(b);
        std::vector<T> numbers(static_cast<std::size_t>(floats.primary_elements()));
        VectorView<T, HostSpace> const to{numbers.data(), index_t(numbers.size())};
        expert.dequantize(b, lease.bytes(), as_writable_bytes(to));
        for (Slice const& s : floats)
            all[prefix + s.name].assign(numbers.begin() + s.offset,
                                        numbers.begin() + s.offset + s.elements);
    };
    for (expert_id const id : layer.local_experts())
        add(id, "experts." + std::to_string(id) + ".", semoe::detail::routed_part(layer.expert()));
    if constexpr (HasSharedExpert<std::remove_cvref_t<decltype(layer.expert())>>)
        add(shared_block, "shared.", layer.expert().shared);
    return all;
}
template <class L>
double cosine_with_reference(L& layer, index_t shared_intermediate = 0) {
    auto const silu = [](double x) { return x / (1 + std::exp(-x)); };
    auto const reference = reference_of(numbers_of(layer), H, I, E, reference_gate("softmax", 2),
                                        silu, {}, shared_intermediate);
    auto const x = random_values<typename L::T>(9, num_tokens * H);
    auto const want = reference.forward({x.begin(), x.end()}).y;
    auto const got = forward(layer);
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        double const a = double(got[i]);
        ab += a * want[i], aa += a * a, bb += want[i] * want[i];
    }
    return ab / std::sqrt(aa * bb);
}

} // namespace

TEST_CASE_TEMPLATE("layer/quantize: a quantised layer is the dense reference of its numbers",
                   Format, quant::Int8, quant::Int4, quant::Mxfp4) {
    CpuBackend const b{.threads = 2};
    MoeLayer floats{b, top_2, swiglu<float>()};
    floats.initialize(5);
    MoeLayer layer{b, top_2, expert::Quantized{Format{}, swiglu<float>()}};
    quantize(floats, layer);
    CHECK(cosine_with_reference(layer) >= 0.999);
    // As initialize() would have drawn it.
    MoeLayer drawn{b, top_2, expert::Quantized{Format{}, swiglu<float>()}};
    drawn.initialize(5);
    CHECK(parameters_of(drawn) == parameters_of(layer));
}

TEST_CASE("layer/quantize: shared experts may be quantised, or routed ones, or both") {
    CpuBackend const b{.threads = 2};
    using expert::Quantized, expert::WithShared;
    MoeLayer floats{b, top_2, WithShared{swiglu<float>(), swiglu<float>(40)}};
    floats.initialize(6);
    MoeLayer both{b, top_2,
                  WithShared{Quantized{quant::Int8{}, swiglu<float>()},
                             Quantized{quant::Mxfp4{}, swiglu<float>(40)}}};
    MoeLayer routed{b, top_2,
                    WithShared{Quantized{quant::Int8{}, swiglu<float>()}, swiglu<float>(40)}};
    MoeLayer shared{b, top_2,
                    WithShared{swiglu<float>(), Quantized{quant::Int8{}, swiglu<float>(40)}}};
    quantize(floats, both);
    quantize(floats, routed);
    quantize(floats, shared);
    CHECK(cosine_with_reference(both, 40) >= 0.999);
    auto const want = forward(floats);
    CHECK(relative_error(forward(routed), want) <= 0.05);
    CHECK(relative_error(forward(shared), want) <= 0.05);
    CHECK(parameters_of(routed)["shared.up_proj"] == parameters_of(floats)["shared.up_proj"]);
    shared.initialize(6);
    CHECK(relative_error(forward(shared), want) <= 0.05);
}

TEST_CASE("layer/quantize: bits are the same through ranks, chunks, two slots and any batch") {
    using T = bf16;
    CpuBackend const b{.threads = 2};
    expert::Quantized const expert{quant::Int4{}, swiglu<T>()};
    MoeLayer whole{b, top_2, expert};
    whole.initialize(3);
    auto const want = forward(whole);
    auto const one = forward(whole, 1);
    CHECK(same_bits(one, {want.begin(), want.begin() + H}));

    tier::Cached const cached{b, tier::HostStore{}, {.slots = 2}};
    MoeLayer slots{b, top_2, expert, comm::Self{}, cached, schedule::Chunked{.chunks = 3}};
    quantize_from(slots, [&](std::string const& name, auto view) {
        // Whatever reads floats: here they are drawn as the other layer's were.
        MoeLayer floats{b, top_2, swiglu<T>()};
        floats.initialize(3);
        floats.for_each_parameter([&](std::string const& other, auto from, Shape) {
            if (other != name) return;
            using From = std::remove_cvref_t<decltype(*from.data)>;
            if constexpr (std::is_same_v<From, std::remove_cvref_t<decltype(*view.data)>>)
                std::copy_n(from.data, from.rows * from.cols, view.data);
        });
    });
    CHECK(parameters_of(slots) == parameters_of(whole));
    CHECK(same_bits(forward(slots), want));

    for (int const ranks : {2, 4})
        comm::ThreadWorld(ranks).run([&](comm::Threads rank) {
            MoeLayer part{b, top_2, expert, rank};
            part.initialize(3);
            auto const got = forward(part);
            CHECK(same_bits(got, want));
        });
}

TEST_CASE("layer/quantize: quantised layers are saved and loaded as bytes") {
    CpuBackend const b{.threads = 1};
    expert::Quantized const expert{quant::Mxfp4{}, swiglu<float>()};
    MoeLayer layer{b, top_2, expert}, again{b, top_2, expert};
    layer.initialize(8);
    ScratchDirectory directory;
    checkpoint::save(directory / "layer", {}, layer);
    checkpoint::load(directory / "layer", again);
    CHECK(parameters_of(again) == parameters_of(layer));
}

TEST_CASE("layer/quantize: codes of another format or another size are refused") {
    ScratchDirectory directory;
    std::string const path = directory / "codes.safetensors";
    CpuBackend const b{.threads = 1};
    expert::Quantized const saved{quant::Int4{}, swiglu<float>(96)};
    MoeLayer layer{b, top_2, saved};
    layer.initialize(1);
    checkpoint::save(path, {}, layer);
    auto const refused = [&](auto const& expert) {
        MoeLayer other{b, top_2, expert};
        other.initialize(2);
        auto const before = parameters_of(other);
        CHECK_THROWS_WITH_AS(checkpoint::load(path, other),
                             doctest::Contains("layers.0.experts.codes is int4, hidden 72, inter"),
                             store_error);
        CHECK(parameters_of(other) == before);
        using Store = checkpoint::SafetensorsStore;
        CHECK_THROWS_WITH_AS(
            (MoeLayer{b, top_2, expert, comm::Self{},
                      tier::Cached{b, Store{path, b, top_2, expert}, {.slots = 1}}}),
            doctest::Contains("experts.codes is int4"), store_error);
    };
    refused(expert::Quantized{quant::Mxfp4{}, swiglu<float>(96)});
    refused(expert::Quantized{quant::Int4{}, swiglu<float>(81)}); // as many tiles of 16 rows
    MoeLayer same{b, top_2, saved};
    checkpoint::load(path, same);
    CHECK(parameters_of(same) == parameters_of(layer));
}

TEST_CASE("layer/quantize: layers that do not match, and training, are refused") {
    CpuBackend const b{.threads = 1};
    MoeLayer layer{b, top_2, expert::Quantized{quant::Int8{}, swiglu<float>()}};
    MoeLayer other{b, Choice{.num_experts = 3, .top_k = 2}, swiglu<float>()};
    CHECK_THROWS_AS(quantize(other, layer), precondition_error);
    MoeLayer narrow{b, top_2, swiglu<float>(I - 1)};
    CHECK_THROWS_WITH_AS(quantize(narrow, layer), doctest::Contains("needed"), precondition_error);
    // As many numbers, of other matrices.
    MoeLayer plain{b, top_2,
                   expert::Ffn<float, ops::activation::Silu>{.hidden = H, .intermediate = 3 * I}};
    MoeLayer gated{b, top_2, expert::Quantized{quant::Int8{}, swiglu<float>(2 * I)}};
    CHECK_THROWS_WITH_AS(quantize(plain, gated), doctest::Contains("quantize: an expert has up"),
                         precondition_error);
    comm::ThreadWorld(2).run([&](comm::Threads ranks) {
        MoeLayer whole{b, top_2, swiglu<float>()};
        MoeLayer spread{b, top_2, expert::Quantized{quant::Int8{}, swiglu<float>()}, ranks};
        CHECK_THROWS_WITH_AS(quantize(whole, spread), doctest::Contains("over ranks alike"),
                             precondition_error);
    });
    CHECK_THROWS_WITH_AS(layer.make_context(4, Mode::training),
                         doctest::Contains("quantised experts are for inference"),
                         precondition_error);
}

TEST_CASE("layer/quantize: what is refused leaves the layer's blocks as they were") {
    CpuBackend const b{.threads = 1};
    auto const quantised = expert::Quantized{quant::Int8{}, swiglu<float>()};
    MoeLayer from{b, top_2, expert::WithShared{swiglu<float>(), swiglu<float>()}};
    MoeLayer to{b, top_2,
                expert::WithShared{quantised, swiglu<float>(), true}, // its router has a row more
                comm::Self{}, tier::Cached{b, tier::HostStore{}, {.slots = 1}}};
    from.initialize(1);
    to.initialize(2);
    auto const before = parameters_of(to);
    CHECK_THROWS_WITH_AS(quantize(from, to),
                         "quantize: routers of 1152 and 1440 bytes: only one layer's shared expert "
                         "has a sigmoid_gate",
                         precondition_error);
    CHECK(parameters_of(to) == before);
}

/// Takes its time, so that what is enqueued behind it is late.
struct Nap {
    void operator()(index_t) const { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }
};

TEST_CASE("layer/quantize: what the other layer's queue has still to do comes first") {
    CpuBackend b{.threads = 1};
    MoeLayer from{b.fork(), top_2, swiglu<float>()};
    MoeLayer to{b.fork(), top_2, expert::Quantized{quant::Int8{}, swiglu<float>()}};
    from.backend().parallel_for(1, Nap{});
    from.initialize(1);
    quantize(from, to);
    to.backend().synchronize();
    from.backend().synchronize();
    CHECK(parameters_of(to)["router.weight"] == parameters_of(from)["router.weight"]);
}

} // namespace quantize_test
