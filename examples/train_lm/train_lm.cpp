// Trains a small Mixture-of-Experts language model on text files, on the CPU: see model.hpp for
// what it is made of and `train_lm --help` for how to run it. The last line but the sample is
// `val loss X nats/byte`, beside what counting pairs and triples of bytes would reach.

#include "session.hpp"

#include <semoe/checkpoint/checkpoint.hpp>

#include <cstdio>
#include <filesystem>

namespace {

using namespace train_lm;
namespace fs = std::filesystem;

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

/// Makes the folder, without blocks of any run but the one that goes on.
void prepare_storage(Options const& options) {
    if (options.from_storage) return;
    if (options.resume.empty() && stored_run(options.storage))
        throw std::runtime_error("train_lm: " + options.storage +
                                 " holds a run already; continue it with --resume, or remove " +
                                 storage_file(options.storage));
    fs::create_directories(options.storage);
    fs::remove(storage_file(options.storage));
}

/// Finds what `options` continue, and checks that it is this model's. @return the checkpoint, if
/// that is newer than what lies in --storage
std::string continued_run(Options& options, Corpus const& corpus) {
    options.out = options.resume;
    std::string const checkpoint = newest_checkpoint(options.resume);
    auto const stored = stored_run(options.storage);
    if (checkpoint.empty() && !(stored && fs::is_directory(options.resume)))
        throw std::runtime_error("train_lm: no checkpoint in " + options.resume);
    semoe::checkpoint::Resumed saved;
    saved.state.step = -1;
    auto const fields = run_fields(options, corpus);
    if (stored) semoe::checkpoint::expect_fields(storage_file(options.storage), *stored, fields);
    if (!checkpoint.empty()) {
        saved = semoe::checkpoint::read_state(checkpoint);
        semoe::checkpoint::expect_fields(checkpoint, saved, fields);
    }
    if (stored && !checkpoint.empty() && stored->state.seed != saved.state.seed)
        throw std::runtime_error("train_lm: " + storage_file(options.storage) +
                                 " is of another run: its seed is " +
                                 std::to_string(stored->state.seed) + ", that of " + checkpoint +
                                 " is " + std::to_string(saved.state.seed));
    options.from_storage = stored && stored->state.step >= saved.state.step;
    auto const from = options.from_storage ? storage_file(options.storage) : checkpoint;
    auto const& run = options.from_storage ? *stored : saved;
    options.seed = run.state.seed;
    options.storage_step = run.state.step;
    std::printf("continuing from step %lld in %s\n", static_cast<long long>(run.state.step),
                from.c_str());
    return options.from_storage ? "" : checkpoint;
}

int run(int argc, char** argv) {
    Options options = parse_options(argc, argv);
    if (options.help) return std::printf("%s", usage), 0;
    std::signal(SIGINT, [](int) { interrupted = 1; });
    std::string checkpoint;
    static_assert(window < Corpus::block,
                  "train_lm: a window lies within a block of text: make window in model.hpp less "
                  "than Corpus::block in text.hpp, or that more");
    Corpus corpus(read_text(options.text.empty() ? default_text() : options.text), window);
    if (!options.resume.empty())
        checkpoint = continued_run(options, corpus);
    else
        options.out = new_run(options.out);
    if (!options.storage.empty()) prepare_storage(options);
    std::printf("%lld bytes of text; %lld layers of %lld experts, top %lld; %s\n",
                static_cast<long long>(corpus.size()), static_cast<long long>(num_layers),
                static_cast<long long>(num_experts), static_cast<long long>(top_k),
                semoe::to_string(semoe::selected_isa()));
    auto const session = options.storage.empty() ? session_in_memory(options, corpus)
                                                 : session_on_disk(options, corpus);
    if (!checkpoint.empty()) session->resume(checkpoint);
    std::string const saved = session->train();
    std::printf("checkpoint %s\n", saved.c_str());
    session->report_load();
    if (interrupted) return 0;
    double const loss = session->validate();
    if (interrupted) return 0;
    std::printf("val loss %.4f nats/byte (byte pairs %.4f, byte triples %.4f)\n", loss,
                counted_loss(corpus, window, 1), counted_loss(corpus, window, 2));
    std::printf("--- sample ---\n%s\n", session->sample("/// ", options.sample).c_str());
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
