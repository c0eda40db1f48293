// Trains a small Mixture-of-Experts language model on text files, on the CPU: see model.hpp for
// what it is made of and `train_lm --help` for how to run it. The last line but the sample is
// `val loss X nats/byte`, beside what counting pairs and triples of bytes would reach.

#include "model.hpp"
#include "options.hpp"
#include "text.hpp"
#include "transformer.hpp"

#include <semoe/checkpoint/checkpoint.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>

namespace {

using namespace train_lm;
namespace fs = std::filesystem;

volatile std::sig_atomic_t interrupted = 0;

/// The repository's own sources and documents, sorted by path.
std::vector<std::string> default_text() {
    std::vector<std::string> paths;
    fs::path const root = SEMOE_SOURCE_DIR;
    for (char const* part : {"include", "tests", "examples", "bench", "cmake", "README.md"}) {
        if (fs::is_regular_file(root / part)) paths.push_back((root / part).string());
        if (!fs::is_directory(root / part)) continue;
        for (auto const& entry : fs::recursive_directory_iterator(root / part)) {
            auto const kind = entry.path().extension();
            if (entry.is_regular_file() && (kind == ".hpp" || kind == ".cpp" || kind == ".cuh" ||
                                            kind == ".md" || kind == ".cmake"))
                paths.push_back(entry.path().string());
        }
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

/// The newest checkpoint of a run, DIR/step-N.safetensors.
std::string newest_checkpoint(fs::path const& dir) {
    index_t best = -1;
    fs::path found;
    if (fs::is_directory(dir))
        for (auto const& entry : fs::directory_iterator(dir)) {
            std::string const name = entry.path().filename().string();
            if (name.rfind("step-", 0) != 0 || entry.path().extension() != ".safetensors") continue;
            index_t const step = std::atoll(name.c_str() + 5);
            if (step > best) best = step, found = entry.path();
        }
    return found.string();
}

class Run {
public:
    Run(Options options, Corpus corpus)
      : options_(std::move(options))
      , corpus_(std::move(corpus))
      , model_(Backend{.threads = options_.threads}, options_.seed, batch * window)
      , inputs_(std::size_t(batch * window))
      , targets_(inputs_.size())
      , load_(std::size_t(num_experts)) {}

    /// Everything that a checkpoint holds.
    auto tensors() {
        return [this](auto& visit) {
            model_.for_each_parameter([&](auto& p) { p.visit(model_.backend(), visit); });
            for (auto& block : model_.blocks()) semoe::checkpoint::visit_layer(block->moe(), visit);
        };
    }
    void resume(std::string const& path) {
        auto const resumed = semoe::checkpoint::load(path, tensors());
        if (!resumed.warning.empty()) std::printf("%s\n", resumed.warning.c_str());
        step_ = resumed.state.step;
    }
    /// Trains until the steps or the seconds are over, or ctrl-C. @return the last checkpoint
    std::string train() {
        begin_ = std::chrono::steady_clock::now();
        first_step_ = step_;
        std::string saved;
        while (!finished()) {
            train_step();
            progress();
            if (step_ % options_.every == 0) saved = save();
        }
        if (!options_.quiet) std::printf("\n");
        double const seconds = elapsed();
        std::printf("%lld steps, %.0f tokens/s\n", static_cast<long long>(step_),
                    double((step_ - first_step_) * batch * window) / std::max(seconds, 1e-9));
        return step_ % options_.every == 0 && !saved.empty() ? saved : save();
    }
    /// Mean nats a byte over the held-out blocks.
    double validate() {
        auto const starts = corpus_.validation_windows();
        double sum = 0;
        index_t count = 0;
        for (std::size_t i = 0; i < starts.size() && !interrupted; i += std::size_t(batch)) {
            auto const n = std::min<index_t>(batch, index_t(starts.size() - i));
            gather(n, [&](index_t j) { return starts[i + std::size_t(j)]; });
            model_.forward(inputs_, std::uint64_t(step_));
            sum += model_.loss(targets_, false) * double(n);
            count += n;
        }
        return sum / double(std::max<index_t>(count, 1));
    }
    void report_load() {
        std::printf("expert load, share of choices since the start:");
        double total = 0;
        for (double n : load_) total += n;
        index_t dead = 0;
        for (double n : load_) {
            std::printf(" %.2f", n / std::max(total, 1.0));
            dead += n == 0;
        }
        std::printf(" (%lld dead)\n", static_cast<long long>(dead));
    }
    /// Continues a prompt, drawing each byte from the model's distribution at temperature 0.7.
    std::string sample(std::string text, index_t bytes) {
        for (index_t n = 0; n < bytes && !interrupted; ++n) {
            std::vector<std::uint8_t> context(std::size_t(window), ' ');
            auto const used = std::min(text.size(), context.size());
            std::copy(text.end() - std::ptrdiff_t(used), text.end(), context.begin());
            auto const logits = model_.forward(context, 0);
            float const* const z = logits.row(index_t(used) - 1);
            double p[vocabulary], sum = 0;
            for (index_t v = 0; v < vocabulary; ++v)
                sum += p[v] = std::exp(double(z[v] - *std::max_element(z, z + vocabulary)) / 0.7);
            double left = sum * double(semoe::random_uniform<double>({options_.seed, 1, 7}, n, 0));
            index_t v = 0;
            while (v + 1 < vocabulary && (left -= p[v]) > 0) ++v;
            text.push_back(char(v));
        }
        return text;
    }
    index_t step() const { return step_; }

private:
    double elapsed() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    }
    bool finished() const {
        return interrupted || (options_.steps > 0 && step_ >= options_.steps) ||
               (options_.seconds > 0 && elapsed() >= options_.seconds);
    }
    template <class Start>
    void gather(index_t windows, Start start) {
        inputs_.resize(std::size_t(windows * window));
        targets_.resize(inputs_.size());
        for (index_t j = 0; j < windows; ++j) {
            std::uint8_t const* const p = corpus_.at(start(j));
            std::copy_n(p, window, inputs_.begin() + j * window);
            std::copy_n(p + 1, window, targets_.begin() + j * window);
        }
    }
    void train_step() {
        gather(batch, [&](index_t j) { return corpus_.sample(options_.seed, step_, j); });
        model_.zero_grad();
        model_.forward(inputs_, std::uint64_t(step_));
        double const loss = model_.loss(targets_, true);
        smooth_ = step_ == first_step_ ? loss : 0.95 * smooth_ + 0.05 * loss;
        model_.backward(inputs_);
        model_.update(step_);
        for (auto& block : model_.blocks()) {
            auto const& tokens = block->context().counters.tokens_per_expert;
            for (std::size_t e = 0; e < load_.size(); ++e) load_[e] += double(tokens[e]);
        }
        ++step_;
    }
    /// loss, speed, time left and a bar an expert: its load relative to the busiest.
    void progress() {
        double const now = elapsed();
        if (options_.quiet || (now - shown_ < 0.5 && !finished())) return;
        shown_ = now;
        double const rate = double(step_ - first_step_) / std::max(now, 1e-9);
        double left = options_.seconds > 0 ? options_.seconds - now : 1e9;
        if (options_.steps > 0) left = std::min(left, double(options_.steps - step_) / rate);
        std::printf("\rstep %5lld  loss %.3f  %6.0f tokens/s  %4.0f s left  experts ",
                    static_cast<long long>(step_), smooth_, rate * double(batch * window),
                    std::max(left, 0.0));
        static char const* const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
        std::vector<double> now_load(load_.size());
        for (auto& block : model_.blocks())
            for (std::size_t e = 0; e < load_.size(); ++e)
                now_load[e] += double(block->context().counters.tokens_per_expert[e]);
        double const most = *std::max_element(now_load.begin(), now_load.end());
        for (double n : now_load) std::printf("%s", n > 0 ? bars[int(n / most * 7.99)] : " ");
        std::fflush(stdout);
    }
    std::string save() {
        auto state = fields();
        state["text"] = fingerprint(corpus_.text());
        std::string const path =
            (fs::path(options_.out) / ("step-" + std::to_string(step_) + ".safetensors")).string();
        semoe::checkpoint::save(path, {.step = step_, .seed = options_.seed, .fields = state},
                                tensors());
        return path;
    }

    Options options_;
    Corpus corpus_;
    Transformer model_;
    std::vector<std::uint8_t> inputs_, targets_;
    std::vector<double> load_;
    index_t step_ = 0, first_step_ = 0;
    double smooth_ = 0, shown_ = -1;
    std::chrono::steady_clock::time_point begin_;
};

/// A directory that holds no run yet.
std::string new_run(std::string out) {
    if (out.empty()) {
        int n = 1;
        while (fs::exists(fs::path("runs") / std::to_string(n))) ++n;
        out = (fs::path("runs") / std::to_string(n)).string();
    }
    if (!newest_checkpoint(out).empty())
        throw std::runtime_error("train_lm: " + out +
                                 " holds a run already; continue it with --resume " + out);
    fs::create_directories(out);
    return out;
}

int run(int argc, char** argv) {
    Options options = parse_options(argc, argv);
    if (options.help) return std::printf("%s", usage), 0;
    std::string checkpoint;
    Corpus corpus(read_text(options.text.empty() ? default_text() : options.text), window);
    if (options.resume.empty()) {
        options.out = new_run(options.out);
    } else {
        options.out = options.resume;
        checkpoint = newest_checkpoint(options.resume);
        if (checkpoint.empty())
            throw std::runtime_error("train_lm: no checkpoint in " + options.resume);
        auto const resumed = semoe::checkpoint::read_state(checkpoint);
        auto expected = fields();
        expected["text"] = fingerprint(corpus.text());
        semoe::checkpoint::expect_fields(checkpoint, resumed, expected);
        options.seed = resumed.state.seed;
    }
    std::printf("%lld bytes of text; %lld layers of %lld experts, top %lld; %s\n",
                static_cast<long long>(corpus.size()), static_cast<long long>(num_layers),
                static_cast<long long>(num_experts), static_cast<long long>(top_k),
                semoe::to_string(semoe::selected_isa()));
    auto const session = std::make_unique<Run>(options, corpus);
    if (!checkpoint.empty()) session->resume(checkpoint);
    std::signal(SIGINT, [](int) { interrupted = 1; });
    std::string const saved = session->train();
    std::printf("checkpoint %s\n", saved.c_str());
    session->report_load();
    if (interrupted) return 0;
    double const loss = session->validate();
    std::printf("val loss %.4f nats/byte (byte pairs %.4f, byte triples %.4f)\n", loss,
                counted_loss(corpus, window, 1), counted_loss(corpus, window, 2));
    std::printf("--- sample ---\n%s\n", session->sample("/// ", 300).c_str());
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (std::invalid_argument const& e) {
        std::fprintf(stderr, "%s\n%s", e.what(), usage);
        return 2;
    } catch (std::exception const& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}
