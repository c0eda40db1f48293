#pragma once

// A training run as main() sees it. There are two, for models in memory and on disk, in a file
// each: they are the same code over another tier.

#include "model.hpp"
#include "options.hpp"
#include "text.hpp"

#include <semoe/checkpoint/checkpoint.hpp>

#include <csignal>
#include <memory>
#include <optional>
#include <string>

namespace train_lm {

/// What must be equal for a run to be continued.
inline std::map<std::string, std::string> run_fields(Options const& options, Corpus const& corpus) {
    auto all = fields();
    all["text"] = fingerprint(corpus.text());
    all["states"] = options.packed_moments ? "8bit" : "32bit";
    return all;
}

/// Set by ctrl-C: whatever runs comes to its end.
inline volatile std::sig_atomic_t interrupted = 0;

class Session {
public:
    virtual ~Session() = default;

    /// Continues from a checkpoint.
    virtual void resume(std::string const& checkpoint) = 0;
    /// Trains until the steps or the seconds are over, or ctrl-C. @return the last checkpoint
    virtual std::string train() = 0;
    virtual void report_load() = 0;
    /// Mean nats a byte over the held-out blocks.
    virtual double validate() = 0;
    /// Continues a prompt, drawing each byte from the model's distribution at temperature 0.7.
    virtual std::string sample(std::string text, index_t bytes) = 0;
};

/// What the last flush left in a folder's file: the state of a run; nothing if there was none.
std::optional<semoe::checkpoint::Resumed> stored_run(std::string const& folder);
std::string storage_file(std::string const& folder);

std::unique_ptr<Session> session_in_memory(Options options, Corpus corpus);
std::unique_ptr<Session> session_on_disk(Options options, Corpus corpus);

} // namespace train_lm
