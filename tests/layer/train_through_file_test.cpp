#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/adamw8.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "support/faulty_file_system.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace train_through_file_test {
namespace {

constexpr index_t T = 13, H = 16;
using Rows = MatrixView<bf16, HostSpace>;

/// Two layers, one behind the other, whose blocks share a tier.
template <class Tier>
struct Model {
    using Layer =
        MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, expert::SwiGlu<bf16>, comm::Self, Tier>;
    Layer layers[2];

    Model(CpuBackend b, Tier tier)
      : layers{make(b, tier, 0), make(b, tier, 1)} {}
    static Layer make(CpuBackend b, Tier tier, layer_id i) {
        return {b,
                {.num_experts = 5, .top_k = 2},
                {.hidden = H, .intermediate = 24},
                comm::Self{},
                tier,
                {.layer = i}};
    }

    template <class Optimizer>
    void train(Optimizer const& optimizer, index_t steps) {
        typename Layer::Context contexts[] = {layers[0].make_context(T, Mode::training),
                                              layers[1].make_context(T, Mode::training)};
        for (auto& layer : layers) layer.prepare(optimizer, !continued);
        if (!continued)
            for (auto& layer : layers) layer.initialize(3);
        for (index_t step = 0; step < steps; ++step) {
            auto x = random_values<bf16>(std::uint64_t(100 + step), T * H);
            auto dy = random_values<bf16>(std::uint64_t(900 + step), T * H);
            std::vector<bf16> y(x.size()), z(x.size()), d(x.size()), dx(x.size());
            auto const rows = [](auto& v) { return Rows{v.data(), T, H}; };
            layers[0].forward(rows(x), rows(y), contexts[0]);
            layers[1].forward(rows(y), rows(z), contexts[1]);
            layers[1].backward(rows(dy), rows(d), contexts[1]);
            layers[0].backward(rows(d), rows(dx), contexts[0]);
            for (auto& layer : layers) {
                train_step(layer, optimizer, {.step = step, .zero_grad = zero_in_update});
                if (!zero_in_update) layer.zero_grad();
            }
        }
    }
    std::vector<Named> parameters() {
        std::vector<Named> all;
        for (auto& layer : layers)
            for (BlockKind const kind : {BlockKind::weight, BlockKind::master})
                all.push_back(parameters_of(layer, kind));
        return all;
    }
    bool continued = false, zero_in_update = true;
};

} // namespace

TEST_CASE(
    "layer/train_through_file: fifty steps with two blocks a kind in memory, or a budget, have "
    "the bits of memory for all") {
    CpuBackend b{};
    auto const check = [&](auto const& optimizer) {
        Model all{b, tier::Resident<CpuBackend>{b}};
        all.zero_in_update = false;
        all.train(optimizer, 50);
        auto const expected = all.parameters();
        for (auto const& options :
             {tier::CachedOptions{.slots = 2}, tier::CachedOptions{.slots = 1},
              tier::CachedOptions{.bytes = 100'000}}) {
            ScratchDirectory directory;
            tier::FileStore const store{directory / "blocks"};
            Sequenced const tier{tier::Cached<CpuBackend, tier::FileStore>{b, store, options}};
            Model few{b, tier};
            few.train(optimizer, 50);
            CHECK(few.parameters() == expected);
            CHECK(tier.counters().evictions > 500);
        }
    };
    check(optim::AdamW{.lr = 0.01, .weight_decay = 0.1});
    check(optim::AdamW8{{.lr = 0.01, .weight_decay = 0.1}});
}

TEST_CASE("layer/train_through_file: a step writes each state once, and gradients without a slot") {
    CpuBackend b{};
    struct Written {
        index_t bytes, states, spilled; // in all; at most, in a step
    };
    auto const written = [&](index_t steps) {
        ScratchDirectory directory;
        tier::FileStore const store{directory / "blocks"};
        Sequenced const tier{
            tier::Cached<CpuBackend, tier::FileStore>{b, store, {.bytes = 125'000}}};
        Model model{b, tier};
        model.train(optim::AdamW{.lr = 0.01}, steps);
        index_t states = 0, gradients = 0;
        for (layer_id layer : {0, 1})
            for (expert_id e = 0; e < 5; ++e, ++gradients)
                for (BlockKind const kind : {BlockKind::master, BlockKind::moments})
                    states += tier.info({layer, e, kind}).bytes;
        CHECK(tier.max_pinned(BlockKind::weight) == gradients);
        gradients -= tier.max_pinned(BlockKind::gradient);
        return Written{tier.counters().bytes_stored, states,
                       gradients * tier.info({0, 0, BlockKind::gradient}).bytes};
    };
    auto const [before, states, spilled] = written(10);
    index_t const bytes = written(30).bytes - before;
    CHECK(bytes > 20 * states);
    CHECK(bytes <= 20 * (states + spilled));
}

TEST_CASE(
    "layer/train_through_file: a layer over a flushed file has its masters, not the weights") {
    CpuBackend b{};
    ScratchDirectory directory;
    optim::AdamW const optimizer{.lr = 0.01};
    std::vector<Named> expected;
    auto const open = [&] {
        tier::FileStore const store{directory / "blocks"};
        return tier::Cached<CpuBackend, tier::FileStore>{b, store, {.slots = 2}};
    };
    {
        Model model{b, open()};
        model.train(optimizer, 3);
        expected = model.parameters();
        model.layers[0].tier().flush(b);
    }
    Model again{b, open()};
    again.continued = true;
    again.train(optimizer, 0);
    CHECK(again.parameters() == expected);
}

} // namespace train_through_file_test
