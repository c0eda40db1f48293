#include "layer/grid_cases.hpp"
#include "semoe/tier/store/file.hpp"
#include "semoe/tier/store/write_blocks.hpp"
#include "support/faulty_file_system.hpp"

#include <atomic>
#include <vector>

using namespace semoe;
using semoe::test::GridCase, semoe::test::ScratchDirectory;

TEST_CASE_TEMPLATE("layer/moe_layer: a step through slots over a file is the same as in memory", B,
                   SEMOE_TEST_BACKENDS) {
    auto const expected = semoe::test::baseline<B>(GridCase{});
    ScratchDirectory directory;
    std::atomic<int> files = 0;
    for (int const slots : {1, 3})
        for (int ranks = 1; ranks <= 2; ++ranks) {
            CAPTURE(slots);
            CAPTURE(ranks);
            auto const cached = [&](B& b) {
                tier::FileStore const store{directory / std::to_string(files++)};
                return tier::Cached<B, tier::FileStore>{b, store, {.slots = slots}};
            };
            semoe::test::check_step<B>(expected, GridCase{}, ranks, cached, schedule::Sequential{});
            semoe::test::check_step<B>(expected, GridCase{}, ranks, cached,
                                       schedule::Chunked{.chunks = 3});
        }
}

TEST_CASE("layer/moe_layer: weights written to a file give a layer over it the same outputs") {
    ScratchDirectory directory;
    CpuBackend b;
    gate::TopK<gate::Softmax> const gate{.num_experts = 6, .top_k = 2};
    expert::SwiGlu<float> const expert{.hidden = 40, .intermediate = 24};
    std::vector<float> tokens(11 * 40), in_memory(tokens.size()), from_file(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = float(i % 17) / 17 - 0.5f;
    MatrixView<float, HostSpace> const x{tokens.data(), 11, 40};

    MoeLayer layer{b, gate, expert};
    layer.initialize(5);
    auto context = layer.make_context(11);
    layer.forward(x, {in_memory.data(), 11, 40}, context);
    tier::write_blocks(b, layer.tier(), layer.block_keys(), directory / "layer");

    for (index_t const slots : {1, 2, 6}) {
        tier::FileStore const store{directory / "layer", {.read_only = true}};
        MoeLayer over_file{b, gate, expert, comm::Self{},
                           tier::Cached<CpuBackend, tier::FileStore>{b, store, {.slots = slots}}};
        auto other = over_file.make_context(11);
        std::fill(from_file.begin(), from_file.end(), -1.0f);
        over_file.forward(x, {from_file.data(), 11, 40}, other);
        CHECK(from_file == in_memory);
        CHECK(store.counters().stores == 0);
    }
}
