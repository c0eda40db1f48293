#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/testing/contract.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace semoe::testing {

namespace detail {

/// Unsigned, so that whatever a faulty backend makes of them is a number.
using Number = std::uint32_t;

struct FillFn {
    Number value;
    Number* out;
    SEMOE_HD void operator()(index_t i) const { out[i] = value; }
};
/// out[i] = factor * in[i] + offset
struct AffineFn {
    Number factor, offset;
    Number const* in;
    Number* out;
    SEMOE_HD void operator()(index_t i) const { out[i] = factor * in[i] + offset; }
};
struct CountFn {
    Number* count;
    SEMOE_HD void operator()(index_t i) const { count[i] += 1; }
};
/// As large as a functor may be.
struct TableFn {
    static constexpr int size = int((max_functor_bytes - sizeof(Number*)) / sizeof(Number));
    Number* out;
    Number table[size];
    SEMOE_HD void operator()(index_t i) const { out[i] = table[i % size]; }
};
/// Host backends only.
struct ThrowFn {
    char const* text;
    index_t at;
    void operator()(index_t i) const {
        if (i >= at) throw std::runtime_error(text + std::to_string(i));
    }
};
struct ScratchTask {
    std::size_t bytes;
    Number* count;
    Number* faults;
    void operator()(index_t i, std::span<std::byte> scratch) const {
        bool good =
            scratch.size() >= bytes && reinterpret_cast<std::uintptr_t>(scratch.data()) % 64 == 0;
        auto const mark = std::byte(i % 251);
        for (std::byte& b : scratch) b = mark;
        for (std::byte const b : scratch) good = good && b == mark;
        count[i] += 1;
        if (!good) faults[i] += 1;
    }
};

/// Counts tasks that a thread begins after one of a higher index.
struct OrderTask {
    std::mutex* mutex;
    std::map<std::thread::id, index_t>* last;
    int* faults;
    void operator()(index_t i, std::span<std::byte>) const {
        std::lock_guard lock(*mutex);
        auto const [at, first] = last->try_emplace(std::this_thread::get_id(), i);
        if (!first && at->second >= i) ++*faults;
        at->second = i;
    }
};
/// Waits for OpenFn, not for ever.
struct GateFn {
    std::atomic<bool> const* open;
    bool* passed;
    void operator()(index_t) const {
        auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
        while (!*open && std::chrono::steady_clock::now() < deadline)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        *passed = *open;
    }
};
struct OpenFn {
    std::atomic<bool>* open;
    void operator()(index_t) const { *open = true; }
};

/// The promises of a backend, one function each.
template <class B>
struct BackendContract {
    using Numbers = Buffer<Number, B>;

    B b;

    static std::vector<Number> read(B& q, Number const* data, index_t n) {
        std::vector<Number> values(static_cast<std::size_t>(n), Number(-1));
        q.synchronize();
        q.copy(values.data(), data, values.size() * sizeof(Number));
        q.synchronize();
        return values;
    }
    static void require_all(std::vector<Number> const& values, Number expected,
                            char const* sentence) {
        for (std::size_t i = 0; i < values.size(); ++i)
            require(values[i] == expected, "Backend: " + std::string(sentence) + ": element " +
                                               std::to_string(i) + " is " +
                                               std::to_string(values[i]) + ", expected " +
                                               std::to_string(expected));
    }

    void memory() {
        std::vector<Buffer<std::byte, B>> blocks;
        for (index_t n : {1, 63, 64, 1000, 1 << 20}) blocks.emplace_back(b, n);
        for (auto const& block : blocks) {
            require(block.data() != nullptr, "Backend: allocate returns memory");
            require(reinterpret_cast<std::uintptr_t>(block.data()) % 64 == 0,
                    "Backend: allocate aligns to 64 bytes");
        }
    }

    void copies() {
        for (index_t n : {0, 1, 7, 10'007}) {
            std::vector<Number> source(static_cast<std::size_t>(n)), result(source.size());
            for (std::size_t i = 0; i < source.size(); ++i) source[i] = Number(i) * 3 + 1;
            Numbers first(b, n), second(b, n);
            std::size_t const bytes = source.size() * sizeof(Number);
            b.copy(first.data(), source.data(), bytes);
            b.copy(second.data(), first.data(), bytes);
            b.parallel_for(n, AffineFn{1, 1, second.data(), second.data()});
            b.copy(result.data(), second.data(), bytes);
            b.synchronize();
            for (Number& v : source) v += 1;
            require(result == source, "Backend: copies to, within and from backend memory run in "
                                      "queue order with other work");
        }
    }

    void every_index_once() {
        for (index_t n : {0, 1, 2, 7, 300, 20'011}) {
            Numbers count(b, n + 1);
            b.parallel_for(n + 1, FillFn{0, count.data()});
            b.parallel_for(n, CountFn{count.data()});
            std::vector<Number> const found = read(b, count.data(), n + 1);
            require(found.back() == 0,
                    "Backend: parallel_for calls every index below n and no other");
            require_all({found.begin(), found.end() - 1}, 1,
                        "parallel_for calls every index exactly once");
        }
    }

    void functors_are_copied() {
        TableFn functor{nullptr, {}};
        static_assert(sizeof(TableFn) > max_functor_bytes - 64);
        Numbers out(b, TableFn::size);
        functor.out = out.data();
        for (Number& t : functor.table) t = 5;
        b.parallel_for(out.size(), functor);
        for (Number& t : functor.table) t = 6;
        require_all(read(b, out.data(), out.size()), 5,
                    "parallel_for copies a functor of max_functor_bytes before it returns");
    }

    void copies_of_a_handle_share_the_queue() {
        B other = b;
        Numbers x(b, 1000);
        b.parallel_for(1000, FillFn{1, x.data()});
        other.parallel_for(1000, AffineFn{2, 1, x.data(), x.data()});
        b.parallel_for(1000, AffineFn{10, 2, x.data(), x.data()});
        require_all(read(other, x.data(), 1000), 32, "copies of a handle share one queue");
    }

    void default_event_is_done() {
        B forked = b.fork();
        b.wait(typename B::event_type{});
        forked.wait(typename B::event_type{});
        forked.synchronize();
        b.synchronize();
    }

    /// Two queues that hand a buffer back and forth, more often than any pool has events.
    void events_order_queues() {
        events_order_queues([](B& q, auto const& event) { q.wait(event); },
                            "wait(event) starts later work after the event, across queues");
    }
    template <class Wait>
    void events_order_queues(Wait const& wait, char const* promise) {
        B forked = b.fork();
        constexpr index_t n = 100;
        Numbers x(b, n), y(b, n);
        Number expected = 1;
        b.parallel_for(n, FillFn{1, x.data()});
        auto const first = b.record();
        for (Number round = 0; round < 300; ++round) {
            wait(forked, b.record());
            forked.parallel_for(n, AffineFn{3, round, x.data(), y.data()});
            wait(b, forked.record());
            b.parallel_for(n, AffineFn{7, 1, y.data(), x.data()});
            expected = 7 * (3 * expected + round) + 1;
        }
        require_all(read(b, x.data(), n), expected, promise);
        auto const copy = first;
        wait(forked, copy);
        wait(forked, first);
        forked.synchronize();
    }
    void events_may_be_asked() {
        require(b.reached(typename B::event_type{}), "Backend: a default event is reached");
        B forked = b.fork();
        Numbers x(b, 1000);
        forked.parallel_for(1000, FillFn{1, x.data()});
        auto const event = forked.record();
        forked.synchronize();
        require(b.reached(event), "Backend: an event is reached once its queue is empty");
    }
    void queues_may_block() {
        std::atomic<bool> open = false;
        bool passed = false, early = false;
        B blocked = b.fork(), other = b.fork();
        blocked.parallel_for(1, GateFn{&open, &passed});
        if constexpr (HasEventQuery<B>) early = b.reached(blocked.record());
        other.parallel_for(1, OpenFn{&open});
        blocked.synchronize();
        other.synchronize();
        require(passed, "Backend: where queues may_block, a functor may wait on the host for one "
                        "of another queue");
        require(!early, "Backend: an event is not reached before the work ahead of it is done");
    }
    void deallocate_is_queue_ordered() {
        B forked = b.fork();
        constexpr index_t n = 5000;
        Numbers result(b, n);
        for (Number round = 0; round < 10; ++round) {
            {
                Numbers used(forked, n);
                forked.parallel_for(n, FillFn{7, used.data()});
                forked.synchronize();
                forked.parallel_for(n, AffineFn{1, round, used.data(), result.data()});
            } // freed here, in the fork's order
            Numbers next(b, n);
            b.parallel_for(n, FillFn{9, next.data()});
            b.synchronize();
            require_all(read(forked, result.data(), n), 7 + round,
                        "deallocate takes effect in queue order");
        }
    }

    void last_handle_drains() {
        constexpr index_t n = 1000;
        Numbers x(b, n), y(b, n);
        b.parallel_for(n, FillFn{4, x.data()});
        b.parallel_for(n, FillFn{0, y.data()});
        b.synchronize();
        {
            B forked = b.fork();
            for (int i = 0; i < 10; ++i) forked.parallel_for(n, CountFn{x.data()});
            B again = forked.fork();
            again.wait(forked.record());
            again.parallel_for(n, AffineFn{1, 0, x.data(), y.data()});
        }
        require_all(read(b, y.data(), n), 14,
                    "a queue's work is done when its last handle is gone");
    }

    void many_tasks() {
        B forked = b.fork();
        Numbers x(b, 10);
        forked.parallel_for(10, FillFn{0, x.data()});
        for (int i = 0; i < 1000; ++i) forked.parallel_for(10, CountFn{x.data()});
        require_all(read(forked, x.data(), 10), 1000,
                    "a queue takes any number of tasks between two synchronisations");
    }

    void several_host_threads() {
        constexpr int num_threads = 3;
        std::vector<std::string> failures(num_threads);
        std::vector<B> queues;
        std::vector<Numbers> data;
        std::vector<typename B::event_type> events(num_threads);
        for (int t = 0; t < num_threads; ++t) {
            queues.push_back(b.fork());
            data.emplace_back(b, 777);
        }
        std::vector<std::thread> threads;
        for (int t = 0; t < num_threads; ++t)
            threads.emplace_back([&, t, i = std::size_t(t)] {
                try {
                    queues[i].parallel_for(777, FillFn{Number(t), data[i].data()});
                    for (int k = 0; k < 50; ++k) {
                        queues[i].parallel_for(777, CountFn{data[i].data()});
                        if (k % 10 == 0) queues[i].synchronize();
                    }
                    events[i] = queues[i].record();
                } catch (std::exception const& error) {
                    failures[i] = error.what();
                }
            });
        for (std::thread& thread : threads) thread.join();
        for (std::size_t i = 0; i < failures.size(); ++i) {
            require(failures[i].empty(), "Backend: host threads use one backend: " + failures[i]);
            b.wait(events[i]);
            require_all(read(b, data[i].data(), 777), 50 + Number(i),
                        "host threads use forks of one backend at the same time");
        }
    }

    /// What f() or the work that it enqueues throws on `q`.
    template <class F>
    static std::string error_of(B& q, F const& f) {
        try {
            f();
            q.synchronize();
        } catch (std::runtime_error const& error) {
            return error.what();
        }
        return "";
    }

    void errors_surface_once(B q) {
        Numbers x(q, 100);
        std::string const found = error_of(q, [&] { q.parallel_for(100, ThrowFn{"at ", 40}); });
        require(found.starts_with("at "), "Backend: what a functor throws surfaces at the next "
                                          "synchronize, or at once on an inline queue; found '" +
                                              found + "'");
        std::string const again = error_of(q, [] {});
        require(again.empty(), "Backend: an error surfaces once; found '" + again + "' later");
        q.parallel_for(100, FillFn{3, x.data()});
        require_all(read(q, x.data(), 100), 3, "a queue works on after an error has surfaced");
    }

    void errors_surface_at_events() {
        B forked = b.fork();
        std::string const found = error_of(b, [&] {
            forked.parallel_for(10, ThrowFn{"forked ", 9});
            b.wait(forked.record());
        });
        require(found == "forked 9", "Backend: an error surfaces where its event is waited for; "
                                     "found '" +
                                         found + "'");
        forked.synchronize();
        b.synchronize();
    }

    void errors_stay_where_work_follows() {
        events_order_queues([](B& q, auto const& event) { q.follow(event); },
                            "follow(event) starts later work after the event, across queues");
        B forked = b.fork();
        std::string const found = error_of(b, [&] {
            forked.parallel_for(10, ThrowFn{"forked ", 9});
            b.follow(forked.record());
        });
        require(found.empty(), "Backend: follow takes no error; found '" + found + "'");
        std::string const kept = error_of(forked, [] {});
        require(kept == "forked 9",
                "Backend: follow leaves an error to its queue; found '" + kept + "'");
    }

    void errors_are_shared_where_work_observes() {
        events_order_queues([](B& q, auto const& event) { q.observe(event); },
                            "observe(event) starts later work after the event, across queues");
        B forked = b.fork();
        std::string const found = error_of(b, [&] {
            forked.parallel_for(10, ThrowFn{"forked ", 9});
            b.observe(forked.record());
        });
        std::string const kept = error_of(forked, [] {});
        require(found == "forked 9" && kept == "forked 9",
                "Backend: observe tells an error here and there; found '" + found + "' and '" +
                    kept + "'");
    }

    void workers(B q) {
        std::size_t reserved = 0;
        for (std::size_t bytes : {std::size_t(100), std::size_t(5000), std::size_t(64)}) {
            q.reserve_scratch(bytes);
            reserved = reserved > bytes ? reserved : bytes;
            for (index_t n : {0, 1, 2, 61}) {
                Numbers count(q, n + 1), faults(q, n + 1);
                q.parallel_for(n + 1, FillFn{0, count.data()});
                q.parallel_for(n + 1, FillFn{0, faults.data()});
                q.parallel_tasks(n, ScratchTask{reserved, count.data(), faults.data()});
                require_all(read(q, faults.data(), n), 0,
                            "a task has scratch of its own, aligned, of the size reserved");
                require_all(read(q, count.data(), n), 1, "parallel_tasks runs every task once");
            }
        }
        std::mutex mutex;
        std::map<std::thread::id, index_t> last;
        int faults = 0;
        q.parallel_tasks(500, OrderTask{&mutex, &last, &faults});
        q.synchronize();
        require(faults == 0, "Backend: workers take tasks in rising order");
    }
};

} // namespace detail

/// Checks what backend/concept.hpp promises, on `backend` and on its forks, as far as that shows:
/// not what happens when memory runs out, nor that record neither blocks nor allocates.
/// @throws contract_violation naming the promise that is not kept
/// @sync the host waits; the backend is idle before and after
template <Backend B>
void check_backend(B backend) {
    detail::BackendContract<B> contract{backend};
    contract.memory();
    contract.every_index_once();
    contract.copies();
    contract.functors_are_copied();
    contract.copies_of_a_handle_share_the_queue();
    contract.default_event_is_done();
    contract.events_order_queues();
    if constexpr (HasEventQuery<B>) contract.events_may_be_asked();
    if constexpr (may_block<B> && host_reachable<B>) contract.queues_may_block();
    contract.deallocate_is_queue_ordered();
    contract.last_handle_drains();
    contract.many_tasks();
    contract.several_host_threads();
    detail::BackendContract<B> forked{backend.fork()};
    forked.every_index_once();
    forked.copies();
    forked.functors_are_copied();
    forked.copies_of_a_handle_share_the_queue();
    forked.events_order_queues();
    if constexpr (host_reachable<B>) {
        contract.errors_surface_once(backend);
        contract.errors_surface_once(backend.fork());
        contract.errors_surface_at_events();
        if constexpr (HasFollow<B>) contract.errors_stay_where_work_follows();
        if constexpr (HasObserve<B>) contract.errors_are_shared_where_work_observes();
    }
    if constexpr (HasWorkers<B>) {
        contract.workers(backend);
        contract.workers(backend.fork());
    }
}

} // namespace semoe::testing
