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
