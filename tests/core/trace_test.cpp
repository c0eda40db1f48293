#include "semoe/core/trace.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/delayed_backend.hpp"

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <doctest/doctest.h>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

using namespace semoe;

namespace {

/// Accepts what RFC 8259 calls JSON and nothing else.
class JsonCheck {
public:
    static bool accepts(std::string const& text) {
        JsonCheck check{text};
        bool const good = check.value();
        check.space();
        return good && check.at_ == text.size();
    }

private:
    explicit JsonCheck(std::string const& text)
      : text_(text) {}

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool take(char c) {
        if (peek() != c) return false;
        ++at_;
        return true;
    }
    void space() {
        while (std::isspace(static_cast<unsigned char>(peek()))) ++at_;
    }
    bool digits() {
        std::size_t const first = at_;
        while (std::isdigit(static_cast<unsigned char>(peek()))) ++at_;
        return at_ > first;
    }
    bool number() {
        take('-');
        if (!take('0') && !digits()) return false;
        return !take('.') || digits();
    }
    bool string() {
        if (!take('"')) return false;
        while (peek() != '"') {
            if (static_cast<unsigned char>(peek()) < 0x20) return false;
            if (take('\\')) {
                if (take('u')) {
                    for (int i = 0; i < 4; ++i)
                        if (!std::isxdigit(static_cast<unsigned char>(text_[at_++]))) return false;
                    continue;
                }
                if (std::string("\"\\/bfnrt").find(peek()) == std::string::npos) return false;
            }
            ++at_;
        }
        return take('"');
    }
    template <class Item>
    bool list(char close, Item const& item) {
        ++at_;
        space();
        if (take(close)) return true;
        do {
            if (!item()) return false;
            space();
        } while (take(','));
        return take(close);
    }
    bool value() {
        space();
        if (peek() == '{')
            return list('}', [&] {
                space();
                if (!string()) return false;
                space();
                return take(':') && value();
            });
        if (peek() == '[') return list(']', [&] { return value(); });
        return peek() == '"' ? string() : number();
    }

    std::string const& text_;
    std::size_t at_ = 0;
};

struct Span {
    std::string name;
    int rank = 0, row = 0;
    double begin = 0, end = 0;
    std::string line;
};
double field(std::string const& line, std::string const& key) {
    return std::strtod(line.c_str() + line.find("\"" + key + "\":") + key.size() + 3, nullptr);
}
/// The spans of a trace in the order in which they were opened.
std::vector<Span> spans_of(trace::Recorder const& recorder) {
    std::string const json = recorder.json();
    CHECK(JsonCheck::accepts(json));
    std::vector<Span> spans;
    std::istringstream lines(json);
    for (std::string line; std::getline(lines, line);) {
        if (line.find("\"ph\":\"X\"") == std::string::npos) continue;
        std::size_t const name = line.find("\"name\":\"") + 8;
        double const begin = field(line, "ts");
        spans.push_back({line.substr(name, line.find('"', name) - name), int(field(line, "pid")),
                         int(field(line, "tid")), begin, begin + field(line, "dur") + 1e-6, line});
    }
    return spans;
}

} // namespace

TEST_CASE("core/trace: the null tracer is an empty type and its spans do nothing") {
    static_assert(std::is_empty_v<trace::Null> && std::is_empty_v<trace::Null::Span>);
    static_assert(std::is_trivially_destructible_v<trace::Null::Span>);
    constexpr trace::Null tracer;
    CpuBackend b;
    auto const host = tracer.span("experts", "compute", 1);
    auto const queued = tracer.span(b, "experts", "compute");
}

TEST_CASE("core/trace: the checker of these tests refuses what is not JSON") {
    CHECK(JsonCheck::accepts(R"({"a":[1,-2.5,"x\"\u00e9"],"b":{}})"));
    for (char const* bad : {"", "{", "[1,]", "{\"a\"}", "\"a", "01", "1.", "[1] 2", "\"\n\""})
        CHECK_FALSE(JsonCheck::accepts(bad));
}

TEST_CASE("core/trace: spans nest in time and carry queue, rank and chunk") {
    trace::Recorder recorder;
    {
        auto const outer = recorder.span("forward", "host");
        auto const inner = recorder.span("dispatch", "wire", 0);
    }
    {
        auto const other = recorder.for_rank(2).span("forward", "host");
        std::vector<Span> const open = spans_of(recorder);
        CHECK(open.size() == 2); // a span that has not ended is left out
    }
    std::vector<Span> const spans = spans_of(recorder);
    REQUIRE(spans.size() == 3);
    CHECK(spans[0].name == "forward");
    CHECK(spans[1].name == "dispatch");
    CHECK(spans[0].begin <= spans[1].begin);
    CHECK(spans[1].end <= spans[0].end + 0.01);
    CHECK(spans[2].begin >= spans[0].end - 0.01);
    CHECK(spans[1].line.find("\"args\":{\"chunk\":0}") != std::string::npos);
    CHECK(spans[0].line.find("args") == std::string::npos);
    CHECK(spans[0].row != spans[1].row);
    CHECK(spans[2].rank == 2);
    CHECK(spans[2].row != spans[0].row);
}

TEST_CASE("core/trace: a span on a queue is stamped when the queue gets there") {
    trace::Recorder recorder;
    testing::DelayedBackend b;
    int ran = 0;
    {
        auto const span = recorder.span(b, "experts", "compute", 0);
        b.parallel_for(1, [&ran](index_t) {
            ran = 1;
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        });
    }
    { auto const host = recorder.span("host", "host"); }
    std::vector<Span> const before = spans_of(recorder);
    REQUIRE(before.size() == 1);
    CHECK(before[0].name == "host");
    b.synchronize();
    std::vector<Span> const after = spans_of(recorder);
    REQUIRE(after.size() == 2);
    CHECK(ran == 1);
    CHECK(after[0].end - after[0].begin >= 2000);
    CHECK(after[0].begin >= after[1].end - 0.01);
}

TEST_CASE("core/trace: threads and forked queues record at the same time, up to the capacity") {
    trace::Recorder recorder(200);
    CpuBackend b{.threads = 2};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            CpuBackend queue = b.fork();
            for (int i = 0; i < 50; ++i) {
                auto const outer = recorder.for_rank(t).span("step", "host", i);
                auto const inner = recorder.for_rank(t).span(queue, "work", "queue", i);
            }
            queue.synchronize();
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(spans_of(recorder).size() == 200);
    CHECK(recorder.dropped() == 100);
}

TEST_CASE("core/trace: names are escaped, and an empty trace is a trace") {
    trace::Recorder recorder(4);
    CHECK(spans_of(recorder).empty());
    { auto const span = recorder.span("a \"quoted\"\\ \n name", "tab\tqueue"); }
    CHECK(spans_of(recorder).size() == 1);
}

TEST_CASE("core/trace: a file holds the trace") {
    trace::Recorder recorder(1);
    { auto const span = recorder.span("name", "queue"); }
    std::string const path = "trace_test.json";
    recorder.write(path);
    std::ifstream file(path);
    std::ostringstream found;
    found << file.rdbuf();
    CHECK(found.str() == recorder.json());
    std::remove(path.c_str());
}

TEST_CASE("core/trace: a file that cannot be written is named") {
    trace::Recorder const recorder(1);
    CHECK_THROWS_WITH_AS(recorder.write("no/such/folder/trace.json"),
                         "trace: cannot write no/such/folder/trace.json", store_error);
    CHECK_THROWS_WITH_AS(trace::Recorder(-1),
                         "trace::Recorder: capacity is -1, must not be negative",
                         precondition_error);
}
