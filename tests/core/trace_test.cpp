#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/core/trace.hpp"

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

using namespace semoe;

namespace {
std::string written(trace::Recorder const& recorder) {
    auto const path = std::filesystem::temp_directory_path() /
                      ("semoe_trace_" + std::to_string(std::size_t(&recorder)) + ".json");
    recorder.write(path.string());
    std::ifstream in(path);
    std::string const text(std::istreambuf_iterator<char>(in), {});
    std::filesystem::remove(path);
    return text;
}
index_t count(std::string const& text, std::string const& part) {
    index_t n = 0;
    for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
}
/// The number behind `key` in the event named `name`.
double number(std::string const& text, std::string const& name, std::string const& key) {
    auto const event = text.find("\"name\":\"" + name + "\"");
    REQUIRE(event != std::string::npos);
    auto const at = text.find("\"" + key + "\":", event);
    return std::stod(text.substr(at + key.size() + 3));
}
} // namespace

TEST_CASE("core/trace: the null tracer is empty and its spans are") {
    static_assert(std::is_empty_v<trace::Null>);
    static_assert(std::is_empty_v<trace::Null::Span>);
    static_assert(std::is_trivially_destructible_v<trace::Null::Span>);
}

TEST_CASE("core/trace: spans nest, each on the thread of its queue") {
    CpuBackend b{.threads = 1};
    CpuBackend wire = b.fork();
    trace::Recorder recorder;
    {
        auto const outer = recorder.span(b, "outer");
        auto const inner = recorder.span(b, "inner", 3);
        auto const sent = recorder.span(wire, "sent");
    }
    wire.synchronize();
    CHECK(recorder.size() == 3);
    auto const text = written(recorder);
    CHECK(count(text, "\"ph\":\"X\"") == 3);
    CHECK(number(text, "outer", "ts") <= number(text, "inner", "ts"));
    CHECK(number(text, "outer", "ts") + number(text, "outer", "dur") + 1e-3 >=
          number(text, "inner", "ts") + number(text, "inner", "dur"));
    CHECK(number(text, "inner", "chunk") == 3);
    CHECK(number(text, "outer", "tid") == number(text, "inner", "tid"));
    CHECK(number(text, "outer", "tid") != number(text, "sent", "tid"));
    CHECK(count(text, "{") == count(text, "}"));
    CHECK(count(text, "},\n{") == 2); // no comma too many
}

TEST_CASE("core/trace: spans past the capacity are dropped and counted") {
    CpuBackend b{.threads = 1};
    trace::Recorder recorder{2};
    for (int i = 0; i < 5; ++i) auto const span = recorder.span(b, "s");
    CHECK(recorder.size() == 2);
    CHECK(recorder.dropped() == 3);
    recorder.clear();
    CHECK(recorder.size() == 0);
    CHECK_THROWS_AS(recorder.write("/nonexistent/trace.json"), store_error);
}
