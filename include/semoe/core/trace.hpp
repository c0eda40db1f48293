#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/space.hpp"
#include "semoe/core/types.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace semoe::trace {

/// Records nothing and leaves no code.
struct Null {
    struct [[maybe_unused]] Span {};

    [[nodiscard]] constexpr Span span(char const*, char const*, index_t = -1) const { return {}; }
    template <class B>
        requires requires { typename B::space; }
    [[nodiscard]] constexpr Span span(B&, char const*, char const*, index_t = -1) const {
        return {};
    }
};

namespace detail {

struct Record {
    char const* name = nullptr;
    char const* queue = nullptr;
    int rank = 0;
    index_t chunk = -1;
    std::atomic<std::int64_t> begin_ns{-1}, end_ns{-1}; ///< -1: not yet
};

/// Records of a fixed number; what comes later is only counted.
class Log {
public:
    explicit Log(index_t capacity)
      : records_(static_cast<std::size_t>(capacity)) {}

    /// @return null when the log is full
    Record* open(char const* name, char const* queue, int rank, index_t chunk) {
        index_t const i = size_.fetch_add(1, std::memory_order_relaxed);
        if (i >= index_t(records_.size())) return nullptr;
        Record& record = records_[std::size_t(i)];
        record.name = name;
        record.queue = queue;
        record.rank = rank;
        record.chunk = chunk;
        return &record;
    }
    std::int64_t now() const {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(clock::now() - start_).count();
    }
    index_t dropped() const {
        return std::max<index_t>(0,
                                 size_.load(std::memory_order_relaxed) - index_t(records_.size()));
    }
    /// Calls f(record) for every span that has ended.
    template <class F>
    void for_each(F const& f) const {
        for (Record const& record : records_)
            if (record.end_ns.load(std::memory_order_acquire) >= 0) f(record);
    }

private:
    using clock = std::chrono::steady_clock;
    clock::time_point start_ = clock::now();
    std::atomic<index_t> size_{0};
    std::vector<Record> records_;
};

/// Stamps a record when the queue reaches it.
struct StampFn {
    Log const* log;
    std::atomic<std::int64_t>* time;
    void operator()(index_t) const { time->store(log->now(), std::memory_order_release); }
};

/// From here to the end of the scope, as the host sees it.
class HostSpan {
public:
    HostSpan(Log& log, Record* record)
      : log_(log)
      , record_(record) {
        if (record_) StampFn{&log_, &record_->begin_ns}(0);
    }
    HostSpan(HostSpan const&) = delete;
    HostSpan& operator=(HostSpan const&) = delete;
    ~HostSpan() {
        if (record_) StampFn{&log_, &record_->end_ns}(0);
    }

private:
    Log& log_;
    Record* record_;
};

/// The work that is enqueued on `queue` during this scope, as the queue sees it.
template <class B>
class QueueSpan {
public:
    QueueSpan(B& queue, Log& log, Record* record)
      : queue_(queue)
      , log_(log)
      , record_(record) {
        if (record_) queue_.parallel_for(1, StampFn{&log_, &record_->begin_ns});
    }
    QueueSpan(QueueSpan const&) = delete;
    QueueSpan& operator=(QueueSpan const&) = delete;
    ~QueueSpan() {
        if (record_) queue_.parallel_for(1, StampFn{&log_, &record_->end_ns});
    }

private:
    B& queue_;
    Log& log_;
    Record* record_;
};

inline void append_string(std::string& out, char const* text) {
    constexpr char const* hex = "0123456789abcdef";
    out += '"';
    for (; *text; ++text) {
        auto const c = static_cast<unsigned char>(*text);
        if (c < 0x20) {
            out += "\\u00";
            out += hex[c >> 4];
            out += hex[c & 15];
            continue;
        }
        if (c == '"' || c == '\\') out += '\\';
        out += *text;
    }
    out += '"';
}
/// Microseconds with three decimals.
inline void append_us(std::string& out, std::int64_t ns) {
    out += std::to_string(ns / 1000) + '.' + std::to_string(1000 + ns % 1000).substr(1);
}

} // namespace detail

/// Records spans of any number of threads and queues into memory taken at construction, and writes
/// them in the format of Chrome's trace viewer: one process a rank, one row a queue. A handle is
/// cheap to copy; copies share the log. The last one must outlive the work that it traces on
/// queues.
///
///     auto span = tracer.span(queue, "experts", "compute", chunk);
class Recorder {
public:
    /// @param capacity  spans; later ones are dropped and counted
    /// @throws precondition_error when it is negative
    explicit Recorder(index_t capacity = 1 << 16) {
        expects(capacity >= 0, "trace::Recorder: capacity is {}, must not be negative", capacity);
        log_ = std::make_shared<detail::Log>(capacity);
    }

    /// The same log, for spans of another rank.
    Recorder for_rank(int rank) const {
        Recorder other = *this;
        other.rank_ = rank;
        return other;
    }

    /// A span of the host, from now until the value dies.
    /// @param name, queue  outlive the recorder, as literals do
    /// @cost two stamps, no allocation
    [[nodiscard]] detail::HostSpan span(char const* name, char const* queue,
                                        index_t chunk = -1) const {
        return {*log_, log_->open(name, queue, rank_, chunk)};
    }
    /// The work enqueued on b while the value lives, stamped when b runs it. Where the queue does
    /// not run on the host, the time at which the host enqueued it.
    /// @pre b outlives the span @sync enqueues
    template <class B>
        requires requires { typename B::space; }
    [[nodiscard]] auto span(B& b, char const* name, char const* queue, index_t chunk = -1) const {
        detail::Record* const record = log_->open(name, queue, rank_, chunk);
        if constexpr (std::same_as<typename B::space, HostSpace>)
            return detail::QueueSpan<B>(b, *log_, record);
        else
            return detail::HostSpan(*log_, record);
    }

    /// Spans that found the log full.
    index_t dropped() const { return log_->dropped(); }

    /// Every span that has ended. Synchronise the queues first to have all.
    std::string json() const {
        struct Row {
            int rank;
            char const* queue;
        };
        std::vector<Row> rows;
        auto const row_of = [&](detail::Record const& r) {
            std::size_t i = 0;
            while (i < rows.size() &&
                   (rows[i].rank != r.rank || std::strcmp(rows[i].queue, r.queue) != 0))
                ++i;
            if (i == rows.size()) rows.push_back({r.rank, r.queue});
            return i;
        };
        std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
        char const* separator = "\n";
        auto const open = [&](char kind, int rank, std::size_t row) {
            out += std::string(separator) + "{\"ph\":\"" + kind +
                   "\",\"pid\":" + std::to_string(rank) + ",\"tid\":" + std::to_string(row);
            separator = ",\n";
        };
        log_->for_each([&](detail::Record const& r) {
            std::int64_t const begin = r.begin_ns.load(std::memory_order_relaxed);
            open('X', r.rank, row_of(r));
            out += ",\"name\":";
            detail::append_string(out, r.name);
            out += ",\"ts\":";
            detail::append_us(out, begin);
            out += ",\"dur\":";
            detail::append_us(out, r.end_ns.load(std::memory_order_relaxed) - begin);
            if (r.chunk >= 0) out += ",\"args\":{\"chunk\":" + std::to_string(r.chunk) + '}';
            out += '}';
        });
        for (std::size_t i = 0; i < rows.size(); ++i) {
            open('M', rows[i].rank, i);
            out += ",\"name\":\"thread_name\",\"args\":{\"name\":";
            detail::append_string(out, rows[i].queue);
            out += "}}";
        }
        return out + "\n]}\n";
    }
    /// Writes json() to a file. @throws store_error naming the file
    void write(std::string const& path) const {
        std::string const text = json();
        std::FILE* const file = std::fopen(path.c_str(), "wb");
        bool const written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
        bool const closed = file && std::fclose(file) == 0;
        if (!written || !closed) throw store_error("trace: cannot write " + path);
    }

private:
    std::shared_ptr<detail::Log> log_;
    int rank_ = 0;
};

/// What a layer asks of its tracer.
template <class T>
concept Tracer = std::copyable<T> && requires(T const& tracer, index_t chunk) {
    tracer.span("name", "queue");
    tracer.span("name", "queue", chunk);
};

static_assert(Tracer<Null> && Tracer<Recorder>);

} // namespace semoe::trace
