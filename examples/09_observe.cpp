// Seeing a layer at work: counters, losses, and a timeline for chrome://tracing or Perfetto that
// shows messages of one chunk beside the experts of another.

#include <semoe/semoe.hpp>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

using Matrix = semoe::MatrixView<float, semoe::HostSpace>;

int main() {
    constexpr semoe::index_t tokens = 256, hidden = 32;
    semoe::CpuBackend backend;
    semoe::trace::Recorder recorder;
    semoe::MoeLayer layer{backend,
                          semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = 8, .top_k = 2},
                          semoe::expert::SwiGlu<float>{.hidden = hidden, .intermediate = 64},
                          semoe::comm::Self{},
                          semoe::tier::Resident<semoe::CpuBackend>{backend},
                          semoe::schedule::Chunked{.chunks = 4},
                          semoe::MoeConfig{.layer = 0},
                          recorder};
    layer.initialize(6);
    std::vector<float> x(tokens * hidden), y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = semoe::random_uniform({.seed = 8}, semoe::index_t(i), 0) - 0.5f;
    auto context = layer.make_context(tokens);
    layer.forward(Matrix{x.data(), tokens, hidden}, Matrix{y.data(), tokens, hidden}, context);

    auto const& n = context.counters;
    for (std::size_t e = 0; e < n.tokens_per_expert.size(); ++e)
        std::printf("expert %zu: %lld rows\n", e, static_cast<long long>(n.tokens_per_expert[e]));
    std::printf("entropy %.3f nats, balance loss %.3f, z loss %.3f, dropped %lld\n", n.entropy,
                context.losses.aux_loss, context.losses.z_loss, static_cast<long long>(n.dropped));
    std::printf("blocks acquired %lld\n", static_cast<long long>(layer.tier().counters().acquires));

    backend.synchronize();
    auto const file = std::filesystem::temp_directory_path() / "semoe_example_09.json";
    recorder.write(file.string());
    std::size_t const written = std::filesystem::file_size(file);
    std::filesystem::remove(file);
    std::size_t spans = 0;
    std::string const timeline = recorder.json();
    for (auto at = timeline.find("\"ph\":\"X\""); at != std::string::npos; ++spans)
        at = timeline.find("\"ph\":\"X\"", at + 1);
    std::printf("%zu spans in %zu bytes\n", spans, written);
    return spans == 1 + 3 * 4 ? 0 : 1; // the route, and three stages a chunk
}
