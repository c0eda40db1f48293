#pragma once

#include "semoe/comm/concept.hpp"
#include "semoe/comm/detail/event_box.hpp"
#include "semoe/comm/detail/meeting.hpp"
#include "semoe/core/message.hpp"

#include <exception>
#include <memory>
#include <string_view>

namespace semoe::comm {

struct ThreadOptions {
    /// How long a collective waits for a rank that does not come.
    std::chrono::milliseconds timeout = std::chrono::seconds(30);
    /// Ranks of a modelled node, a divisor of the number of ranks; 0 puts all of them in one.
    int ranks_per_node = 0;
};

namespace detail {

/// What every rank of a collective must agree on.
struct Operation {
    std::string_view name;
    index_t size = 0;
    std::string_view unit;            // what `size` counts; empty where there is nothing to count
    void const* queue_type = nullptr; // type_tag of the event type; null when only hosts meet

    bool same_call(Operation const& other) const {
        return name == other.name && size == other.size && unit == other.unit;
    }
    std::string text() const {
        std::string whole(name);
        if (!unit.empty())
            whole.append(" (").append(std::to_string(size) + " ").append(unit) += ")";
        return whole;
    }
};

struct ThreadState;

/// What one rank shows the others during one collective.
struct Call {
    Operation operation;
    void const* data = nullptr;
    EventBox ready;   // `data` may be read
    EventBox done[2]; // this rank has done its part of a phase
    std::atomic<bool> failed{false};
    std::string failure; // may be empty where memory has run out
    int color = 0, key = 0;
    std::shared_ptr<ThreadState> child;
};

/// What the ranks of one world share. A rank writes only its own parts; the others read them
/// between two meetings. Calls alternate between two sets: a rank starts its next but one
/// collective only after everybody has finished with this one.
struct ThreadState {
    struct Rank {
        std::uint64_t turns = 0;
        CommCounters counters;
    };

    ThreadState(int n, CommTopology nodes, ThreadOptions const& given,
                std::shared_ptr<Fate> common_fate)
      : size(n)
      , topology(nodes)
      , options(given)
      , fate(std::move(common_fate))
      , meeting(n, *fate, given.timeout)
      , ranks(std::size_t(n)) {
        for (int set = 0; set < 2; ++set) {
            calls[set] = std::make_unique<Call[]>(std::size_t(n));
            sent[set].resize(std::size_t(n) * std::size_t(n));
            expected[set].resize(std::size_t(n) * std::size_t(n));
        }
    }

    /// Rows that rank `from` says it sends to rank `to`, and that `to` expects of it.
    index_t& rows_sent(int set, int from, int to) { return sent[set][at(from, to)]; }
    index_t& rows_expected(int set, int from, int to) { return expected[set][at(to, from)]; }

    /// The first disagreement, in an order that is the same on every rank; empty if there is none.
    std::string disagreement(int set, bool with_rows) {
        Operation const& first = calls[set][0].operation;
        for (int r = 1; r < size; ++r) {
            Operation const& other = calls[set][std::size_t(r)].operation;
            if (!first.same_call(other))
                return message("comm::Threads: rank 0 calls {}, rank {} calls {}", first.text(), r,
                               other.text());
            if (first.queue_type != other.queue_type)
                return message("comm::Threads: in {} the backends of rank 0 and rank {} are of "
                               "different types",
                               first.text(), r);
        }
        for (int from = 0; with_rows && from < size; ++from)
            for (int to = 0; to < size; ++to) {
                index_t const out = rows_sent(set, from, to), in = rows_expected(set, from, to);
                if (out != in)
                    return message(
                        "comm::Threads: in {} rank {} sends {} rows to rank {}, which expects {}",
                        first.text(), from, out, to, in);
            }
        return {};
    }

    int const size;
    CommTopology const topology;
    ThreadOptions const options;
    std::shared_ptr<Fate> const fate;
    Meeting meeting;
    std::vector<Rank> ranks;
    std::unique_ptr<Call[]> calls[2];
    std::vector<index_t> sent[2], expected[2]; // [P,P], a row a rank that wrote it

private:
    std::size_t at(int writer, int other) const {
        return std::size_t(writer) * std::size_t(size) + std::size_t(other);
    }
};

/// One rank's way through one collective: make ready, enter, work in phases, leave.
class Turn {
public:
    SEMOE_NOINLINE Turn(ThreadState& state, int rank, Operation const& operation)
      : state_(state)
      , rank_(rank) {
        if (state.fate->broken())
            throw comm_error(message("comm::Threads: rank {} calls {} after an error: {}", rank,
                                     operation.text(), state.fate->reason()));
        set_ = int(state.ranks[std::size_t(rank)].turns++ % 2);
        Call& call = mine();
        call.operation = operation;
        call.data = nullptr;
        call.ready.clear();
        for (EventBox& box : call.done) box.clear();
        call.failed.store(false, std::memory_order_relaxed);
    }
    Turn(Turn const&) = delete;
    Turn& operator=(Turn const&) = delete;
    SEMOE_NOINLINE ~Turn() {
        if (entered_) return;
        try { // the others need not wait for the deadline to learn that this rank stays away
            state_.fate->break_with("comm::Threads: rank " + std::to_string(rank_) +
                                    " failed before " + mine().operation.text());
        } catch (...) {
        }
    }

    /// A precondition of this rank's arguments; the others are told, too.
    template <class Describe>
    void demand(bool ok, Describe const& describe_fault) {
        if (ok) return;
        refuse(describe_fault());
    }
    /// Shows the others memory that they may read after what b has been given so far.
    template <Backend B>
    void show(B& b, void const* data) {
        mine().data = data;
        mine().ready.put(b.record());
    }
    void show(void const* data) { mine().data = data; }
    SEMOE_NOINLINE void show_rows(std::span<index_t const> send, std::span<index_t const> recv) {
        for (int p = 0; p < state_.size; ++p) {
            state_.rows_sent(set_, rank_, p) = send[std::size_t(p)];
            state_.rows_expected(set_, p, rank_) = recv[std::size_t(p)];
        }
        with_rows_ = true;
    }

    /// Meets the others and compares what they call. @throws comm_error
    SEMOE_NOINLINE void enter() {
        state_.meeting.enter(rank_, mine().operation.name, [&] { return describe(); });
        entered_ = true;
        std::string const wrong = state_.disagreement(set_, with_rows_);
        if (wrong.empty()) return;
        state_.fate->break_with(wrong);
        throw comm_error(wrong);
    }

    Call& mine() { return call(rank_); }
    Call& call(int p) { return state_.calls[set_][std::size_t(p)]; }
    template <class T>
    T const* data_of(int p) {
        return static_cast<T const*>(call(p).data);
    }
    index_t rows_sent(int from, int to) { return state_.rows_sent(set_, from, to); }

    /// Runs work() unless a rank has failed, then meets the others.
    template <class Work>
    void phase(Work const& work) {
        try {
            if (all_well()) work();
        } catch (...) {
            note_failure();
        }
        meet();
    }
    /// Runs work(), which enqueues on b; done[k] then tells when the queue has done it.
    template <Backend B, class Work>
    void phase(B& b, int k, Work const& work) {
        phase([&] {
            for (int p = 0; k == 0 && p < state_.size; ++p)
                if (p != rank_) observe(b, call(p).ready);
            work();
            mine().done[k].put(b.record());
        });
    }
    /// Makes b's later work wait until every rank has done its part of phase k.
    template <Backend B>
    void wait(B& b, int k) {
        for (int p = 0; p < state_.size; ++p)
            if (p != rank_ && !call(p).done[k].empty()) observe(b, call(p).done[k]);
    }
    /// @throws what failed on this rank, or comm_error naming the rank where something failed
    SEMOE_NOINLINE void leave() {
        if (failure_) std::rethrow_exception(failure_);
        for (int p = 0; p < state_.size; ++p)
            if (call(p).failed.load())
                throw comm_error(call(p).failure.empty() ? failed_in(p, mine().operation.name)
                                                         : call(p).failure);
    }

    /// Adds to this rank's counters what went to and came from rank p.
    void count(int p, index_t bytes_sent, index_t bytes_received) {
        if (p == rank_) return;
        CommCounters& c = state_.ranks[std::size_t(rank_)].counters;
        c.messages += bytes_sent > 0;
        c.bytes_sent += bytes_sent;
        c.bytes_received += bytes_received;
    }
    void count_collective() { ++state_.ranks[std::size_t(rank_)].counters.collectives; }

private:
    /// What failed on a peer's queue fails on this one, too, and is told on both.
    template <Backend B>
    static void observe(B& b, EventBox const& box) {
        auto const& event = box.template get<typename B::event_type>();
        if constexpr (HasObserve<B>)
            b.observe(event);
        else
            b.wait(event);
    }
    [[noreturn]] SEMOE_NOINLINE void refuse(std::string const& fault) {
        std::string const text =
            "comm::Threads: " + std::string(mine().operation.name) + ": " + fault;
        state_.fate->break_with(text + " (on rank " + std::to_string(rank_) + ")");
        throw precondition_error(text);
    }
    SEMOE_NOINLINE bool all_well() {
        bool well = true;
        for (int p = 0; p < state_.size; ++p) well = well && !call(p).failed.load();
        return well;
    }
    SEMOE_NOINLINE void meet() { state_.meeting.leave(rank_, mine().operation.name); }
    /// Throws nothing, since the others wait for this rank to come to the meeting.
    SEMOE_NOINLINE void note_failure() noexcept {
        failure_ = std::current_exception();
        std::string& text = mine().failure;
        try {
            text.clear();
            text = failed_in(rank_, describe()) + ": " + what(failure_);
            state_.fate->break_with(text);
        } catch (...) {
            state_.fate->break_with("a rank failed"); // short enough to need no memory
        }
        mine().failed.store(true);
    }
    static std::string failed_in(int rank, std::string_view operation) {
        return message("comm::Threads: rank {} failed in {}", rank, operation);
    }
    static std::string what(std::exception_ptr const& error) {
        try {
            std::rethrow_exception(error);
        } catch (std::exception const& e) {
            return e.what();
        } catch (...) {
            return "an exception";
        }
    }
    SEMOE_NOINLINE std::string describe() {
        std::string text = mine().operation.text();
        if (!with_rows_) return text;
        index_t out = 0, in = 0;
        for (int p = 0; p < state_.size; ++p) {
            out += state_.rows_sent(set_, rank_, p);
            in += state_.rows_expected(set_, p, rank_);
        }
        return message("{} with {} rows to send and {} to receive", text, out, in);
    }

    ThreadState& state_;
    int rank_, set_ = 0;
    bool entered_ = false, with_rows_ = false;
    std::exception_ptr failure_;
};

} // namespace detail
} // namespace semoe::comm
