#include "layer/grid_cases.hpp"

TEST_CASE_TEMPLATE("layer/moe_layer: a step through one or two slots a kind is the same for any "
                   "number of ranks and chunks",
                   B, SEMOE_TEST_BACKENDS) {
    using semoe::test::GridCase;
    auto const expected = semoe::test::baseline<B>(GridCase{});
    for (int const slots : {1, 2})
        for (int ranks = 1; ranks <= 4; ++ranks) {
            CAPTURE(slots);
            CAPTURE(ranks);
            auto const cached = [slots](B& b) {
                return semoe::tier::Cached<B, semoe::tier::HostStore>{
                    b, semoe::tier::HostStore{}, {.slots = slots}};
            };
            semoe::test::check_step<B>(expected, GridCase{}, ranks, cached,
                                       semoe::schedule::Sequential{});
            semoe::test::check_step<B>(expected, GridCase{}, ranks, cached,
                                       semoe::schedule::Chunked{.chunks = 3});
        }
}

#if !defined(__CUDACC__) // there the environment chooses the order, a run each
TEST_CASE("layer/moe_layer: a step is the same in ten random orders of its queues' work") {
    using semoe::testing::DelayedBackend;
    auto const expected = semoe::test::baseline<DelayedBackend>({});
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        CAPTURE(seed);
        DelayedBackend shared{.seed = seed};
        auto const got = semoe::test::run_step(
            {}, 1, [&](int) { return shared.fork(); },
            [](DelayedBackend& b) {
                return semoe::tier::Cached<DelayedBackend, semoe::tier::HostStore>{
                    b, semoe::tier::HostStore{}, {.slots = 2}};
            },
            semoe::schedule::Chunked{.chunks = 3});
        CHECK(got.y == expected.y);
        CHECK(got.dx == expected.dx);
        CHECK(semoe::test::worst_error(got.gradients, expected.gradients) == 0);
        CHECK(semoe::test::worst_error(got.weights, expected.weights) == 0);
    }
}
#endif
