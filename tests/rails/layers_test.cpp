#include "rails/sources.hpp"

#include <doctest/doctest.h>

#include <map>

namespace layers_test {
namespace {

using namespace semoe::test;

/// A folder includes folders of lower numbers and itself; folders of one number are strangers.
std::map<std::string, int> const layer_of = {
    {"core", 0},     {"backend", 1},  {"io", 1},       {"ops", 2},   {"routing", 3},
    {"gate", 4},     {"expert", 4},   {"comm", 4},     {"tier", 4},  {"optim", 4},
    {"dispatch", 5}, {"schedule", 5}, {"parallel", 5}, {"layer", 6}, {"checkpoint", 7},
    {"plan", 7},     {"testing", 8},
};

std::string included_path(std::string const& line) {
    std::size_t const hash = line.find_first_not_of(" \t");
    if (hash == std::string::npos || line[hash] != '#') return {};
    std::size_t const word = line.find_first_not_of(" \t", hash + 1);
    if (word == std::string::npos || line.compare(word, 7, "include") != 0) return {};
    std::size_t const open = line.find_first_of("\"<", word);
    std::size_t const close = line.find_first_of("\">", open + 1);
    if (open == std::string::npos || close == std::string::npos) return {};
    return line.substr(open + 1, close - open - 1);
}

/// What breaks the order in a header of include/semoe.
void check_layers(SourceFile const& file, Violations& all) {
    std::size_t const slash = file.path.find('/');
    if (slash == std::string::npos) return; // umbrella headers include everything
    std::string const folder = file.path.substr(0, slash);
    if (!layer_of.contains(folder)) {
        report(all, file, 0, "folder " + folder + " has no layer: add it to layer_of");
        return;
    }
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
        std::string path = included_path(file.lines[i]);
        if (path.starts_with("../") || path.starts_with("./"))
            report(all, file, i, "write includes as \"semoe/folder/file.hpp\"");
        if (!path.starts_with("semoe/")) continue;
        path.erase(0, 6);
        std::string const other = path.substr(0, path.find('/'));
        if (other == folder || path == "version.hpp" || path == "fwd.hpp") continue;
        auto const layer = layer_of.find(other);
        if (layer == layer_of.end())
            report(all, file, i, folder + " must not include " + path);
        else if (layer->second >= layer_of.at(folder))
            report(all, file, i, folder + " must not include " + other);
    }
}

Violations check(std::string path, std::vector<std::string> lines) {
    Violations all;
    check_layers({std::move(path), std::move(lines)}, all);
    return all;
}

TEST_CASE("rails/layers: every header includes lower layers and its own folder only") {
    auto const files = read_sources(SEMOE_SOURCE_DIR "/include/semoe", {".hpp", ".cuh"});
    REQUIRE(files.size() > 10);
    Violations all;
    for (SourceFile const& file : files) check_layers(file, all);
    INFO(join(all));
    CHECK(all.empty());
}

TEST_CASE("rails/layers: an include that climbs, or meets a sibling, is found") {
    CHECK(check("gate/topk.hpp", {"#include \"semoe/core/view.hpp\"", "#include <vector>",
                                  "#include \"semoe/gate/concept.hpp\""})
              .empty());
    CHECK(check("core/view.hpp", {"", "#include \"semoe/backend/buffer.hpp\""}) ==
          Violations{"core/view.hpp:2: core must not include backend"});
    CHECK(check("gate/topk.hpp", {"  #  include <semoe/expert/ffn.hpp>"}) ==
          Violations{"gate/topk.hpp:1: gate must not include expert"});
    CHECK(check("ops/cuda/gemm.cuh", {"#include \"../gemm.hpp\""}).size() == 1);
    CHECK(check("testing/oracle.hpp", {"#include \"semoe/semoe.hpp\""}).size() == 1);
    CHECK(check("novel/thing.hpp", {}).size() == 1);
    CHECK(check("semoe.hpp", {"#include \"semoe/layer/moe_layer.hpp\""}).empty());
}

} // namespace

} // namespace layers_test
