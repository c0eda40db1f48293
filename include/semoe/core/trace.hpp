#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/space.hpp"
#include "semoe/core/types.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// Tracers: the last policy of a layer. A tracer gives spans: span(queue, name, chunk) returns an
/// object whose life encloses the work that is given to the queue meanwhile.
namespace semoe::trace {

/// Records nothing and leaves no code.
struct Null {
    struct Span {};
    template <class B>
    static constexpr Span span(B&, char const*, index_t = -1) {
        return {};
    }
};

/// Records when each span began and ended and on which thread, into memory sized in advance; a
/// copy is the same recorder. On backends of host memory the times are those at which the queue
/// came to the work, elsewhere those at which the host enqueued it.
class Recorder {
    using Clock = std::chrono::steady_clock;
    struct Entry {
        char const* name = "";
        index_t chunk = -1;
        Clock::time_point begin = {}, end = {};
        std::thread::id thread = {};
    };
    struct State {
        std::vector<Entry> entries;
        std::atomic<std::size_t> taken{0};
        Clock::time_point origin = Clock::now();
    };
    struct Begin {
        Entry* entry;
        void operator()(index_t) const {
            entry->thread = std::this_thread::get_id();
            entry->begin = Clock::now();
        }
    };
    struct End {
        Entry* entry;
        void operator()(index_t) const { entry->end = Clock::now(); }
    };
    /// On the queue's own thread where that is the host's, else now.
    template <class B, class Stamp>
    static void stamp(B& queue, Stamp stamp) {
        if constexpr (std::same_as<typename B::space, HostSpace>)
            queue.parallel_for(1, stamp);
        else
            stamp(0);
    }

public:
    template <class B>
    class [[nodiscard]] Span {
    public:
        Span(B& queue, Entry* entry)
          : queue_(queue)
          , entry_(entry) {
            if (entry_) stamp(queue_, Begin{entry_});
        }
        Span(Span const&) = delete;
        Span& operator=(Span const&) = delete;
        ~Span() {
            if (entry_) stamp(queue_, End{entry_});
        }

    private:
        B& queue_;
        Entry* entry_;
    };

    /// @param capacity  spans kept; later ones are counted and dropped
    /// @cost one allocation of capacity entries; a span allocates nothing
    explicit Recorder(index_t capacity = 1 << 16)
      : state_(std::make_shared<State>()) {
        expects(capacity >= 0, "trace::Recorder: the capacity must not be negative");
        state_->entries.resize(std::size_t(capacity));
    }

    /// @param name  lives as long as the recorder: a literal
    /// @sync enqueues two stamps on a queue of host memory
    template <class B>
    Span<B> span(B& queue, char const* name, index_t chunk = -1) {
        std::size_t const i = state_->taken.fetch_add(1, std::memory_order_relaxed);
        Entry* entry = nullptr;
        if (i < state_->entries.size()) {
            entry = &state_->entries[i];
            *entry = Entry{name, chunk};
        }
        return {queue, entry};
    }

    index_t size() const { return index_t(std::min(state_->taken.load(), state_->entries.size())); }
    index_t dropped() const { return index_t(state_->taken.load()) - size(); }
    /// Forgets all spans. @pre no span is open and the queues are synchronised
    void clear() { state_->taken = 0; }

    /// Writes a Chrome trace (chrome://tracing, Perfetto): a complete event a span, a track a
    /// thread.
    /// @pre no span is open and the queues are synchronised
    /// @throws store_error naming the file
    void write(std::string const& path) const {
        std::FILE* const file = std::fopen(path.c_str(), "w");
        if (!file) throw store_error("trace::Recorder: cannot write " + path);
        std::vector<std::thread::id> threads;
        auto const microseconds = [&](Clock::duration d) {
            return std::chrono::duration<double, std::micro>(d).count();
        };
        std::fprintf(file, "{\"traceEvents\":[");
        for (index_t i = 0; i < size(); ++i) {
            Entry const& e = state_->entries[std::size_t(i)];
            auto const known = std::find(threads.begin(), threads.end(), e.thread);
            auto const track = known - threads.begin();
            if (known == threads.end()) threads.push_back(e.thread);
            std::fprintf(file,
                         "%s\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,"
                         "\"dur\":%.3f,\"args\":{\"chunk\":%lld}}",
                         i ? "," : "", e.name, int(track), microseconds(e.begin - state_->origin),
                         microseconds(e.end - e.begin), static_cast<long long>(e.chunk));
        }
        std::fprintf(file, "\n]}\n");
        bool const bad = std::ferror(file) != 0;
        if (std::fclose(file) != 0 || bad)
            throw store_error("trace::Recorder: writing " + path + " failed");
    }

private:
    std::shared_ptr<State> state_;
};

} // namespace semoe::trace
