#include "run.hpp"

namespace train_lm {

std::string storage_file(std::string const& folder) {
    return (std::filesystem::path(folder) / "blocks.semoe").string();
}

std::optional<semoe::checkpoint::Resumed> stored_run(std::string const& folder) {
    if (folder.empty() || !std::filesystem::exists(storage_file(folder))) return {};
    semoe::tier::FileStore store{storage_file(folder), {.read_only = true}};
    if (!store.contains(StoredRun::key)) return {};
    std::string text(std::size_t(StoredRun::info.bytes), '\0');
    Backend b{.threads = 1};
    b.wait(store.load(b, StoredRun::key,
                      {reinterpret_cast<std::byte*>(text.data()), index_t(text.size())}));
    semoe::checkpoint::Resumed run;
    run.state = StoredRun::parse(text);
    return run;
}

std::unique_ptr<Session> session_on_disk(Options options, Corpus corpus) {
    return std::make_unique<Run<OnDisk>>(std::move(options), std::move(corpus));
}

} // namespace train_lm
