#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/testing/contract.hpp"

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace semoe::testing {

namespace detail {

struct FillFn {
    int value;
    int* out;
    SEMOE_HD void operator()(index_t i) const { out[i] = value; }
};
/// out[i] = factor * in[i] + offset
struct AffineFn {
    int factor, offset;
    int const* in;
    int* out;
    SEMOE_HD void operator()(index_t i) const { out[i] = factor * in[i] + offset; }
};
struct CountFn {
    int* count;
    SEMOE_HD void operator()(index_t i) const { count[i] += 1; }
};
/// As large as a functor may be.
struct TableFn {
    static constexpr int size = int((max_functor_bytes - sizeof(int*)) / sizeof(int));
    int* out;
    int table[size];
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
    int* count;
    int* faults;
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

/// The promises of a backend, one function each.
template <class B>
struct BackendContract {
    using Ints = Buffer<int, B>;

    B b;

    static std::vector<int> read(B& q, int const* data, index_t n) {
        std::vector<int> values(static_cast<std::size_t>(n), -1);
        q.copy(values.data(), data, values.size() * sizeof(int));
        q.synchronize();
        return values;
    }
    static bool all(std::vector<int> const& values, int expected) {
        for (int v : values)
            if (v != expected) return false;
        return true;
    }
    static void require_all(std::vector<int> const& values, int expected, char const* sentence) {
        for (std::size_t i = 0; i < values.size(); ++i)
            require(values[i] == expected, "Backend: " + std::string(sentence) + ": element " +
                                               std::to_string(i) + " is " +
                                               std::to_string(values[i]) + ", expected " +
                                               std::to_string(expected));
    }

    void memory() {
        std::vector<void*> blocks;
        std::vector<std::size_t> const sizes{1, 63, 64, 1000, std::size_t(1) << 20};
        for (std::size_t n : sizes) blocks.push_back(b.allocate(n));
        for (void* p : blocks) {
            require(p != nullptr, "Backend: allocate returns memory");
            require(reinterpret_cast<std::uintptr_t>(p) % 64 == 0,
                    "Backend: allocate aligns to 64 bytes");
        }
        for (std::size_t i = 0; i < sizes.size(); ++i) b.deallocate(blocks[i], sizes[i]);
        b.deallocate(nullptr, 0);
        b.synchronize();
    }

    void copies() {
        for (index_t n : {0, 1, 7, 100'003}) {
            std::vector<int> source(static_cast<std::size_t>(n)), result(source.size(), -1);
            for (std::size_t i = 0; i < source.size(); ++i) source[i] = int(i) * 3 + 1;
            Ints first(b, n), second(b, n);
            std::size_t const bytes = source.size() * sizeof(int);
            b.copy(first.data(), source.data(), bytes);
            b.copy(second.data(), first.data(), bytes);
            b.copy(result.data(), second.data(), bytes);
            b.synchronize();
            require(result == source,
                    "Backend: copies to, within and from backend memory run in queue order");
        }
    }

    void every_index_once() {
        for (index_t n : {0, 1, 2, 7, 1000, 65'537}) {
            Ints count(b, n + 1);
            b.parallel_for(n + 1, FillFn{0, count.data()});
            b.parallel_for(n, CountFn{count.data()});
            std::vector<int> const found = read(b, count.data(), n + 1);
            require(found.back() == 0, "Backend: parallel_for stays below n");
            require_all({found.begin(), found.end() - 1}, 1,
                        "parallel_for calls every index exactly once");
        }
    }

    void functors_are_copied() {
        TableFn functor{nullptr, {}};
        static_assert(sizeof(TableFn) > max_functor_bytes - 64);
        Ints out(b, TableFn::size);
        functor.out = out.data();
        for (int& t : functor.table) t = 5;
        b.parallel_for(out.size(), functor);
        for (int& t : functor.table) t = 6;
        require_all(read(b, out.data(), out.size()), 5,
                    "parallel_for copies a functor of max_functor_bytes before it returns");
    }

    void copies_of_a_handle_share_the_queue() {
        B other = b;
        Ints x(b, 1000);
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
        B forked = b.fork();
        constexpr index_t n = 100;
        Ints x(b, n), y(b, n);
        int expected = 1;
        b.parallel_for(n, FillFn{1, x.data()});
        auto const first = b.record();
        for (int round = 0; round < 300; ++round) {
            forked.wait(b.record());
            forked.parallel_for(n, AffineFn{3, round, x.data(), y.data()});
            b.wait(forked.record());
            b.parallel_for(n, AffineFn{-1, 1, y.data(), x.data()});
            expected = (1 - (3 * expected + round)) % 1000;
            b.parallel_for(n, ModFn{1000, x.data()});
        }
        require_all(read(b, x.data(), n), expected,
                    "wait(event) starts later work after the event, across queues");
        auto const copy = first;
        forked.wait(copy);
        forked.wait(first);
        forked.synchronize();
    }
    struct ModFn {
        int divisor;
        int* out;
        SEMOE_HD void operator()(index_t i) const { out[i] %= divisor; }
    };

    void deallocate_is_queue_ordered() {
        B forked = b.fork();
        constexpr index_t n = 5000;
        Ints result(b, n);
        for (int round = 0; round < 10; ++round) {
            {
                Ints used(forked, n);
                forked.parallel_for(n, FillFn{7, used.data()});
                forked.parallel_for(n, AffineFn{1, round, used.data(), result.data()});
            } // freed here, in the fork's order
            Ints next(b, n);
            b.parallel_for(n, FillFn{9, next.data()});
            b.synchronize();
            require_all(read(forked, result.data(), n), 7 + round,
                        "deallocate takes effect in queue order");
        }
    }

    void last_handle_drains() {
        Ints x(b, 1000);
        b.parallel_for(1000, FillFn{4, x.data()});
        b.synchronize();
        std::vector<int> values(1000, -1);
        {
            B forked = b.fork();
            for (int i = 0; i < 10; ++i) forked.parallel_for(1000, CountFn{x.data()});
            B again = forked.fork();
            again.wait(forked.record());
            again.copy(values.data(), x.data(), values.size() * sizeof(int));
        }
        require_all(values, 14, "a queue's work is done when its last handle is gone");
    }

    void many_tasks() {
        B forked = b.fork();
        Ints x(b, 10);
        forked.parallel_for(10, FillFn{0, x.data()});
        for (int i = 0; i < 1000; ++i) forked.parallel_for(10, CountFn{x.data()});
        require_all(read(forked, x.data(), 10), 1000,
                    "a queue takes any number of tasks between two synchronisations");
    }

    void several_host_threads() {
        constexpr int num_threads = 3;
        std::vector<std::string> failures(num_threads);
        std::vector<B> queues;
        std::vector<Ints> data;
        std::vector<typename B::event_type> events(num_threads);
        for (int t = 0; t < num_threads; ++t) {
            queues.push_back(b.fork());
            data.emplace_back(b, 777);
        }
        std::vector<std::thread> threads;
        for (int t = 0; t < num_threads; ++t)
            threads.emplace_back([&, t, i = std::size_t(t)] {
                try {
                    queues[i].parallel_for(777, FillFn{t, data[i].data()});
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
            require_all(read(b, data[i].data(), 777), 50 + int(i),
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
        Ints x(q, 100);
        std::string const found = error_of(q, [&] { q.parallel_for(100, ThrowFn{"at ", 40}); });
        require(found.starts_with("at "), "Backend: what a functor throws surfaces at the next "
                                          "synchronize, or at once on an inline queue; found '" +
                                              found + "'");
        q.synchronize();
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

    void workers(B q) {
        std::size_t reserved = 0;
        for (std::size_t bytes : {std::size_t(100), std::size_t(5000), std::size_t(64)}) {
            q.reserve_scratch(bytes);
            reserved = reserved > bytes ? reserved : bytes;
            for (index_t n : {0, 1, 2, 61}) {
                Ints count(q, n + 1), faults(q, n + 1);
                q.parallel_for(n + 1, FillFn{0, count.data()});
                q.parallel_for(n + 1, FillFn{0, faults.data()});
                q.parallel_tasks(n, ScratchTask{reserved, count.data(), faults.data()});
                require_all(read(q, faults.data(), n), 0,
                            "a task has scratch of its own, aligned, of the size reserved");
                require_all(read(q, count.data(), n), 1, "parallel_tasks runs every task once");
            }
        }
    }
};

} // namespace detail

/// Runs every promise that backend/concept.hpp makes on `backend` and on its forks.
/// @throws contract_violation naming the promise that is not kept
/// @sync the host waits; the backend is idle before and after
template <Backend B>
void check_backend(B backend) {
    detail::BackendContract<B> contract{backend};
    contract.memory();
    contract.copies();
    contract.every_index_once();
    contract.functors_are_copied();
    contract.copies_of_a_handle_share_the_queue();
    contract.default_event_is_done();
    contract.events_order_queues();
    contract.deallocate_is_queue_ordered();
    contract.last_handle_drains();
    contract.many_tasks();
    contract.several_host_threads();
    detail::BackendContract<B> forked{backend.fork()};
    forked.copies();
    forked.every_index_once();
    forked.functors_are_copied();
    forked.copies_of_a_handle_share_the_queue();
    forked.events_order_queues();
    if constexpr (host_reachable<B>) {
        contract.errors_surface_once(backend);
        contract.errors_surface_once(backend.fork());
        contract.errors_surface_at_events();
    }
    if constexpr (HasWorkers<B>) {
        contract.workers(backend);
        contract.workers(backend.fork());
    }
}

} // namespace semoe::testing
