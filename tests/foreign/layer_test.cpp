#include "foreign/acme.hpp"

#include <semoe/semoe.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using semoe::index_t;
using View = semoe::MatrixView<float, semoe::HostSpace>;

namespace {

/// Trains a layer to double its input and returns the loss of the first and of the last step.
template <class Layer>
std::pair<double, double> learn_to_double(Layer& layer, int steps) {
    index_t constexpr tokens = 24, hidden = 6;
    std::vector<float> x(tokens * hidden), y(x.size()), dy(x.size()), dx(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.1f * float(1 + i % 11) - 0.5f;
    View const in{x.data(), tokens, hidden}, out{y.data(), tokens, hidden},
        d_out{dy.data(), tokens, hidden}, d_in{dx.data(), tokens, hidden};

    layer.initialize(3);
    auto context = layer.make_context(tokens, semoe::Mode::training);
    std::pair<double, double> losses;
    for (int step = 0; step < steps; ++step) {
        layer.forward(in, out, context);
        double loss = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
            dy[i] = y[i] - 2 * x[i];
            loss += double(dy[i]) * double(dy[i]);
        }
        if (step == 0) losses.first = loss;
        losses.second = loss;
        layer.zero_grad();
        layer.backward(d_out, d_in, context);
        semoe::train_step(layer, acme::SignDescent{.lr = 0.02}, {.step = step});
    }
    return losses;
}

TEST_CASE("foreign/layer: a layer of a user's own policies on every axis trains") {
    semoe::comm::ThreadWorld const world{2};
    world.run([](semoe::comm::Threads rank) {
        semoe::CpuBackend backend{.threads = 1};
        acme::MapStore store;
        acme::CountingRanks ranks{rank};
        semoe::MoeLayer layer{backend,
                              acme::RoundRobin{.num_experts = 4},
                              acme::Scale<float>{.hidden = 6},
                              ranks,
                              semoe::tier::Cached{backend, store, {.slots = 2}},
                              acme::Backwards{.chunks = 3},
                              semoe::MoeConfig{.layer = 5}};
        auto const [first, last] = learn_to_double(layer, 200);
        CHECK(first > 1);
        CHECK(last < 0.01 * first);
        CHECK(ranks.rows_sent() == 200 * 2 * 2 * 24); // forward and backward, there and back
        layer.tier().flush(backend);
        for (semoe::expert_id expert : layer.local_experts())
            for (auto kind : {semoe::BlockKind::weight, semoe::BlockKind::gradient})
                CHECK(store.contains({5, expert, kind}));
    });
}

TEST_CASE("foreign/layer: a user's score in the library's gate trains the router") {
    semoe::MoeLayer layer{semoe::CpuBackend{.threads = 1},
                          semoe::gate::TopK<acme::Square>{.num_experts = 3, .top_k = 2},
                          acme::Scale<float>{.hidden = 6}};
    auto const [first, last] = learn_to_double(layer, 100);
    CHECK(last < first);
    CHECK(layer.grad_norm_squared() > 0);
}

} // namespace
