#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/tier/ring.hpp"
#include "support/any_tier.hpp"
#include "support/backends.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <string>

using namespace semoe;

namespace stack_test {
namespace {

constexpr index_t num_layers = 3, num_tokens = 13, hidden = 8, num_experts = 5;

struct Trained {
    std::vector<float> y;
    std::vector<test::Named> weights;
};

/// Some steps of a stack of layers over one tier; y is that of the last forward.
template <class B, class Tier>
Trained train(B b, Tier tier, index_t chunks, int steps) {
    using Layer = MoeLayer<B, gate::TopK<gate::Softmax>, expert::SwiGlu<float>, comm::Self, Tier,
                           schedule::Chunked>;
    std::deque<Layer> layers;
    std::deque<typename Layer::Context> contexts;
    for (index_t l = 0; l < num_layers; ++l) {
        layers.emplace_back(b, gate::TopK<gate::Softmax>{.num_experts = num_experts, .top_k = 2},
                            expert::SwiGlu<float>{.hidden = hidden, .intermediate = 6},
                            comm::Self{}, tier, schedule::Chunked{.chunks = chunks},
                            MoeConfig{.layer = layer_id(l), .aux_loss_weight = 0.01});
        layers.back().initialize(3);
        contexts.push_back(layers.back().make_context(num_tokens, Mode::training));
    }
    std::vector<Buffer<float, B>> x, dx;
    for (index_t l = 0; l <= num_layers; ++l) {
        x.emplace_back(b, num_tokens * hidden);
        dx.emplace_back(b, num_tokens * hidden);
    }
    auto const rows = [](auto& buffer) { return buffer.matrix(num_tokens, hidden); };
    for (int step = 0; step < steps; ++step) {
        auto const in = test::random_values<float>(unsigned(step), num_tokens * hidden);
        b.copy(x[0].data(), in.data(), in.size() * sizeof(float));
        for (std::size_t l = 0; l < layers.size(); ++l)
            layers[l].forward(rows(x[l]), rows(x[l + 1]), contexts[l]);
        b.copy(dx[num_layers].data(), x[num_layers].data(), in.size() * sizeof(float));
        for (std::size_t l = layers.size(); l-- > 0;)
            layers[l].backward(rows(dx[l + 1]), rows(dx[l]), contexts[l]);
        for (auto& layer : layers) {
            train_step(layer, optim::AdamW{.lr = 1e-2}, UpdateStep{.step = step});
            layer.zero_grad();
        }
    }
    Trained out{test::to_host(b, x[num_layers]), {}};
    for (auto& layer : layers) out.weights.push_back(test::parameters_of(layer));
    return out;
}

template <class B>
void check_all_tiers(B b, int steps) {
    using Tier = test::AnyTier<B>;
    auto const expected = train(b, tier::Resident<B>{b}, 1, steps);
    auto const check = [&](std::string const& name, auto const& make) {
        for (index_t const chunks : {1, 3}) {
            CAPTURE(name);
            CAPTURE(chunks);
            auto const got = train(b, Tier{make()}, chunks, steps);
            CHECK(got.y == expected.y);
            CHECK(got.weights == expected.weights);
        }
    };
    for (index_t slots = 1; slots <= 4; ++slots)
        check("ring " + std::to_string(slots), [&] {
            return tier::Ring{b, tier::HostStore{}, {.slots = slots}};
        });
    for (tier::CachedOptions const& options :
         {tier::CachedOptions{.slots = 1}, tier::CachedOptions{.slots = 2},
          tier::CachedOptions{.slots = 5}, tier::CachedOptions{.layers = 1},
          tier::CachedOptions{.bytes = 20000}, tier::CachedOptions{.bytes = 1 << 20}})
        check("cached " + std::to_string(options.slots) + " " + std::to_string(options.bytes), [&] {
            return Sequenced{tier::Cached{b, tier::HostStore{}, options}};
        });
}

} // namespace

TEST_CASE_TEMPLATE("layer/stack: layers over a ring or a cache train to the same bits as in memory",
                   B, SEMOE_TEST_BACKENDS) {
    check_all_tiers(B{}, 3);
}

#if !defined(__CUDACC__)
TEST_CASE("layer/stack: fifty steps of Adam through two slots a kind change no bit") {
    CpuBackend b{.threads = 1};
    auto const expected = train(b, tier::Resident{b}, 1, 50);
    tier::Cached tier{b, tier::HostStore{}, {.slots = 2}};
    auto const got = train(b, test::AnyTier<CpuBackend>{tier}, 1, 50);
    CHECK(got.y == expected.y);
    CHECK(got.weights == expected.weights);
}

TEST_CASE(
    "layer/stack: a gate that is asked ahead has its experts under way, and changes nothing") {
    CpuBackend b{.threads = 1};
    // Choices of layer 1 that are in no slot when it begins; x is the same for both layers.
    auto const late = [&](bool predict, std::vector<float>& outputs) {
        Sequenced tier{tier::Cached{b, tier::HostStore{}, {.slots = 12}}};
        using Layer = MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, expert::SwiGlu<float>,
                               comm::Self, decltype(tier)>;
        std::deque<Layer> layers;
        for (layer_id l = 0; l < 2; ++l) {
            layers.emplace_back(b, gate::TopK<gate::Softmax>{.num_experts = 40, .top_k = 2},
                                expert::SwiGlu<float>{.hidden = hidden, .intermediate = 6},
                                comm::Self{}, tier, MoeConfig{.layer = l});
            layers.back().initialize(3);
        }
        auto context = layers[0].make_context(2), ahead = layers[0].make_context(2);
        std::vector<float> y(2 * hidden);
        MatrixView<float, HostSpace> const out{y.data(), 2, hidden};
        index_t n = 0;
        for (unsigned token = 0; token < 20; ++token) {
            auto const x = test::random_values<float>(token, 2 * hidden);
            MatrixView<float const, HostSpace> const in{x.data(), 2, hidden};
            if (predict) layers[1].predict(in, context);
            layers[0].forward(in, out, context);
            outputs.insert(outputs.end(), y.begin(), y.end());
            layers[1].predict(in, ahead);
            auto const chosen = ahead.assignment().topk_ids;
            for (index_t i = 0; i < 4; ++i)
                n += !tier.resident({1, chosen.data[i], BlockKind::weight});
            layers[1].forward(in, out, context);
            outputs.insert(outputs.end(), y.begin(), y.end());
        }
        return n;
    };
    std::vector<float> guessing, waiting;
    CHECK(late(true, guessing) == 0);
    CHECK(late(false, waiting) > 0);
    CHECK(guessing == waiting);
}
#endif

} // namespace stack_test
