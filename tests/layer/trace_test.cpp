#include "semoe/core/trace.hpp"

#include "semoe/expert/gated.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/schedule/chunked.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <sstream>

using namespace semoe;

namespace trace_test {
namespace {
constexpr index_t T = 10, H = 6, chunks = 3;
constexpr int ranks = 2;

/// Spans in a trace of that rank, name and chunk; chunk -1: of none.
int count_spans(std::string const& json, int rank, std::string const& name, index_t chunk) {
    int count = 0;
    std::istringstream in(json);
    for (std::string line; std::getline(in, line);) {
        auto const has = [&](std::string const& part) {
            return line.find(part) != std::string::npos;
        };
        count += has("\"ph\":\"X\",\"pid\":" + std::to_string(rank) + ",") &&
                 has("\"name\":\"" + name + "\"") &&
                 (chunk < 0 ? !has("\"chunk\"") : has("\"chunk\":" + std::to_string(chunk) + "}"));
    }
    return count;
}

TEST_CASE("layer/trace: a recorder has every stage of forward and backward, of every rank and "
          "chunk, once") {
    trace::Recorder const recorder;
    comm::ThreadWorld const world{ranks, {.timeout = std::chrono::seconds(60)}};
    world.run([&](comm::Threads rank) {
        CpuBackend b{.threads = 2};
        MoeLayer layer{b,
                       gate::TopK<gate::Softmax>{.num_experts = 4, .top_k = 2},
                       expert::SwiGlu<float>{.hidden = H, .intermediate = 5},
                       rank,
                       tier::Resident<CpuBackend>{b},
                       schedule::Chunked{.chunks = chunks},
                       MoeConfig{},
                       recorder.for_rank(rank.rank())};
        layer.initialize(1);
        auto context = layer.make_context(T, Mode::training);
        auto x = test::random_values<float>(std::uint64_t(rank.rank()), T * H);
        std::vector<float> y(x.size()), dx(x.size());
        auto const view = [](auto& v) { return MatrixView<float, HostSpace>{v.data(), T, H}; };
        layer.forward(view(x), view(y), context);
        layer.backward(view(y), view(dx), context);
        b.synchronize();
    });
    std::string const json = recorder.json();
    CHECK(recorder.dropped() == 0);
    for (int rank = 0; rank < ranks; ++rank) {
        CAPTURE(rank);
        CHECK(count_spans(json, rank, "route", -1) == 1);
        for (std::string const name : {"dispatch", "experts", "combine", "combine backward",
                                       "experts backward", "dispatch backward"})
            for (index_t c = 0; c < chunks; ++c) {
                CAPTURE(name);
                CAPTURE(c);
                CHECK(count_spans(json, rank, name, c) == 1);
            }
    }
}

} // namespace
} // namespace trace_test
