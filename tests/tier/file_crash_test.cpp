#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <mutex>
#include <random>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace semoe;
using namespace semoe::test;

namespace file_crash_test {
namespace {

constexpr int num_blocks = 5;
constexpr index_t block_bytes = 9000;

void declare_all(tier::FileStore& store) {
    for (int i = 0; i < num_blocks; ++i)
        store.declare(file_key(i), {block_bytes, LayoutId::row_major});
}
/// The step whose bytes every block holds; -1 when they are of several.
int step_of(tier::FileStore& store) {
    if (!store.contains(file_key(0))) return 0;
    for (int step = 0; step < 100'000; ++step) {
        if (step > 0 ? !holds(store, file_key(0), step)
                     : load_bytes(store, file_key(0)) != HostBytes(block_bytes))
            continue;
        for (int i = 1; i < num_blocks; ++i)
            if (step > 0 ? !holds(store, file_key(i), step + i)
                         : load_bytes(store, file_key(i)) != HostBytes(block_bytes))
                return -1;
        return step;
    }
    return -1;
}

/// Numbers that a child and its parent share: the step that was committed, and whether it began.
struct SharedNumbers {
    std::atomic<int>* value;
    SharedNumbers()
      : value(static_cast<std::atomic<int>*>(
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
    SharedNumbers(SharedNumbers const&) = delete;
    SharedNumbers& operator=(SharedNumbers const&) = delete;
    ~SharedNumbers() { ::munmap(value, 4096); }
};

/// Writes step after step through a cache of two slots, and says how far it has come.
void train_for_ever(std::string const& path, int step, std::atomic<int>* shared) {
    CpuBackend b{.threads = 1};
    tier::Cached tier{b, tier::FileStore{path}, {.slots = 2}};
    for (int i = 0; i < num_blocks; ++i)
        tier.declare(b, file_key(i), {block_bytes, LayoutId::row_major});
    for (shared[1] = 1;; ++step) {
        for (int i = 0; i < num_blocks; ++i) {
            auto const lease = tier.acquire(b, file_key(i), Access::overwrite);
            b.parallel_for(block_bytes,
                           testing::detail::StampFn{lease.bytes().data, std::uint32_t(step + i)});
        }
        tier.flush(b);
        shared[0] = step;
    }
}

} // namespace

TEST_CASE("tier/store/file: killed at any moment, 200 times, it opens to the last flush") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    SharedNumbers shared;
    std::mt19937 random(11);
    using namespace std::chrono_literals;
    using Clock = std::chrono::steady_clock;
    std::chrono::microseconds step_time{1000}; // measured, since disks differ a hundredfold
    int step = 0;
    for (int round = 0; round < 200; ++round) {
        std::atomic<int>& committed = shared.value[0];
        committed = step;
        shared.value[1] = 0;
        pid_t const child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            try {
                train_for_ever(path, step + 1, shared.value);
            } catch (std::exception const& error) {
                std::fprintf(stderr, "%s\n", error.what());
            }
            ::_exit(1); // what the parent has is not the child's to clean up
        }
        int status = 0;
        auto began = Clock::now();
        auto const took = [&] {
            return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - began);
        };
        auto const lives = [&] {
            ::usleep(100);
            return took() < 1min && ::waitpid(child, &status, WNOHANG) == 0;
        };
        // One round in eight is killed while it opens the file, one has committed a step.
        bool alive = true;
        while (alive && round % 8 != 0 && shared.value[1] == 0) alive = lives();
        began = Clock::now();
        while (alive && round % 8 == 1 && committed == step) alive = lives();
        REQUIRE(alive);
        if (round % 8 == 1) step_time = std::clamp<std::chrono::microseconds>(took(), 1ms, 100ms);
        ::usleep(useconds_t(random() % std::uint64_t(2 * step_time.count())));
        ::kill(child, SIGKILL);
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WIFSIGNALED(status));

        tier::FileStore store{path};
        if (!store.contains(file_key(0))) continue;
        // Every block of one step: the last that was flushed, or the one that was being.
        int found = -1;
        for (int const maybe : {committed.load(), committed + 1})
            if (maybe > 0 && holds(store, file_key(0), maybe)) found = maybe;
        if (found < 0 && committed == 0)
            found = load_bytes(store, file_key(0)) == HostBytes(block_bytes) ? 0 : -1;
        CAPTURE(round);
        REQUIRE(found >= 0);
        for (int i = 1; i < num_blocks; ++i)
            REQUIRE((found == 0 ? load_bytes(store, file_key(i)) == HostBytes(block_bytes)
                                : holds(store, file_key(i), found + i)));
        step = found;
    }
    MESSAGE(step << " steps in 200 rounds");
    CHECK(step >= 25);
}

namespace {

/// Remembers what was written since when, so that any state in which a power cut may leave the file
/// can be made: all that was there at some fsync, and any part of what came after it.
class PowerCut : public io::PosixFileSystem {
public:
    struct Write {
        index_t offset;
        std::string bytes;
        int syncs; ///< that had returned before
        int steps; ///< that had been committed before
    };
    std::vector<Write> writes;
    int syncs = 0;
    std::atomic<int> steps = 0;

    bool native() const override { return false; }
    ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t offset) override {
        ssize_t const taken = PosixFileSystem::write_at(descriptor, from, n, offset);
        std::lock_guard lock(mutex_);
        if (taken > 0)
            writes.push_back({offset,
                              std::string(static_cast<char const*>(from), std::size_t(taken)),
                              syncs, steps});
        return taken;
    }
    int sync(int) override {
        std::lock_guard lock(mutex_);
        ++syncs;
        return 0;
    }

private:
    std::mutex mutex_;
};

} // namespace

TEST_CASE("tier/store/file: whatever part of the last writes a power cut takes, it opens to a "
          "step") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    tier::FileStore{path};
    std::string const empty = read_text(path);
    PowerCut system;
    {
        CpuBackend b{.threads = 1};
        tier::FileStore store{path, {.transfers = {.piece_bytes = 4096}}, system};
        declare_all(store);
        for (int step = 1; step <= 6; ++step) {
            for (int i = 0; i < num_blocks; ++i) store_pattern(b, store, file_key(i), step + i);
            store.commit();
            system.steps = step;
        }
    }
    std::mt19937 random(3);
    std::string const cut = directory / "cut";
    for (std::size_t n = 0; n <= system.writes.size(); ++n)
        for (int part = 0; part < 4; ++part) {
            // The first n writes were asked for; those before the last fsync are on the device.
            std::string image = empty;
            int const durable = n == 0 ? 0 : system.writes[n - 1].syncs;
            for (std::size_t i = 0; i < n; ++i) {
                auto const& write = system.writes[i];
                std::size_t length = write.bytes.size();
                if (write.syncs >= durable) {
                    if (random() % 3 == 0) continue;
                    if (random() % 3 == 0) length = random() % length / 512 * 512;
                }
                std::size_t const at = std::size_t(write.offset);
                if (image.size() < at + length) image.resize(at + length);
                image.replace(at, length, write.bytes, 0, length);
            }
            write_text(cut, image);
            tier::FileStore store{cut, {.read_only = true, .verify = tier::Verify::always}};
            int const step = step_of(store);
            int const before = n == 0 ? 0 : system.writes[n - 1].steps;
            CAPTURE(n);
            CAPTURE(before);
            REQUIRE((step == before || step == before + 1));
        }
}

TEST_CASE("tier/store/file: whichever operation fails, an error says so and a step is left") {
    using Fault = FaultyFileSystem::Fault;
    for (auto const fault : {Fault::once, Fault::full_disk, Fault::dead_disk}) {
        for (index_t fail_at = 0;; ++fail_at) {
            ScratchDirectory directory;
            std::string const path = directory / "blocks";
            FaultyFileSystem system;
            system.error = fault == Fault::full_disk ? ENOSPC : EIO;
            int committed = 0;
            std::string error;
            CpuBackend b{.threads = 1};
            try {
                tier::FileStore store{
                    path, {.transfers = {.depth = 1, .piece_bytes = 4096}}, system};
                declare_all(store);
                system.fail_at = system.operations + fail_at;
                system.fault = fault;
                tier::Cached tier{b, store, {.slots = 2}};
                for (int i = 0; i < num_blocks; ++i)
                    tier.declare(b, file_key(i), {block_bytes, LayoutId::row_major});
                for (int step = 1; step <= 4; ++step)
                    for (int attempt = 0; attempt < 3; ++attempt) try {
                            for (int i = 0; i < num_blocks; ++i) {
                                auto const lease = tier.acquire(b, file_key(i), Access::overwrite);
                                b.parallel_for(block_bytes,
                                               testing::detail::StampFn{lease.bytes().data,
                                                                        std::uint32_t(step + i)});
                            }
                            tier.flush(b);
                            committed = step;
                            break;
                        } catch (store_error const& failure) {
                            error = failure.what();
                        }
            } catch (store_error const& failure) {
                error = failure.what();
            }
            CAPTURE(int(fault));
            CAPTURE(fail_at);
            if (!system.failed) { // the step before met the last operation
                CHECK(error.empty());
                CHECK(fail_at > 60);
                break;
            }
            // But for a second header, which no commit needs, and when all is there already.
            auto const* const log = system.log.data() + system.fail_at;
            bool const second =
                log[-3] == "fsync" && log[-2] == "write" && log[-1] == "fsync" && log[0] == "write";
            bool const told = error.find(path) != std::string::npos || second || log[0] == "close";
            REQUIRE(told);
            tier::FileStore store{path};
            int const step = step_of(store);
            REQUIRE((step == committed || step == committed + 1));
        }
    }
}

} // namespace file_crash_test
