// Decodes through a stack of Mixture-of-Experts layers that do not fit into memory: their experts
// lie in a file of blocks and come when tokens choose them, past the system's cache.

#include "../support/timed_tier.hpp"
#include "options.hpp"
#include "traced_store.hpp"

#include <semoe/layer/sequence.hpp>
#include <semoe/semoe.hpp>
#include <semoe/tier/ring.hpp>
#include <semoe/tier/store/file.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <sys/resource.h>

using namespace semoe;
using examples::seconds_since;
using examples::TimedTier;

namespace serve_layers {

using Gate = gate::TopK<gate::Softmax>;
using Expert = expert::SwiGlu<bf16>;
using Store = TracedStore<tier::FileStore>;
template <class Tier>
using Layer =
    MoeLayer<CpuBackend, Gate, Expert, comm::Self, Tier, schedule::Sequential, trace::Recorder>;
template <class T>
using Rows = MatrixView<T, HostSpace>;

Gate gate_of(Options const& o) { return {.num_experts = o.experts, .top_k = o.top_k}; }
Expert expert_of(Options const& o) { return {.hidden = o.hidden, .intermediate = o.intermediate}; }
constexpr std::uint64_t seed = 1;

/// Choices of tokens, drawn; every expert's popularity differs from layer to layer.
class Draws {
public:
    Draws(Options const& o, std::int64_t most_tokens)
      : o_(o)
      , ids_(std::size_t(most_tokens * o.top_k))
      , weights_(ids_.size(), 1 / float(o.top_k)) {
        std::vector<double> popularity(std::size_t(o.experts), 1.0);
        if (o.routing == "zipf")
            for (std::size_t r = 0; r < popularity.size(); ++r)
                popularity[r] = std::pow(double(r + 1), -o.skew);
        draw_ = std::discrete_distribution<int>(popularity.begin(), popularity.end());
    }
    void draw(index_t tokens, index_t layer) {
        for (index_t t = 0; t < tokens; ++t)
            for (index_t k = 0; k < o_.top_k;) {
                auto const row = ids_.begin() + t * o_.top_k;
                auto const id = expert_id((draw_(random_) + 17 * layer) % o_.experts);
                if (std::find(row, row + k, id) == row + k) row[k++] = id;
            }
    }
    Rows<expert_id const> ids(index_t tokens) const { return {ids_.data(), tokens, o_.top_k}; }
    Rows<float const> weights(index_t tokens) const { return {weights_.data(), tokens, o_.top_k}; }

private:
    Options const& o_;
    std::mt19937_64 random_{seed};
    std::discrete_distribution<int> draw_;
    std::vector<expert_id> ids_;
    std::vector<float> weights_;
};

/// The layers over one tier, and a residual stream through them.
template <class Tier>
class Stack {
public:
    Stack(CpuBackend backend, Options const& o, Tier tier, trace::Recorder recorder)
      : o_(o)
      , most_(std::max<index_t>(o.prompt, 1))
      , draws_(o, most_)
      , in_(std::size_t(most_ * o.hidden))
      , out_(in_.size())
      , stream_(in_.size()) {
        for (index_t l = 0; l < o.layers; ++l) {
            layers_.emplace_back(backend, gate_of(o), expert_of(o), comm::Self{}, tier,
                                 schedule::Sequential{}, MoeConfig{.layer = layer_id(l)}, recorder);
        }
        context_.emplace(layers_.front().make_context(most_)); // layers take turns
    }
    void initialize() {
        for (auto& layer : layers_) layer.initialize(seed);
    }
    index_t activation_bytes() const {
        constexpr index_t copies = 2 * sizeof(bf16) + 2 * sizeof(float);
        return context_->workspace_bytes() + copies * index_t(stream_.size());
    }
    /// A batch through all layers. @return what the last token has become
    std::vector<float> run(std::vector<float> const& tokens) {
        index_t const n = index_t(tokens.size()) / o_.hidden;
        std::copy(tokens.begin(), tokens.end(), stream_.begin());
        for (std::size_t l = 0; l < layers_.size(); ++l) {
            normalize(n);
            Rows<bf16 const> const x{in_.data(), n, o_.hidden};
            Rows<bf16> const y{out_.data(), n, o_.hidden};
            if (o_.routing == "gate") {
                if constexpr (HasPrediction<Tier, CpuBackend>)
                    if (o_.predict) layers_[(l + 1) % layers_.size()].predict(x, *context_);
                layers_[l].forward(x, y, *context_);
            } else {
                draws_.draw(n, index_t(l));
                layers_[l].forward_routed(x, draws_.ids(n), draws_.weights(n), y, *context_);
            }
            for (std::size_t i = 0; i < tokens.size(); ++i) stream_[i] += float(out_[i]);
        }
        return {stream_.begin() + (n - 1) * o_.hidden, stream_.begin() + n * o_.hidden};
    }

private:
    void normalize(index_t n) {
        for (index_t t = 0; t < n; ++t) {
            float const* const row = stream_.data() + t * o_.hidden;
            float sum = 0;
            for (index_t h = 0; h < o_.hidden; ++h) sum += row[h] * row[h];
            float const scale = 1 / std::sqrt(sum / float(o_.hidden) + 1e-6f);
            for (index_t h = 0; h < o_.hidden; ++h)
                in_[std::size_t(t * o_.hidden + h)] = bf16(row[h] * scale);
        }
    }

    Options const& o_;
    index_t most_;
    Draws draws_;
    std::vector<bf16> in_, out_;
    std::vector<float> stream_;
    std::deque<Layer<Tier>> layers_;
    std::optional<typename Layer<Tier>::Context> context_;
};

/// Embeddings of tokens that nobody has to know.
std::vector<float> embed(std::int64_t count, std::int64_t hidden, std::uint32_t stream) {
    std::vector<float> x(std::size_t(count * hidden));
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = random_uniform({seed, 7, stream}, index_t(i), 0) * 2 - 1;
    return x;
}
/// The next token, which depends on what the last has become.
std::vector<float> next_token(std::vector<float> const& last, std::uint32_t stream) {
    auto x = embed(1, std::int64_t(last.size()), stream);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += 0.1f * std::tanh(last[i]);
    return x;
}

/// Bytes a second that the file gives: blocks one after the other, some of them under way.
double probe(CpuBackend backend, Store store, std::vector<BlockKey> const& keys) {
    constexpr std::size_t under_way = 8;
    constexpr double long_enough = 1; // second
    CpuBackend queue = backend.fork();
    index_t largest = 1;
    for (BlockKey const key : keys) largest = std::max(largest, store.info(key).bytes);
    std::vector<Buffer<std::byte, CpuBackend>> to;
    for (std::size_t i = 0; i < under_way; ++i) to.emplace_back(backend, largest);
    std::vector<CpuBackend::event_type> done(under_way);
    double bytes = 0;
    auto const start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; seconds_since(start) < long_enough && i < 64 * keys.size(); ++i) {
        BlockKey const key = keys[i % keys.size()];
        backend.wait(done[i % under_way]);
        auto const memory = to[i % under_way].view().part(0, store.info(key).bytes);
        done[i % under_way] = store.load(queue, key, memory);
        bytes += double(memory.size);
    }
    for (auto const& event : done) backend.wait(event);
    return bytes / seconds_since(start);
}

/// Seconds that processors worked for this process, in it and in the kernel.
struct ProcessorSeconds {
    double user = 0, kernel = 0;

    static ProcessorSeconds now() {
        rusage u{};
        getrusage(RUSAGE_SELF, &u);
        auto const s = [](timeval t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
        return {s(u.ru_utime), s(u.ru_stime)};
    }
};

/// Says what one phase did.
class Report {
public:
    /// @param disk  bytes a second that it gives; 0: unknown
    Report(std::function<TierCounters()> counters, std::function<double()> waited, double disk)
      : counters_(std::move(counters))
      , waited_(std::move(waited))
      , disk_(disk)
      , before_(counters_())
      , waited_before_(waited_()) {}

    void print(char const* phase, std::int64_t tokens, char const* end) const {
        double const seconds = seconds_since(start_);
        TierCounters const now = counters_();
        auto const acquires = std::max<index_t>(1, now.acquires - before_.acquires);
        double const loads = double(now.loads - before_.loads);
        // What was read ahead in vain counts as well, and there may be more of it than of use.
        double const hits = std::max(0.0, 1 - loads / double(acquires));
        double const read = double(now.bytes_loaded - before_.bytes_loaded);
        auto const processors = ProcessorSeconds::now();
        std::printf("%s: %lld tokens, %.2f tokens/s; read %.2f GB, %.2f GB/s; %.1f %% hits, "
                    "%.1f %% of the time waiting; processors: %.0f %% user, %.1f %% kernel",
                    phase, static_cast<long long>(tokens), double(tokens) / seconds, read * 1e-9,
                    read * 1e-9 / seconds, 100 * hits, 100 * (waited_() - waited_before_) / seconds,
                    100 * (processors.user - processors_.user) / seconds,
                    100 * (processors.kernel - processors_.kernel) / seconds);
        if (disk_ > 0) std::printf("; %.1f %% of the disk", 100 * read / seconds / disk_);
        std::printf("%s", end);
        std::fflush(stdout);
    }

private:
    std::function<TierCounters()> counters_;
    std::function<double()> waited_;
    double disk_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    TierCounters before_;
    double waited_before_;
    ProcessorSeconds processors_ = ProcessorSeconds::now();
};

/// @param make  a tier whose weights take so many bytes at most
/// @return what the last token has become
template <class Make>
std::vector<float> serve(CpuBackend backend, Options const& o, trace::Recorder recorder,
                         double disk, Make const& make) {
    auto const activations = [&] { // no slot is made before a block is used
        TimedTier sizes{make(std::numeric_limits<index_t>::max()), recorder};
        return Stack{backend, o, sizes, recorder}.activation_bytes();
    }();
    expects(activations < o.memory, "--memory: the activations alone take {} bytes", activations);
    TimedTier tier{make(o.memory - activations), recorder};
    Stack stack{backend, o, tier, recorder};
    auto const report = [&] {
        return Report([&] { return tier.counters(); }, [&] { return tier.waited(); }, disk);
    };
    std::vector<float> last = embed(1, o.hidden, 0);
    for (std::int64_t p = 0; o.prompt > 0 && p < o.prompts; ++p) {
        Report const prompt = report();
        last = stack.run(embed(o.prompt, o.hidden, 1));
        prompt.print("prompt", o.prompt, "\n");
    }
    std::uint32_t position = 2;
    auto const decode = [&](char const* phase, std::int64_t tokens) {
        Report const decoding = report();
        auto shown = std::chrono::steady_clock::now();
        std::string const line = "\r" + std::string(phase);
        for (std::int64_t t = 0; t < tokens; ++t) {
            last = stack.run(next_token(last, position++));
            if (o.quiet || seconds_since(shown) < 1) continue;
            shown = std::chrono::steady_clock::now();
            decoding.print(line.c_str(), t + 1, "");
        }
        if (tokens > 0) decoding.print(o.quiet ? phase : line.c_str(), tokens, "\n");
    };
    decode("warm-up", o.warm);
    decode("decode", o.tokens);
    return last;
}

/// Writes the model's file, holding no more of it than `memory`. It has its name when it is whole.
void write_model(CpuBackend backend, Options const& o) {
    std::printf("writing %s\n", o.file.c_str());
    std::string const partial = o.file + ".partial";
    std::filesystem::remove(partial);
    {
        tier::FileStore store{partial};
        tier::Cached tier{backend, store, {.bytes = o.memory}};
        Stack stack{backend, o, tier, trace::Recorder{0}};
        stack.initialize();
        tier.flush(backend);
    }
    std::filesystem::rename(partial, o.file);
}

int run(Options const& o) {
    CpuBackend backend{.threads = int(o.threads)};
    if (!std::filesystem::exists(o.file)) write_model(backend, o);
    trace::Recorder recorder{o.trace.empty() ? 0 : 1 << 20};
    tier::FileStore const file{o.file, {.read_only = true}};
    Store store{backend, file, recorder, !o.trace.empty()};
    double const disk = o.probe ? probe(backend, store, file.keys()) : 0;
    if (o.probe) std::printf("disk: %.2f GB/s\n", disk * 1e-9);
    std::vector<float> last;
    if (o.tier == "ring")
        last = serve(backend, o, recorder, disk, [&](index_t) {
            return tier::Ring{backend, store, {.slots = o.slots}};
        });
    else if (o.tier == "lfu")
        last = serve(backend, o, recorder, disk, [&](index_t bytes) {
            return Sequenced{tier::Cached{backend, store, {.bytes = bytes}, tier::eviction::Lfu{}}};
        });
    else
        last = serve(backend, o, recorder, disk, [&](index_t bytes) {
            return Sequenced{tier::Cached{backend, store, {.bytes = bytes}}};
        });
    if (!o.trace.empty()) recorder.write(o.trace);
    if (o.probe) std::printf("disk again: %.2f GB/s\n", probe(backend, store, file.keys()) * 1e-9);
    if (!o.check) return 0;

    TimedTier resident{tier::Resident{backend}, trace::Recorder{0}};
    Stack whole{backend, o, resident, trace::Recorder{0}};
    whole.initialize();
    std::vector<float> expected = embed(1, o.hidden, 0);
    for (std::int64_t p = 0; o.prompt > 0 && p < o.prompts; ++p)
        expected = whole.run(embed(o.prompt, o.hidden, 1));
    for (std::int64_t t = 0; t < o.warm + o.tokens; ++t)
        expected = whole.run(next_token(expected, std::uint32_t(2 + t)));
    bool const same = last == expected;
    std::printf("%s as with all weights in memory\n", same ? "the same, to the bit," : "NOT");
    return same ? 0 : 1;
}

} // namespace serve_layers

int main(int argc, char** argv) {
    serve_layers::Options options;
    try {
        options = serve_layers::parse_options(argc, argv);
    } catch (std::exception const& error) {
        std::fprintf(stderr, "serve_layers: %s\n%s", error.what(), serve_layers::usage);
        return 2;
    }
    if (options.help) {
        std::printf("%s", serve_layers::usage);
        return 0;
    }
    try {
        return serve_layers::run(options);
    } catch (std::exception const& error) {
        std::fprintf(stderr, "serve_layers: %s\n", error.what());
        return 1;
    }
}
