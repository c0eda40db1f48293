#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace semoe::test {

/// One file of the repository, for tests that look at the sources.
struct SourceFile {
    std::string path; ///< from the root that was asked for: "gate/topk.hpp"
    std::vector<std::string> lines;
};

/// Every file below root with one of the extensions, by path.
inline std::vector<SourceFile> read_sources(std::filesystem::path const& root,
                                            std::vector<std::string> const& extensions) {
    std::vector<SourceFile> files;
    if (!std::filesystem::exists(root)) return files;
    for (auto const& entry : std::filesystem::recursive_directory_iterator(root)) {
        if (std::count(extensions.begin(), extensions.end(), entry.path().extension()) == 0)
            continue;
        SourceFile file{entry.path().lexically_relative(root).generic_string(), {}};
        std::ifstream in(entry.path());
        for (std::string line; std::getline(in, line);) file.lines.push_back(line);
        files.push_back(std::move(file));
    }
    std::sort(files.begin(), files.end(), [](auto& a, auto& b) { return a.path < b.path; });
    return files;
}

/// "path:line: what", one a violation.
using Violations = std::vector<std::string>;

inline void report(Violations& all, SourceFile const& file, std::size_t line,
                   std::string const& what) {
    all.push_back(file.path + ":" + std::to_string(line + 1) + ": " + what);
}

inline std::string join(Violations const& all) {
    std::string text;
    for (std::string const& v : all) text += "\n" + v;
    return text;
}

} // namespace semoe::test
