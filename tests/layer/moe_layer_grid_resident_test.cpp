#include "layer/grid_cases.hpp"

TEST_CASE_TEMPLATE("layer/moe_layer: a step over resident blocks is the same for any number of "
                   "ranks and chunks",
                   B, SEMOE_TEST_BACKENDS) {
    using semoe::test::GridCase;
    auto const expected = semoe::test::baseline<B>(GridCase{});
    auto const resident = [](B& b) { return semoe::tier::Resident<B>{b}; };
    for (int ranks = 1; ranks <= 4; ++ranks) {
        CAPTURE(ranks);
        semoe::test::check_step<B>(expected, GridCase{}, ranks, resident,
                                   semoe::schedule::Sequential{});
        semoe::test::check_step<B>(expected, GridCase{}, ranks, resident,
                                   semoe::schedule::Chunked{.chunks = 3});
    }
}
