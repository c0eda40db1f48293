#include "semoe/checkpoint/checkpoint.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/adamw8.hpp"
#include "semoe/testing/faulty_store.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/faulty_file_system.hpp"
#include "support/layer.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace resume_test {
namespace {

constexpr index_t T = 19, H = 8;
using Rows = MatrixView<bf16, HostSpace>;

/// A layer that draws random numbers in training and keeps its parameters as Tier says.
template <class Tier, class Comm = comm::Self>
auto make_layer(CpuBackend b, Tier tier, Comm ranks = {}) {
    return MoeLayer{b,
                    gate::Switch{.num_experts = 5},
                    expert::SwiGlu<bf16>{.hidden = H, .intermediate = 6},
                    ranks,
                    tier,
                    schedule::Sequential{},
                    MoeConfig{.layer = 2, .aux_loss_weight = 0.1, .seed = 9}};
}

/// Steps first to last - 1 of a run; input and gradient are a function of the step.
template <class Layer, class Optimizer>
void train(Layer& layer, Optimizer const& optimizer, index_t first, index_t last) {
    auto context = layer.make_context(T, Mode::training);
    for (index_t step = first; step < last; ++step) {
        auto x = random_values<bf16>(std::uint64_t(100 + step), T * H);
        auto dy = random_values<bf16>(std::uint64_t(200 + step), T * H);
        std::vector<bf16> y(x.size()), dx(x.size());
        layer.forward(Rows{x.data(), T, H}, Rows{y.data(), T, H}, context,
                      {.step = std::uint64_t(step)});
        layer.backward(Rows{dy.data(), T, H}, Rows{dx.data(), T, H}, context);
        train_step(layer, optimizer, {.step = step});
        layer.zero_grad();
    }
}

/// Six steps against three, a checkpoint, another layer and three more.
template <class Layer, class Other, class Optimizer>
void check_resume(Layer whole, Other resumed, Optimizer const& optimizer) {
    ScratchDirectory directory;
    std::string const middle = directory / "middle";
    whole.initialize(1);
    train(whole, optimizer, 0, 3);
    checkpoint::save(middle, {.step = 3}, whole);
    train(whole, optimizer, 3, 6);
    checkpoint::save(directory / "whole", {.step = 6}, whole);

    resumed.initialize(2);
    resumed.prepare(optimizer);
    index_t const step = checkpoint::load(middle, resumed).state.step;
    CHECK(step == 3);
    train(resumed, optimizer, step, 6);
    checkpoint::save(directory / "resumed", {.step = 6}, resumed);
    CHECK(read_text(directory / "resumed") == read_text(directory / "whole"));
    CHECK(read_text(directory / "whole").size() == read_text(middle).size());
}

/// That every tensor of `path` is as in one of the files that were loaded. @return how many
std::size_t check_from(std::string const& path, std::vector<std::string> const& files) {
    checkpoint::SafetensorsFile const file{path};
    for (std::string const& name : file.names()) {
        CAPTURE(name);
        bool found = false;
        for (std::string const& other : files) {
            checkpoint::SafetensorsFile const from{other};
            found = found || (from.contains(name) &&
                              std::ranges::equal(from.tensor(name).bytes, file.tensor(name).bytes));
        }
        CHECK(found);
    }
    return file.names().size();
}

} // namespace

TEST_CASE("checkpoint/resume: a resumed run ends in the same bytes as an uninterrupted one, from "
          "memory for all blocks to one slot of each kind and back") {
    CpuBackend b{};
    optim::AdamW const adamw{.lr = 0.01, .weight_decay = 0.1};
    auto const resident = [&] { return make_layer(b, tier::Resident<CpuBackend>{b}); };
    auto const slots = [&] {
        return make_layer(b, tier::Cached{b, tier::HostStore{}, {.slots = 1}});
    };
    check_resume(resident(), slots(), adamw);
    check_resume(slots(), resident(), adamw);
    check_resume(slots(), resident(), optim::AdamW8{adamw});
}

TEST_CASE("checkpoint/resume: packed moments are bytes, and another optimizer's are refused") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    CpuBackend b{};
    auto const make = [&] { return make_layer(b, tier::Resident<CpuBackend>{b}); };
    auto packed = make();
    packed.initialize(1);
    train(packed, optim::AdamW8{{.lr = 0.01}}, 0, 2);
    checkpoint::save(path, {.step = 2}, packed);
    checkpoint::SafetensorsFile const file{path};
    auto const expert = file.tensor("moments.layers.2.experts.3.packed");
    CHECK(expert.dtype == checkpoint::Dtype::U8);
    CHECK(index_t(expert.bytes.size()) == optim::AdamW8::state_bytes(3 * 6 * H));
    CHECK(file.contains("moments.layers.2.router.packed"));
    CHECK_FALSE(file.contains("moments.layers.2.experts.3.gate_proj.0"));

    auto wide = make();
    wide.prepare(optim::AdamW{});
    CHECK_THROWS_WITH_AS(checkpoint::load(path, wide),
                         (path + ": layers.2.moments_per_element is 2, packed, this model has 2; "
                                 "before load(), call prepare() with the run's optimizer")
                             .c_str(),
                         store_error);
    CHECK_THROWS_WITH_AS(wide.prepare(optim::AdamW8{}),
                         doctest::Contains("the layer has states of another optimizer"),
                         precondition_error);
    auto served = make();
    checkpoint::load_weights(path, served);
}

TEST_CASE("checkpoint/resume: weights alone serve inference with the same outputs") {
    ScratchDirectory directory;
    CpuBackend b{};
    auto trained = make_layer(b, tier::Resident<CpuBackend>{b});
    trained.initialize(1);
    train(trained, optim::AdamW{.lr = 0.01}, 0, 2);
    checkpoint::save(directory / "f", {.step = 2}, trained);
    auto served = make_layer(b, tier::Resident<CpuBackend>{b});
    checkpoint::load_weights(directory / "f", served);
    auto const outputs = [&](auto& layer) {
        auto context = layer.make_context(T);
        auto x = random_values<bf16>(7, T * H);
        std::vector<bf16> y(x.size());
        layer.forward(Rows{x.data(), T, H}, Rows{y.data(), T, H}, context);
        std::vector<float> values(y.begin(), y.end());
        return values;
    };
    CHECK(outputs(served) == outputs(trained));
    CHECK(served.moments_per_element() == 0);

    auto unprepared = make_layer(b, tier::Resident<CpuBackend>{b});
    CHECK_THROWS_WITH_AS(checkpoint::load(directory / "f", unprepared),
                         (directory / "f: layers.2.moments_per_element is 2, this model has 0; "
                                      "before load(), call prepare() with the run's optimizer")
                             .c_str(),
                         store_error);
}

TEST_CASE("checkpoint/resume: a layer that an error left in between is not saved, and refuses work "
          "until it is loaded whole") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    CpuBackend b{.threads = 1};
    testing::FaultyStore<CpuBackend> store{b};
    auto layer = make_layer(b, tier::Cached{b, store, {.slots = 1}});
    layer.initialize(1);
    checkpoint::save(path, {.step = 1}, layer);
    int between = 0;
    for (index_t n = 0;; ++n) {
        CAPTURE(n);
        bool failed = false, written = false;
        store.reset({.fail_load = n});
        try {
            checkpoint::load_weights(path, layer);
        } catch (store_error const&) {
            failed = true;
        }
        store.reset();
        if (!failed) break;
        try {
            layer.expect_usable();
        } catch (precondition_error const&) {
            written = true;
        }
        if (written) {
            ++between;
            CHECK_THROWS_WITH_AS(checkpoint::save(path, {.step = 2}, layer),
                                 doctest::Contains("failed midway"), precondition_error);
        }
        CHECK(checkpoint::read_state(path).state.step == 1);
        checkpoint::load_weights(path, layer);
        layer.expect_usable();
    }
    CHECK(between >= 3);
}

TEST_CASE(
    "checkpoint/resume: the files of two ranks resume on one or three, each with its experts") {
    ScratchDirectory directory;
    optim::AdamW const adamw{.lr = 0.01};
    auto const make = [](CpuBackend b, auto ranks) {
        return make_layer(b, tier::Resident<CpuBackend>{b}, ranks);
    };
    auto const file = [&](char const* run, int rank) {
        return directory / (run + std::to_string(rank));
    };
    comm::ThreadWorld{2}.run([&](comm::Threads ranks) {
        auto layer = make(CpuBackend{.threads = 1}, ranks);
        layer.initialize(1);
        train(layer, adamw, 0, 1);
        std::string const rank = std::to_string(ranks.rank());
        checkpoint::save(file("two", ranks.rank()),
                         {.step = 1, .seed = 5, .fields = {{"rank", rank}, {"of " + rank, "x"}}},
                         layer);
    });
    std::vector<std::string> const two{file("two", 0), file("two", 1)};

    auto whole = make(CpuBackend{}, comm::Self{});
    whole.initialize(2);
    whole.prepare(adamw);
    auto const state = checkpoint::load(two, whole).state;
    CHECK(state.step == 1);
    CHECK(state.fields ==
          std::map<std::string, std::string>{{"of 0", "x"}, {"of 1", "x"}, {"rank", "0"}});
    checkpoint::save(directory / "one", {}, whole);
    // Of 5 experts and the router: weights, masters of the experts, two moments each.
    CHECK(check_from(directory / "one", two) == 5 * 3 * 4 + 3);
    comm::ThreadWorld{3}.run([&](comm::Threads ranks) {
        auto layer = make(CpuBackend{.threads = 1}, ranks);
        layer.prepare(adamw);
        checkpoint::load(two, layer);
        checkpoint::save(file("three", ranks.rank()), {}, layer);
    });
    std::size_t tensors = 0;
    for (int rank : {0, 1, 2}) tensors += check_from(file("three", rank), two);
    CHECK(tensors == 5 * 3 * 4 + 3 * 3);

    auto served = make(CpuBackend{}, comm::Self{});
    checkpoint::load_weights(two, served);
    CHECK(parameters_of(served) == parameters_of(whole));

    // A file that is not there is missed by name, whoever asks.
    CHECK_THROWS_WITH_AS(checkpoint::load({"absent", "none"}, whole),
                         "absent: open: No such file or directory", store_error);
    CHECK_THROWS_WITH_AS(checkpoint::load_weights("absent", whole),
                         "absent: open: No such file or directory", store_error);
    CHECK_THROWS_WITH_AS(checkpoint::load_weights({}, whole),
                         "checkpoint::Reader: no path is given", precondition_error);
    std::string const missing = two[0] + ": tensor 'layers.2.experts.3.gate_proj': missing";
    CHECK_THROWS_WITH_AS(checkpoint::load(two[0], whole), missing.c_str(), store_error);
    CHECK_THROWS_WITH_AS(checkpoint::load({two[0], two[0]}, whole),
                         (two[0] + ", " + missing).c_str(), store_error);
    // One of another step, too.
    checkpoint::save(directory / "later", {.step = 2, .seed = 5}, whole);
    CHECK_THROWS_WITH_AS(
        checkpoint::load({two[0], directory / "later"}, whole),
        (directory / "later: step 2 of seed 5, but " + two[0] + " is step 1 of seed 5").c_str(),
        store_error);
}

} // namespace resume_test
