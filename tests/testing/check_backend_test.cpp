#include "semoe/testing/check_backend.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/delayed_backend.hpp"

#include <doctest/doctest.h>
#include <mutex>
#include <string>
#include <vector>

using namespace semoe;

namespace check_backend_test {
namespace {

enum class Fault {
    none,
    unaligned,
    copies_early,
    skips_the_last_index,
    runs_an_index_twice,
    keeps_a_reference,
    ignores_events,
    frees_early,
    queue_a_copy,
    leaves_work_behind,
    loses_errors,
    repeats_errors,
    throws_another_error,
    loses_errors_at_events,
    follows_at_once,
    takes_errors_that_it_follows,
    loses_errors_that_it_follows,
    observes_at_once,
    takes_errors_that_it_observes,
    leaves_errors_that_it_observes,
    skips_a_task,
    falling_tasks,
    short_scratch,
    never_reached,
    reached_early,
    no_queue_may_block,
};

/// Freed memory is never used again, so that a fault spoils numbers and not the program.
void bury(void* memory, std::size_t, void*) noexcept {
    struct Graveyard {
        std::mutex mutex;
        std::vector<void*> blocks;
        ~Graveyard() {
            for (void* block : blocks) CpuAllocator{}.deallocate(block, 0, nullptr);
        }
    };
    static Graveyard graveyard;
    std::lock_guard lock(graveyard.mutex);
    graveyard.blocks.push_back(memory);
}

/// A backend with one thing wrong.
template <Fault F>
struct Faulty {
    using Inner = testing::DelayedBackend;
    using space = HostSpace;
    using event_type = Inner::event_type;

    Inner inner{.allocator = {.deallocate = bury}};

    Faulty() = default;
    Faulty(Faulty const& other)
      : inner(other.inner) {
        if (F == Fault::queue_a_copy) inner = inner.fork();
    }
    Faulty& operator=(Faulty const&) = default;

    void* allocate(std::size_t n) {
        if (F != Fault::unaligned) return inner.allocate(n);
        return static_cast<std::byte*>(inner.allocate(n + 64)) + 8;
    }
    void deallocate(void* p, std::size_t n) noexcept {
        if (F == Fault::unaligned) {
            if (p) inner.deallocate(static_cast<std::byte*>(p) - 8, n + 64);
        } else if (F == Fault::frees_early) {
            inner.fork().deallocate(p, n);
        } else {
            inner.deallocate(p, n);
        }
    }
    void copy(void* to, void const* from, std::size_t n) {
        if (F == Fault::copies_early) {
            if (n > 0) std::memcpy(to, from, n);
        } else {
            inner.copy(to, from, n);
        }
    }
    event_type record() { return inner.record(); }
    void wait(event_type const& event) {
        if (F == Fault::ignores_events) return;
        if (F == Fault::loses_errors_at_events && event.line) event.line->failures.clear();
        inner.wait(event);
        if (F == Fault::loses_errors_at_events && event.line) {
            try {
                inner.synchronize();
            } catch (std::exception const&) { // lost
            }
        }
    }
    void observe(event_type const& event) {
        if (F == Fault::observes_at_once) return;
        if (F == Fault::takes_errors_that_it_observes) return inner.wait(event);
        if (F == Fault::leaves_errors_that_it_observes) return inner.follow(event);
        inner.observe(event);
    }
    void follow(event_type const& event) {
        if (F == Fault::follows_at_once) return;
        if (F == Fault::takes_errors_that_it_follows) return inner.wait(event);
        inner.follow(event);
        if (F == Fault::loses_errors_that_it_follows) {
            inner.synchronize();
            event.line->failures.clear();
        }
    }
    void synchronize() {
        try {
            inner.synchronize();
        } catch (std::exception const&) {
            if (F == Fault::loses_errors) return;
            if (F == Fault::throws_another_error) throw std::runtime_error("something");
            if (F == Fault::repeats_errors) inner.parallel_for(1, Throw{});
            throw;
        }
    }
    struct Throw {
        void operator()(index_t) const { throw std::runtime_error("again"); }
    };
    Faulty fork() {
        Faulty other = *this;
        other.inner = inner.fork();
        if (F == Fault::leaves_work_behind) { // a handle that is never gone
            static std::vector<Inner> kept;
            kept.push_back(other.inner);
        }
        return other;
    }
    template <class Fn>
    void parallel_for(index_t n, Fn const& functor) {
        if (F == Fault::skips_the_last_index) --n;
        if (F == Fault::runs_an_index_twice && n > 5) inner.parallel_for(1, functor);
        if constexpr (F == Fault::keeps_a_reference && sizeof(Fn) > 1000)
            inner.parallel_for(n, [&functor](index_t i) { functor(i); });
        else
            inner.parallel_for(n, functor);
    }
    template <class Task>
    void parallel_tasks(index_t n, Task const& task) {
        if (F == Fault::falling_tasks)
            inner.parallel_tasks(n, [=](index_t i, auto scratch) { task(n - 1 - i, scratch); });
        else
            inner.parallel_tasks(F == Fault::skips_a_task ? n - 1 : n, task);
    }
    void reserve_scratch(std::size_t n) {
        inner.reserve_scratch(F == Fault::short_scratch ? n - 1 : n);
    }
};

/// The same of queues that go on by themselves and can be asked.
struct FaultyCpu : CpuBackend {
    Fault fault;

    bool reached(event_type const& event) const {
        return fault == Fault::reached_early || (fault != Fault::never_reached && event.reached());
    }
    FaultyCpu fork() {
        return {fault == Fault::no_queue_may_block ? CpuBackend(*this) : CpuBackend::fork(), fault};
    }
};

/// What check_backend says about a faulty backend; nothing when it finds no fault.
template <class B>
std::string verdict_on(B const& backend) {
    try {
        testing::check_backend(backend);
    } catch (testing::contract_violation const& violation) {
        return violation.what();
    }
    return "";
}
template <Fault F>
std::string verdict() {
    return verdict_on(Faulty<F>{});
}
std::string verdict_on_cpu(Fault fault) { return verdict_on(FaultyCpu{{.threads = 2}, fault}); }

bool contains(std::string const& text, char const* part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("testing/check_backend: a backend without fault passes") {
    CHECK(verdict<Fault::none>() == "");
    CHECK(verdict_on_cpu(Fault::none) == "");
    for (std::uint64_t seed = 1; seed <= 3; ++seed)
        CHECK_NOTHROW(testing::check_backend(testing::DelayedBackend{.seed = seed}));
}

TEST_CASE("testing/check_backend: a broken promise is named") {
    CHECK(contains(verdict<Fault::unaligned>(), "aligns to 64 bytes"));
    CHECK(contains(verdict<Fault::copies_early>(), "run in queue order"));
    CHECK(contains(verdict<Fault::skips_the_last_index>(), "parallel_for calls every index"));
    CHECK(contains(verdict<Fault::runs_an_index_twice>(), "every index exactly once"));
    CHECK(contains(verdict<Fault::keeps_a_reference>(), "parallel_for copies a functor"));
    CHECK(contains(verdict<Fault::ignores_events>(), "starts later work after the event"));
    CHECK(contains(verdict<Fault::frees_early>(), "deallocate takes effect in queue order"));
    CHECK(contains(verdict<Fault::queue_a_copy>(), "copies of a handle share one queue"));
    CHECK(contains(verdict<Fault::leaves_work_behind>(), "when its last handle is gone"));
    CHECK(contains(verdict<Fault::loses_errors>(), "what a functor throws"));
    CHECK(contains(verdict<Fault::repeats_errors>(), "an error surfaces once"));
    CHECK(contains(verdict<Fault::throws_another_error>(), "what a functor throws"));
    CHECK(contains(verdict<Fault::loses_errors_at_events>(), "where its event is waited for"));
    CHECK(contains(verdict<Fault::follows_at_once>(), "follow(event) starts later work after"));
    CHECK(contains(verdict<Fault::takes_errors_that_it_follows>(), "follow takes no error"));
    CHECK(contains(verdict<Fault::loses_errors_that_it_follows>(), "leaves an error to its queue"));
    CHECK(contains(verdict<Fault::observes_at_once>(), "observe(event) starts later work after"));
    CHECK(contains(verdict<Fault::takes_errors_that_it_observes>(), "found 'forked 9' and ''"));
    CHECK(contains(verdict<Fault::leaves_errors_that_it_observes>(), "found '' and 'forked 9'"));
    CHECK(contains(verdict<Fault::skips_a_task>(), "every task once"));
    CHECK(contains(verdict<Fault::falling_tasks>(), "take tasks in rising order"));
    CHECK(contains(verdict<Fault::short_scratch>(), "scratch of its own"));
    CHECK(contains(verdict_on_cpu(Fault::never_reached), "a default event is reached"));
    CHECK(contains(verdict_on_cpu(Fault::reached_early), "an event is not reached before"));
    CHECK(contains(verdict_on_cpu(Fault::no_queue_may_block), "where queues may_block"));
}

} // namespace check_backend_test
