#include "semoe/backend/simulated.hpp"

#include "layer/grid_cases.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using simulated::Time;

namespace {

constexpr double tolerance = 1e-5;

} // namespace

TEST_CASE(
    "layer/moe_layer: a step on paper has the host's numbers, for any ranks, tier and chunks") {
    test::GridCase const sizes{};
    auto const resident = [](auto& b) { return tier::Resident<std::decay_t<decltype(b)>>{b}; };
    auto const expected = test::run_step(
        sizes, 1, [](int) { return CpuBackend{}; }, resident, schedule::Sequential{});
    auto const check = [&](test::Outcome const& got) {
        CHECK(test::relative_error(got.y, expected.y) < tolerance);
        CHECK(test::relative_error(got.dx, expected.dx) < tolerance);
        CHECK(test::worst_error(got.gradients, expected.gradients) < tolerance);
        // Adam's first step divides by |g|: a gradient near zero may turn the whole step.
        CHECK(test::worst_error(got.weights, expected.weights) < 1e-3);
        CHECK(got.tokens_per_expert == expected.tokens_per_expert);
    };
    constexpr simulated::Machine machine{
        .flops = 1e9, .memory_bytes = 1e9, .link_bytes = 1e9, .engines = simulated::Engines::own};
    for (int ranks : {1, 3}) {
        auto const backend = [&](int) { return SimulatedBackend{.machine = machine}; };
        check(test::run_step(
            sizes, ranks, backend,
            [](SimulatedBackend& b) {
                return tier::Cached{b, tier::HostStore{}, {.slots = 2}};
            },
            schedule::Chunked{.chunks = 3}));
    }
}

TEST_CASE("layer/moe_layer: on paper, a layer takes its router, its experts and their backward") {
    constexpr index_t T = 11, H = 6, I = 10, E = 5, K = 2;
    SimulatedBackend b{.machine = {.flops = 1e12}}; // a flop a picosecond
    expert::SwiGlu<float> const expert{.hidden = H, .intermediate = I};
    MoeLayer layer{b, gate::TopK<gate::Softmax>{.num_experts = E, .top_k = K}, expert};
    layer.initialize(3);
    auto context = layer.make_context(T, Mode::training);
    auto x = test::to_backend(b, test::random_values<float>(1, T * H));
    Buffer<float, SimulatedBackend> y(b, T * H), dx(b, T * H);

    double const router = 2 * T * E * H, experts = T * K * expert.flops_per_row();
    Time const begin = b.finish();
    layer.forward(x.matrix(T, H), y.matrix(T, H), context);
    Time const forward = b.finish() - begin;
    CHECK(forward.count() == index_t(router + experts));
    layer.backward(y.matrix(T, H), dx.matrix(T, H), context);
    CHECK((b.finish() - begin - forward).count() == index_t(2 * (router + experts)));
}
