#include "semoe/checkpoint/checkpoint.hpp"

#include "support/backends.hpp"
#include "support/faulty_file_system.hpp"
#include "support/memory.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <functional>

using namespace semoe;
using namespace semoe::checkpoint;
using namespace semoe::test;

namespace {

struct FakeShape {
    index_t rows, cols;
};

/// What a checkpoint needs to know of a layer: bf16 experts with masters and two moments a
/// parameter beside a float router, each block visible during its visit alone.
template <class B>
class FakeLayer {
public:
    struct Config {
        layer_id layer = 0;
    };
    using S = space_of<B>;

    FakeLayer(B backend, layer_id layer, std::uint64_t seed, index_t rows = 3)
      : backend_(backend)
      , config_{layer}
      , rows_(rows)
      , router_(to_backend(backend_, random_values<float>(seed, 2 * 5)))
      , expert_(to_backend(backend_, random_values<bf16>(seed + 1, rows * 5)))
      , master_(to_backend(backend_, random_values<float>(seed + 2, rows * 5)))
      , moments_(to_backend(backend_, random_values<float>(seed + 3, 2 * (2 + rows) * 5))) {}

    B& backend() { return backend_; }
    Config const& config() const { return config_; }
    int moments_per_element() const { return prepared ? 2 : 0; }
    bool has_masters() const { return prepared; }
    void zero_grad() { ++zeroed; }
    void weights_changed(bool masters_too) { changed += masters_too ? "with masters " : "alone "; }

    template <class F>
    void for_each_parameter(F&& f, BlockKind kind, Access access) {
        if (access == Access::write) ++write_visits;
        MatrixView<float, S> const router{router_.data(), 2, 5};
        switch (kind) {
        case BlockKind::weight:
            f(std::string("router.weight"), router, FakeShape{2, 5});
            f(std::string("experts.1.up_proj"), MatrixView<bf16, S>{expert_.data(), rows_, 5},
              FakeShape{rows_, 5});
            break;
        case BlockKind::master:
            f(std::string("experts.1.up_proj"), MatrixView<float, S>{master_.data(), rows_, 5},
              FakeShape{rows_, 5});
            break;
        default:
            for (int m = 0; m < 2; ++m) {
                std::string const suffix = "." + std::to_string(m);
                float* const first = moments_.data() + m * (2 + rows_) * 5;
                f("router.weight" + suffix, MatrixView<float, S>{first, 2, 5}, FakeShape{2, 5});
                f("experts.1.up_proj" + suffix, MatrixView<float, S>{first + 10, rows_, 5},
                  FakeShape{rows_, 5});
            }
        }
    }

    /// Every bit of weights, and of states.
    std::string weights() { return bits(router_) + bits(expert_); }
    std::string states() { return bits(master_) + bits(moments_); }

    bool prepared = true;
    int zeroed = 0, write_visits = 0;
    std::string changed;

private:
    template <class T>
    std::string bits(Buffer<T, B> const& buffer) {
        auto const values = to_host(backend_, buffer);
        return {reinterpret_cast<char const*>(values.data()), values.size() * sizeof(T)};
    }

    B backend_;
    Config config_;
    index_t rows_;
    Buffer<float, B> router_;
    Buffer<bf16, B> expert_;
    Buffer<float, B> master_, moments_;
};
using HostLayer = FakeLayer<CpuBackend>;
static_assert(HasParameters<HostLayer>);

std::string message_of(std::function<void()> const& f) {
    try {
        f();
    } catch (store_error const& error) {
        return error.what();
    } catch (precondition_error const& error) {
        return std::string("precondition: ") + error.what();
    }
    return "nothing thrown";
}

} // namespace

TEST_CASE_TEMPLATE("checkpoint/checkpoint: a run comes back bit for bit, into other layers", B,
                   SEMOE_TEST_BACKENDS) {
    ScratchDirectory directory;
    std::string const path = directory / "7.safetensors";
    B b{};
    FakeLayer<B> a{b, 0, 10}, c{b, 3, 20};
    RunState state{
        .step = 7, .seed = ~std::uint64_t(0), .fields = {{"lr", to_text(0.1)}, {"", "e"}}};
    save(path, state, a, c);

    FakeLayer<B> a2{b, 0, 30}, c2{b, 3, 40};
    CHECK(a2.weights() != a.weights());
    Resumed const resumed = load(path, a2, c2);
    CHECK(a2.weights() == a.weights());
    CHECK(a2.states() == a.states());
    CHECK(c2.weights() == c.weights());
    CHECK(c2.states() == c.states());
    CHECK(resumed.state.step == 7);
    CHECK(resumed.state.seed == ~std::uint64_t(0));
    CHECK(resumed.state.fields == state.fields);
    CHECK(resumed.version == std::to_string(SEMOE_VERSION_MAJOR) + "." +
                                 std::to_string(SEMOE_VERSION_MINOR) + "." +
                                 std::to_string(SEMOE_VERSION_PATCH));
    CHECK(resumed.instruction_set == instruction_set_of(b));
    CHECK(resumed.warning.empty());
    CHECK(a2.changed == "alone ");
    CHECK(a2.zeroed == 1);
    CHECK(a2.write_visits == 3);
    CHECK(a.write_visits + a.zeroed == 0);

    SafetensorsFile const file{path};
    CHECK(file.names() ==
          std::vector<std::string>{
              "layers.0.experts.1.up_proj", "layers.0.router.weight", "layers.3.experts.1.up_proj",
              "layers.3.router.weight", "master.layers.0.experts.1.up_proj",
              "master.layers.3.experts.1.up_proj", "moments.layers.0.experts.1.up_proj.0",
              "moments.layers.0.experts.1.up_proj.1", "moments.layers.0.router.weight.0",
              "moments.layers.0.router.weight.1", "moments.layers.3.experts.1.up_proj.0",
              "moments.layers.3.experts.1.up_proj.1", "moments.layers.3.router.weight.0",
              "moments.layers.3.router.weight.1"});
    CHECK(file.tensor("layers.0.experts.1.up_proj").dtype == Dtype::BF16);
}

TEST_CASE("checkpoint/checkpoint: saving the same run twice gives the same bytes") {
    ScratchDirectory directory;
    HostLayer layer{CpuBackend{}, 0, 1};
    save(directory / "a", {.step = 1}, layer);
    HostLayer other{CpuBackend{}, 0, 2};
    load(directory / "a", other);
    save(directory / "b", {.step = 1}, other);
    CHECK(read_text(directory / "a") == read_text(directory / "b"));
}

TEST_CASE("checkpoint/checkpoint: what a model has besides layers joins by name") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    CpuBackend b{};
    HostLayer layer{b, 0, 1};
    std::vector<float> embedding{1, 2, 3, 4}, moments{5, 6, 7, 8};
    auto const tensors = [&](auto& visit) {
        visit(b, "embedding", MatrixView<float, HostSpace>{embedding.data(), 2, 2});
        if (visit.states)
            visit(b, "moments.embedding", VectorView<float, HostSpace>{moments.data(), 4});
        visit_layer(layer, visit);
    };
    save(path, {}, tensors);
    auto const weights = layer.weights(), states = layer.states();
    layer = HostLayer{b, 0, 2};
    embedding = moments = {0, 0, 0, 0};
    load(path, tensors);
    CHECK(embedding == std::vector<float>{1, 2, 3, 4});
    CHECK(moments == std::vector<float>{5, 6, 7, 8});
    CHECK(layer.weights() == weights);
    CHECK(layer.states() == states);

    HostLayer served{b, 0, 3};
    served.prepared = false;
    embedding = moments = {0, 0, 0, 0};
    auto const own_states = served.states();
    load_weights(path, [&](auto& visit) {
        visit(b, "embedding", MatrixView<float, HostSpace>{embedding.data(), 2, 2});
        visit_layer(served, visit);
    });
    CHECK(embedding == std::vector<float>{1, 2, 3, 4});
    CHECK(served.weights() == weights);
    CHECK(served.states() == own_states);
    CHECK(served.changed == "with masters ");
}

TEST_CASE(
    "checkpoint/checkpoint: a checkpoint of another model names what differs, touching nothing") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    CpuBackend b{};
    HostLayer layer{b, 0, 1}, second{b, 1, 2};
    save(path, {}, layer, second);
    HostLayer same{b, 0, 3}, wider{b, 1, 4, 7}, third{b, 2, 5};
    auto const before = same.weights() + same.states();
    CHECK(message_of([&] { load(path, same, wider); }) ==
          path + ": tensor 'layers.1.experts.1.up_proj': shape is [3,5], this model has [7,5]");
    CHECK(message_of([&] { load(path, same, second, third); }) ==
          path + ": tensor 'layers.2.router.weight': missing");
    CHECK(message_of([&] { load(path, same); }) ==
          path + ": 7 tensors that this model does not have: 'layers.1.experts.1.up_proj' "
                 "'layers.1.router.weight' 'master.layers.1.experts.1.up_proj' "
                 "'moments.layers.1.experts.1.up_proj.0' ...");
    same.prepared = false;
    CHECK(message_of([&] { load(path, same, second); }) ==
          path + ": layers.0.moments_per_element is 2, this model has 0; before load(), call "
                 "prepare() with the run's optimizer");
    layer.prepared = false;
    save(path, {}, layer);
    same.prepared = true;
    CHECK(message_of([&] { load(path, same); }) ==
          path + ": layers.0.moments_per_element is 0, this model has 2; load_weights() takes a "
                 "checkpoint that has no such states");
    layer.prepared = true;
    CHECK(same.weights() + same.states() == before);
    CHECK(same.write_visits + same.zeroed == 0);
    CHECK(message_of([&] { save(path, {}, layer, layer); }) ==
          "precondition: " + path + ": tensor 'layers.0.router.weight': declared twice");
}

TEST_CASE("checkpoint/checkpoint: another instruction set is reported, and the run continues") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    HostLayer layer{CpuBackend{}, 0, 1};
    save(path, {.step = 3}, layer);
    std::string text = read_text(path);
    std::string const own = instruction_set_of(layer.backend());
    std::string const key = R"("semoe.instruction_set":")";
    auto const at = text.find(key + own);
    REQUIRE(at != std::string::npos);
    std::string const other(own.size(), 'q'); // as long as it, so that the file stays whole
    text.replace(at + key.size(), own.size(), other);
    write_text(path, text);
    Resumed const resumed = load(path, layer);
    CHECK(resumed.state.step == 3);
    CHECK(resumed.instruction_set == other);
    CHECK(resumed.warning == path + ": written with the instruction set " + other +
                                 ", resumed with " + own +
                                 ": the run continues, but not bit for bit as it would have there");
}

TEST_CASE("checkpoint/checkpoint: a run's fields are read alone and compared by name") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    HostLayer layer{CpuBackend{}, 0, 1};
    save(path, {.step = 12, .seed = 5, .fields = {{"hidden", "64"}, {"experts", "8"}}}, layer);
    Resumed const resumed = read_state(path);
    CHECK(resumed.state.step == 12);
    CHECK(resumed.state.fields.at("hidden") == "64");
    CHECK_NOTHROW(expect_fields(path, resumed, {{"hidden", "64"}}));
    CHECK(message_of([&] {
              expect_fields(path, resumed, {{"experts", "16"}, {"hidden", "64"}});
          }) == path + ": experts is 8, this model has 16");
    CHECK(message_of([&] {
              expect_fields(path, resumed, {{"heads", "4"}});
          }) == path + ": heads is missing, this model has 4");
    CHECK(message_of([&] {
              expect_fields(path, resumed, {{"heads", "missing"}});
          }) == path + ": heads is missing, this model has missing");
    CHECK(message_of([&] {
              save(path, {.fields = {{"semoe.step", "1"}}}, layer);
          }) ==
          "precondition: checkpoint::save: the field 'semoe.step' begins with 'semoe.', which is "
          "reserved");
    CHECK(message_of([&] { save(path, {.step = -1}, layer); }) ==
          "precondition: checkpoint::save: step is -1, must not be negative");
    CHECK(read_state(path).state.step == 12);
}

TEST_CASE("checkpoint/checkpoint: metadata that lie are an error that names the key") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    auto const with = [&](std::map<std::string, std::string> const& changes) {
        std::map<std::string, std::string> all{{"semoe.format", "1"},
                                               {"semoe.version", "0.1.0"},
                                               {"semoe.step", "7"},
                                               {"semoe.seed", "1"},
                                               {"semoe.instruction_set", "avx2"}};
        for (auto const& [key, value] : changes) all[key] = value;
        SafetensorsWriter writer{path};
        for (auto const& [key, value] : all)
            if (value != "absent") writer.metadata(key, value);
        writer.commit();
        return message_of([&] { (void)read_state(path); });
    };
    CHECK(with({}) == "nothing thrown");
    std::string const not_ours = ": missing; not a checkpoint of a run";
    for (char const* key : {"format", "version", "step", "seed", "instruction_set"})
        CHECK(with({{std::string("semoe.") + key, "absent"}}) ==
              path + ": metadata 'semoe." + key + "'" + not_ours);
    CHECK(with({{"semoe.format", "2"}}) ==
          path + ": metadata 'semoe.format': '2', this version of semoe reads '1'");
    CHECK(with({{"semoe.step", "7.5"}}) ==
          path + ": metadata 'semoe.step': '7.5' is not a whole number in range");
    CHECK(with({{"semoe.step", "9223372036854775808"}}) ==
          path + ": metadata 'semoe.step': '9223372036854775808' is not a whole number in range");
    CHECK(with({{"semoe.step", "-3"}}) ==
          path + ": metadata 'semoe.step': -3, must not be negative");
    CHECK(with({{"semoe.seed", "-1"}}) ==
          path + ": metadata 'semoe.seed': '-1' is not a whole number in range");
}

TEST_CASE("checkpoint/checkpoint: whatever fails while saving, the previous checkpoint is whole") {
    using Fault = FaultyFileSystem::Fault;
    ScratchDirectory directory;
    std::string const path = directory / "run.safetensors";
    HostLayer before{CpuBackend{}, 0, 1}, after{CpuBackend{}, 0, 2};
    auto const tensors = [&](auto& visit) { visit_layer(after, visit); };
    save(path, {.step = 1}, before);
    std::string const old_bytes = read_text(path);
    for (int error : {ENOSPC, EIO})
        for (std::size_t longest : {std::size_t(-1), std::size_t(50)})
            for (Fault fault : {Fault::once, Fault::full_disk, Fault::dead_disk})
                for (index_t n = 0;; ++n) {
                    write_text(path, old_bytes);
                    FaultyFileSystem system;
                    system.fail_at = n;
                    system.error = error;
                    system.fault = fault;
                    system.longest_transfer = longest;
                    std::string const said =
                        message_of([&] { save(path, {.step = 2}, tensors, system); });
                    HostLayer loaded{CpuBackend{}, 0, 3};
                    auto const step = load(path, loaded).state.step; // it is whole, whichever
                    if (!system.failed) {
                        CHECK(said == "nothing thrown");
                        CHECK(step == 2);
                        break;
                    }
                    CAPTURE(n);
                    CAPTURE(said);
                    std::string const& operation = system.log[std::size_t(n)];
                    CAPTURE(operation);
                    if (step == 1) {
                        CHECK(read_text(path) == old_bytes);
                        bool const names_file =
                            said == path + ": " + (operation == "open" ? "create" : operation) +
                                        ": " + std::strerror(error) ||
                            said == directory.path() + ": open: " + std::strerror(error);
                        CHECK(names_file);
                    } else {
                        // Only what follows the rename may leave the new one: whole, too.
                        CHECK(loaded.weights() == after.weights());
                        CHECK((operation == "fsync" || operation == "close"));
                    }
                    if (fault == Fault::dead_disk)
                        for (auto const& name : directory.list())
                            if (name != "run.safetensors")
                                std::filesystem::remove(directory / name);
                    CHECK(directory.list() == std::vector<std::string>{"run.safetensors"});
                    CHECK(system.open_files.empty());
                }
}

TEST_CASE("checkpoint/checkpoint: an exception out of the model leaves the previous checkpoint") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    HostLayer layer{CpuBackend{}, 0, 1};
    save(path, {.step = 1}, layer);
    for (int pass : {1, 2}) {
        int calls = 0;
        CHECK_THROWS_AS(save(path, {.step = 2},
                             [&](auto& visit) {
                                 visit_layer(layer, visit);
                                 if (++calls == pass) throw backend_error("lost");
                             }),
                        backend_error);
        CHECK(read_state(path).state.step == 1);
        CHECK(directory.list() == std::vector<std::string>{"f"});
    }
}

TEST_CASE("checkpoint/checkpoint: a truncated or foreign checkpoint is refused and loads nothing") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    HostLayer layer{CpuBackend{}, 0, 1};
    save(path, {.step = 1}, layer);
    std::string const whole = read_text(path);
    HostLayer other{CpuBackend{}, 0, 2};
    auto const before = other.weights();
    for (std::size_t n : {std::size_t(0), std::size_t(7), std::size_t(100), whole.size() - 1}) {
        write_text(path, whole.substr(0, n));
        CHECK(message_of([&] { load(path, other); }).substr(0, path.size() + 2) == path + ": ");
    }
    CHECK(message_of([&] { load(SEMOE_TEST_DATA "/layers/olmoe.safetensors", other); }) ==
          SEMOE_TEST_DATA "/layers/olmoe.safetensors: metadata 'semoe.format': missing; not a "
                          "checkpoint of a run");
    CHECK(message_of([&] { load(directory / "none", other); }) ==
          directory / "none: open: No such file or directory");
    CHECK(other.weights() == before);
}
