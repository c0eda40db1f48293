#include "run.hpp"

namespace train_lm {

std::unique_ptr<Session> session_in_memory(Options options, Corpus corpus) {
    return std::make_unique<Run<InMemory>>(std::move(options), std::move(corpus));
}

} // namespace train_lm
