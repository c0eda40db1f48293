#include "semoe/checkpoint/safetensors_store.hpp"

#include "semoe/checkpoint/checkpoint.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/layer/quantize.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "semoe/tier/store/write_blocks.hpp"
#include "support/backends.hpp"
#include "support/direct.hpp"
#include "support/memory.hpp"
#include "tier/file_blocks.hpp"

#include <atomic>
#include <doctest/doctest.h>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>

using namespace semoe;
using namespace semoe::test;
using checkpoint::SafetensorsStore;

namespace safetensors_store_test {
namespace {

constexpr index_t H = 24, E = 5, num_tokens = 19;
gate::TopK<gate::Softmax> const top_2{.num_experts = E, .top_k = 2};
using Swi = expert::SwiGlu<bf16>;
Swi const routed{.hidden = H, .intermediate = 17};
expert::WithShared const both{routed, Swi{.hidden = H, .intermediate = 30}, true};

std::vector<io::Engine> engines() {
    if (io::ring_available()) return {io::Engine::threads, io::Engine::ring};
    return {io::Engine::threads};
}

template <class X>
auto resident_layer(X const& expert, layer_id number = 0) {
    CpuBackend b{.threads = 1};
    return MoeLayer{b,
                    top_2,
                    expert,
                    comm::Self{},
                    tier::Resident<CpuBackend>{b},
                    schedule::Sequential{},
                    MoeConfig{.layer = number}};
}
template <class X, class Store>
auto cached_layer(X const& expert, Store store, tier::CachedOptions options, layer_id number = 0) {
    CpuBackend b{.threads = 1};
    return MoeLayer{b,
                    top_2,
                    expert,
                    comm::Self{},
                    tier::Cached{b, store, options},
                    schedule::Sequential{},
                    MoeConfig{.layer = number}};
}
template <class L>
std::string outputs(L& layer) {
    using T = typename L::T;
    auto x = random_values<T>(9, num_tokens * H);
    std::vector<T> y(x.size());
    auto context = layer.make_context(num_tokens);
    layer.forward(MatrixView<T const, HostSpace>(x.data(), num_tokens, H),
                  MatrixView<T, HostSpace>(y.data(), num_tokens, H), context);
    return {reinterpret_cast<char const*>(y.data()), y.size() * sizeof(T)};
}
template <class Store>
HostBytes bytes_in(Store& store, BlockKey key) {
    CpuBackend b{.threads = 1};
    HostBytes bytes(std::size_t(store.info(key).bytes), std::byte{99});
    b.wait(store.load(b, key, {bytes.data(), index_t(bytes.size())}));
    return bytes;
}
template <class L>
HostBytes bytes_of_layer(L& layer, BlockKey key) {
    auto const lease = layer.tier().acquire(layer.backend(), key, Access::read);
    return testing::detail::fetched(layer.backend(), lease.bytes().data, lease.bytes().size);
}

/// What a store needs to know of an expert: blocks of any shape, without products.
struct Shapes {
    using value_type = float;
    index_t hidden = 0;
    std::vector<Shape> slices;
    bool derived = false;

    template <class B>
    BlockLayout layout(B const&) const {
        BlockLayout all{derived ? LayoutId::panels_16 : LayoutId::row_major};
        for (std::size_t i = 0; i < slices.size(); ++i)
            all.add(names[i], slices[i].rows, slices[i].cols);
        if (derived) all.add_derived("panels", 16, 1, 16);
        return all;
    }
    index_t saved_columns() const { return 0; }
    index_t scratch_columns() const { return 0; }
    template <class B>
    void forward_grouped(B&, ops::Group<std::byte const> const&,
                         ExpertRows<float, space_of<B>>) const {}

    static constexpr char const* names[] = {"up_proj", "down_proj", "bias"};
};

struct Tensor {
    std::string name;
    checkpoint::Dtype dtype;
    std::vector<index_t> shape;
};
/// A file of tensors whose bytes are the pattern of their number.
void write_tensors(std::string const& path, std::vector<Tensor> const& tensors) {
    checkpoint::SafetensorsWriter file{path};
    for (Tensor const& t : tensors) file.declare(t.name, t.dtype, t.shape);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        index_t n = size_bytes(tensors[i].dtype);
        for (index_t const dimension : tensors[i].shape) n *= dimension;
        file.write(tensors[i].name, pattern(std::uint32_t(i), n));
    }
    file.commit();
}
constexpr auto F32 = checkpoint::Dtype::F32;
/// Block (layer 0, expert 0) of Shapes{4, {{3, 4}, {4, 3}}}, and its router for one expert.
std::vector<Tensor> const small{{"layers.0.experts.0.up_proj", F32, {3, 4}},
                                {"layers.0.experts.0.down_proj", F32, {4, 3}},
                                {"layers.0.router.weight", F32, {1, 4}}};
Shapes const small_shapes{4, {{3, 4}, {4, 3}}};
struct OneExpert {
    index_t num_experts = 1;
};
constexpr BlockKey first{0, 0, BlockKind::weight};

SafetensorsStore open(std::string const& path, Shapes const& shapes,
                      checkpoint::SafetensorsOptions options = {},
                      io::FileSystem& system = io::default_file_system()) {
    return {path, CpuBackend{.threads = 1}, OneExpert{}, shapes, options, system};
}

} // namespace

TEST_CASE("checkpoint/safetensors_store: a layer over it computes the bits of the layer that wrote "
          "it, from one slot to all") {
    ScratchDirectory directory;
    std::string const path = directory / "7.safetensors";
    auto lower = resident_layer(both, 2), upper = resident_layer(both, 11);
    lower.initialize(1);
    upper.initialize(2);
    checkpoint::save(path, {.step = 7}, lower, upper);
    for (io::Engine const engine : engines())
        for (io::Way const way : {io::Way::direct, io::Way::cached, io::Way::mapped}) {
            if (way == io::Way::mapped && engine == io::Engine::ring) continue;
            SafetensorsStore file{path,
                                  lower.backend(),
                                  top_2,
                                  both,
                                  {way, {.depth = 2, .piece_bytes = 4096, .engine = engine}}};
            CHECK(file.way() == (way == io::Way::direct ? direct_way() : way));
            CHECK(file.engine() == engine);
            for (tier::CachedOptions const& options :
                 {tier::CachedOptions{.slots = 1}, {.slots = 3}, {.slots = E}, {.bytes = 20'000}}) {
                auto one = cached_layer(both, file, options, 2);
                auto two = cached_layer(both, file, options, 11);
                CHECK(outputs(one) == outputs(lower));
                CHECK(outputs(two) == outputs(upper));
                CHECK(one.tier().counters().write_backs == 0);
            }
        }
}

TEST_CASE("checkpoint/safetensors_store: knows every block of the file, and no other tensor") {
    ScratchDirectory directory;
    auto lower = resident_layer(both, 2), upper = resident_layer(both, 11);
    checkpoint::save(directory / "a", {}, [&](auto& visit) {
        std::vector<float> other(7);
        visit(lower.backend(), "layers.2.norm", VectorView<float, HostSpace>{other.data(), 7});
        visit(lower.backend(), "layers.x.router.weight",
              VectorView<float, HostSpace>{other.data(), 7});
        visit(lower.backend(), "layers.02.router.weight",
              VectorView<float, HostSpace>{other.data(), 7});
        visit(lower.backend(), "layers.4.experts.0.up_proj",
              VectorView<float, HostSpace>{other.data(), 7});
        checkpoint::visit_layer(lower, visit);
        checkpoint::visit_layer(upper, visit);
    });
    SafetensorsStore file{directory / "a", lower.backend(), top_2, both};
    std::vector<BlockKey> wanted;
    for (layer_id const layer : {2, 11})
        for (expert_id const id : {-2, -1, 0, 1, 2, 3, 4})
            wanted.push_back({layer, id, BlockKind::weight});
    CHECK(file.keys() == wanted);
    for (BlockKey const key : wanted) {
        auto& layer = key.layer == 2 ? lower : upper;
        CHECK(file.contains(key));
        CHECK(file.info(key) == layer.tier().info(key));
        CHECK(bytes_in(file, key) == bytes_of_layer(layer, key));
        SafetensorsStore copy = file;
        copy.declare(key, file.info(key));
        copy.declare(key, file.info(key));
    }
    for (BlockKey const key : {BlockKey{2, 5, BlockKind::weight},
                               {3, 0, BlockKind::weight},
                               {4, 0, BlockKind::weight},
                               {2, -3, BlockKind::weight},
                               {-1, 0, BlockKind::weight},
                               {2, 0, BlockKind::gradient},
                               {2, 0, BlockKind::moments}})
        CHECK_FALSE(file.contains(key));

    // An expert without a shared one sees no shared blocks.
    SafetensorsStore plain{directory / "a", lower.backend(), top_2, routed};
    CHECK(plain.keys().size() == 2 * (1 + E));
    CHECK_FALSE(plain.contains({2, shared_block, BlockKind::weight}));
}

TEST_CASE("checkpoint/safetensors_store: blocks of bytes, of a quantised expert") {
    ScratchDirectory directory;
    auto trained = resident_layer(routed);
    trained.initialize(1);
    expert::Quantized const expert{quant::Int8{}, routed};
    auto served = resident_layer(expert);
    quantize(trained, served);
    checkpoint::save(directory / "a", {}, served);
    SafetensorsStore file{directory / "a", served.backend(), top_2, expert};
    auto layer = cached_layer(expert, file, {.slots = 1});
    CHECK(outputs(layer) == outputs(served));
}

TEST_CASE_TEMPLATE("checkpoint/safetensors_store: a load waits for the queue's earlier work, and "
                   "for nothing in the file",
                   B, SEMOE_TEST_BACKENDS) {
    ScratchDirectory directory;
    write_tensors(directory / "a", small);
    B b;
    SafetensorsStore file{directory / "a", b, OneExpert{}, small_shapes};
    index_t const n = file.info(first).bytes;
    CHECK(n == 96);
    Buffer<std::byte, B> buffer(b, n), before(b, n);
    b.parallel_for(n, testing::detail::StampFn{buffer.data(), 7});
    b.copy(before.data(), buffer.data(), std::size_t(n));
    b.wait(file.load(b, first, buffer.view()));
    CHECK(testing::detail::fetched(b, before.data(), n) == pattern(7, n));
    HostBytes wanted = pattern(0, 48), second = pattern(1, 48);
    wanted.insert(wanted.end(), second.begin(), second.end());
    CHECK(testing::detail::fetched(b, buffer.data(), n) == wanted);
    auto const counters = file.counters();
    CHECK(counters.loads == 1);
    CHECK(counters.bytes_loaded == 96);
    CHECK(counters.transfers.reads == 2);
    CHECK(counters.transfers.bytes_read == 96);
}

TEST_CASE("checkpoint/safetensors_store: slices and blocks of no elements") {
    ScratchDirectory directory;
    write_tensors(directory / "a", {{"layers.0.experts.0.up_proj", F32, {0, 4}},
                                    {"layers.0.experts.0.down_proj", F32, {4, 0}},
                                    {"layers.0.experts.0.bias", F32, {1, 1}}});
    auto some = open(directory / "a", {4, {{0, 4}, {4, 0}, {1, 1}}});
    CHECK(bytes_in(some, first) == pattern(2, 4));
    auto none = open(directory / "a", {4, {{0, 4}, {4, 0}}});
    none.declare(first, {0, LayoutId::row_major});
    CHECK(bytes_in(none, first).empty());
    CHECK(none.counters().transfers.reads == 0);
    auto nothing = open(directory / "a", {4, {}});
    for (int i = 0; i < 20; ++i) CHECK(bytes_in(nothing, first).empty());
    write_tensors(directory / "b", {});
    CHECK(open(directory / "b", small_shapes).keys().empty());
}

TEST_CASE("checkpoint/safetensors_store: a file that has tensors, and no block of the model, is "
          "refused") {
    ScratchDirectory directory;
    std::string const path = directory / "a";
    write_tensors(path, {{"model.layers.0.mlp.experts.0.up_proj.weight", F32, {3, 4}}});
    CHECK(store_error_of([&] {
              (void)open(path, small_shapes);
          }).starts_with(path + ": none of its 1 tensors is of a block of this model"));
}

TEST_CASE("checkpoint/safetensors_store: what does not fit the model is named where it is "
          "declared") {
    ScratchDirectory directory;
    std::string const path = directory / "a", tensor = "layers.0.experts.0.down_proj";
    BlockInfo const info{96, LayoutId::row_major};
    auto const error = [&](std::vector<Tensor> const& tensors, BlockKey key = first,
                           BlockInfo asked = {96, LayoutId::row_major}) {
        write_tensors(path, tensors);
        return store_error_of([&] { open(path, small_shapes).declare(key, asked); });
    };
    auto changed = small;
    CHECK(error(small) == "");
    changed[1].shape = {3, 4};
    CHECK(error(changed) ==
          path + ": tensor '" + tensor + "': shape is [3,4], this model has [4,3]");
    changed[1].shape = {12};
    CHECK(error(changed) ==
          path + ": tensor '" + tensor + "': shape is [12], this model has [4,3]");
    changed = small;
    changed[1].dtype = checkpoint::Dtype::BF16;
    CHECK(error(changed) == path + ": tensor '" + tensor + "': dtype is BF16, this model has F32");
    CHECK(error({small[0], small[2]}) == path + ": tensor '" + tensor + "': missing");

    std::string const name = "checkpoint::SafetensorsStore: block (layer 0, expert 0, weight) ";
    CHECK(error(small, first, {92, LayoutId::row_major}) ==
          name + "is declared with 92 bytes, row_major, but it exists with 96 bytes, row_major");
    CHECK(error(small, first, {96, LayoutId::int8}) ==
          name + "is declared with 96 bytes, int8, but it exists with 96 bytes, row_major");
    CHECK(error(small, {0, shared_block, BlockKind::weight}) ==
          path + ": block (layer 0, shared expert, weight) is none of this model's");
    CHECK(error(small, {0, 0, BlockKind::gradient}) ==
          path + ": block (layer 0, expert 0, gradient) is not in the file: a store of tensors has "
                 "weights alone");

    write_tensors(path, small);
    Shapes derived = small_shapes;
    derived.derived = true;
    CHECK(store_error_of([&] { open(path, derived).declare(first, info); }) ==
          path + ": block (layer 0, expert 0, weight): its slice 'panels' (panels_16) is derived, "
                 "and no tensor; use an expert without such slices, or load_weights into a layer "
                 "that keeps its blocks");
    // A layer says so before it takes memory for anything.
    auto layer = resident_layer(routed);
    checkpoint::save(path, {}, layer);
    Swi const wider{.hidden = H, .intermediate = 18};
    CHECK(store_error_of([&] {
              SafetensorsStore file{path, layer.backend(), top_2, wider};
              (void)cached_layer(wider, file, {.slots = 1});
          }) == path + ": tensor 'layers.0.experts.0.gate_proj': shape is [17,24], this model has "
                       "[18,24]");
}

TEST_CASE("checkpoint/safetensors_store: a store is refused, and so is memory of another size") {
    ScratchDirectory directory;
    std::string const path = directory / "a";
    write_tensors(path, small);
    auto file = open(path, small_shapes);
    CpuBackend b{.threads = 1};
    HostBytes bytes(96);
    CHECK(store_error_of([&] {
              (void)file.store(b, first, {bytes.data(), 96});
          }) ==
          path + ": block (layer 0, expert 0, weight) cannot be stored: a store of tensors is for "
                 "reading; convert it with tier::write_blocks and open the result as a "
                 "tier::FileStore");
    CHECK_THROWS_WITH_AS((void)file.load(b, first, {bytes.data(), 95}),
                         "checkpoint::SafetensorsStore: block (layer 0, expert 0, weight) has 96 "
                         "bytes, row_major, the memory to transfer has 95 bytes",
                         precondition_error);
    // A layer that trains finds out before its first step.
    auto layer = resident_layer(routed);
    checkpoint::save(path, {}, layer);
    auto trained =
        cached_layer(routed, SafetensorsStore{path, layer.backend(), top_2, routed}, {.slots = 1});
    CHECK_THROWS_AS((void)trained.make_context(1, Mode::training), store_error);
}

TEST_CASE("checkpoint/safetensors_store: a truncated file is refused, and found out later") {
    ScratchDirectory directory;
    std::string const path = directory / "a";
    auto layer = resident_layer(routed);
    layer.initialize(1);
    checkpoint::save(path, {}, layer);
    for (io::Engine const engine : engines()) {
        SafetensorsStore file{
            path, layer.backend(), top_2, routed, {.transfers = {.engine = engine}}};
        auto const size = std::filesystem::file_size(path);
        std::string const text = read_text(path);
        std::filesystem::resize_file(path, size - 100);
        CHECK(store_error_of([&] {
                  SafetensorsStore{path, layer.backend(), top_2, routed};
              }).find("pass the end of the file") != std::string::npos);
        int failed = 0;
        for (BlockKey const key : file.keys()) {
            std::string const error = store_error_of([&] { (void)bytes_in(file, key); });
            if (error.empty()) {
                CHECK(bytes_in(file, key) == bytes_of_layer(layer, key));
                continue;
            }
            ++failed;
            CHECK(error.starts_with(path + ": " + to_string(key) + ": tensor 'layers.0.experts."));
            CHECK(error.find("read: the file ends, at byte ") != std::string::npos);
        }
        CHECK(failed == 1);
        write_text(path, text);
    }
}

TEST_CASE("checkpoint/safetensors_store: whatever the system refuses is an error that names file, "
          "block, tensor and cause, and a later load finds the block") {
    ScratchDirectory directory;
    std::string const path = directory / "a";
    auto layer = resident_layer(both);
    layer.initialize(1);
    checkpoint::save(path, {}, layer);
    int opened = 0, failed = 0;
    bool done = false;
    for (index_t at = 0; !done; ++at) {
        FaultyFileSystem system;
        system.fail_at = at;
        system.interrupts = at % 2 == 0;
        system.longest_transfer = at % 3 == 0 ? 4096 : 1 << 20;
        std::string const error = store_error_of([&] {
            SafetensorsStore file{
                path, layer.backend(), top_2, both, {.transfers = {.piece_bytes = 8192}}, system};
            ++opened;
            for (BlockKey const key : file.keys()) {
                std::string const failure = store_error_of([&] { (void)bytes_in(file, key); });
                CHECK(bytes_in(file, key) == bytes_of_layer(layer, key));
                if (failure.empty()) continue;
                ++failed;
                CHECK(failure.starts_with(path + ": " + to_string(key) + ": tensor 'layers.0."));
                CHECK(failure.find("': read: Input/output error, at byte ") != std::string::npos);
            }
        });
        if (!error.empty()) CHECK(error.starts_with(path));
        CHECK(system.open_files.empty());
        done = !system.failed;
    }
    CHECK(opened > 20);
    CHECK(failed > 20);

    // A forward that meets it leaves the layer as it was.
    FaultyFileSystem system;
    auto cached = cached_layer(
        both, SafetensorsStore{path, layer.backend(), top_2, both, {}, system}, {.slots = 1});
    system.fail_at = system.operations + 3;
    CHECK(store_error_of([&] { (void)outputs(cached); }).find("': read: Input/output error") !=
          std::string::npos);
    CHECK(outputs(cached) == outputs(layer));
}

TEST_CASE("checkpoint/safetensors_store: loads from several threads at once") {
    ScratchDirectory directory;
    auto layer = resident_layer(both);
    layer.initialize(1);
    checkpoint::save(directory / "a", {}, layer);
    std::vector<HostBytes> wanted;
    for (BlockKey const key : layer.block_keys()) wanted.push_back(bytes_of_layer(layer, key));
    for (io::Engine const engine : engines()) {
        SafetensorsStore file{directory / "a",
                              layer.backend(),
                              top_2,
                              both,
                              {.transfers = {.piece_bytes = 4096, .engine = engine}}};
        std::atomic<int> wrong = 0;
        std::vector<std::thread> threads;
        for (std::size_t t = 0; t < 4; ++t)
            threads.emplace_back([&, t, file]() mutable {
                auto const keys = layer.block_keys();
                for (std::size_t i = 0; i < 40; ++i) {
                    std::size_t const at = (i * (t + 1) + t) % keys.size();
                    wrong += bytes_in(file, keys[at]) != wanted[at];
                }
            });
        for (std::thread& thread : threads) thread.join();
        CHECK(wrong == 0);
        CHECK(file.counters().loads == 160);
        CHECK(file.counters().transfers.most_in_flight <= 4);
    }
}

TEST_CASE("checkpoint/safetensors_store: write_blocks converts it into the file that the layer "
          "itself would make, and a layer that loads the checkpoint fills one as well") {
    ScratchDirectory directory;
    auto lower = resident_layer(both, 0), upper = resident_layer(both, 1);
    lower.initialize(1);
    upper.initialize(2);
    CpuBackend b{.threads = 1};
    std::string const path = directory / "a.safetensors";
    checkpoint::save(path, {}, lower, upper);

    SafetensorsStore file{path, b, top_2, both};
    tier::write_blocks(b, file, file.keys(), directory / "a.semoe");

    tier::FileStore blocks{directory / "a.semoe", {.read_only = true}};
    CHECK(blocks.keys() == file.keys());
    for (BlockKey const key : blocks.keys()) {
        auto& layer = key.layer == 0 ? lower : upper;
        CHECK(blocks.info(key) == layer.tier().info(key));
        CHECK(bytes_in(blocks, key) == bytes_of_layer(layer, key));
    }
    auto served = cached_layer(both, blocks, {.slots = 2}, 1);
    CHECK(outputs(served) == outputs(upper));

    // What a layer reads into blocks of a file is there once it is flushed.
    {
        auto one = cached_layer(both, tier::FileStore{directory / "b.semoe"}, {.slots = 1});
        checkpoint::save(directory / "one", {}, lower);
        checkpoint::load_weights(directory / "one", one);
        one.tier().flush(b);
    }
    tier::FileStore same{directory / "b.semoe", {.read_only = true}};
    for (BlockKey const key : lower.block_keys())
        CHECK(bytes_in(same, key) == bytes_of_layer(lower, key));
}

TEST_CASE("checkpoint/safetensors_store: a checkpoint replaced meanwhile is refused or not seen") {
    for (io::Way const way : {io::Way::direct, io::Way::cached, io::Way::mapped}) {
        ScratchDirectory directory;
        std::string const path = directory / "f";
        write_tensors(path, small);
        struct : io::PosixFileSystem {
            std::function<void()> after_open;
            int open(char const* name, int flags, mode_t mode) override {
                int const descriptor = PosixFileSystem::open(name, flags, mode);
                if (auto const f = std::exchange(after_open, nullptr)) f();
                return descriptor;
            }
        } system;
        // The next one has a longer header and other bytes.
        std::vector<Tensor> next = small;
        next.push_back({std::string(5000, 'n'), F32, {1}});
        std::reverse(next.begin(), next.end());
        system.after_open = [&] { write_tensors(path, next); };
        if (way == io::Way::direct && direct_works()) {
            CHECK_THROWS_WITH_AS(open(path, small_shapes, {.way = way}, system),
                                 (path + ": it was replaced while it was opened").c_str(),
                                 store_error);
        } else {
            SafetensorsStore file = open(path, small_shapes, {.way = way}, system);
            HostBytes halves = pattern(0, 48);
            halves.resize(96);
            std::ranges::copy(pattern(1, 48), halves.begin() + 48);
            CHECK(bytes_in(file, first) == halves);
        }
    }
}

} // namespace safetensors_store_test
