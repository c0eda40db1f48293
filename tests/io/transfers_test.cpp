#include "semoe/io/transfers.hpp"

#include "semoe/io/make_transfers.hpp"
#include "support/direct.hpp"
#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <exception>
#include <fcntl.h>
#include <memory>
#include <semaphore>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEMOE_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SEMOE_TEST_SANITIZED
#endif
#endif

using namespace semoe;
using namespace semoe::io;
using namespace semoe::test;

namespace {

std::vector<Engine> engines() {
    if (ring_available()) return {Engine::threads, Engine::ring};
    return {Engine::threads};
}

std::byte byte_at(index_t i) { return std::byte(i * 31 + i / 4096 * 7); }

/// A file of n bytes, each known by its place.
std::string make_file(ScratchDirectory const& directory, index_t n) {
    std::string const path = directory / "file";
    std::string text;
    for (index_t i = 0; i < n; ++i) text.push_back(char(byte_at(i)));
    write_text(path, text);
    return path;
}
bool right(std::byte const* bytes, index_t n, index_t offset) {
    for (index_t i = 0; i < n; ++i)
        if (bytes[i] != byte_at(offset + i)) return false;
    return true;
}

} // namespace

TEST_CASE("io/transfers: bring and leave runs of any length, aligned or not, on every engine") {
    for (Engine const engine : engines())
        for (Way const way : {Way::direct, Way::cached})
            for (int const depth : {1, 3}) {
                ScratchDirectory directory;
                TransferFile file(default_file_system(), make_file(directory, 200'000), true, way);
                auto const transfers =
                    make_transfers(file, {.depth = depth, .piece_bytes = 8192, .engine = engine});
                CHECK(transfers->engine() == engine);
                std::deque<Transfer> all;
                std::vector<AlignedMemory> memory;
                for (index_t const n : {0, 1, 511, 4096, 8191, 8192, 8193, 50'000})
                    for (index_t const shift : {0, 8}) {
                        memory.emplace_back(n + shift);
                        Transfer& t = all.emplace_back();
                        t.file = &file;
                        t.memory = memory.back().data() + shift;
                        t.bytes = n;
                        t.offset = index_t(all.size() % 5) * 8192;
                        transfers->start(t);
                    }
                for (Transfer& t : all) {
                    transfers->wait(t);
                    CHECK(t.error == 0);
                    CHECK(right(t.memory, t.bytes, t.offset));
                }
                auto const counters = transfers->counters();
                CHECK(counters.bytes_read == 2 * (1 + 511 + 4096 + 8191 + 8192 + 8193 + 50'000));
                CHECK(counters.reads == 2 * (1 + 1 + 1 + 1 + 1 + 2 + 7));
                CHECK(counters.most_in_flight <= depth);

                index_t place = 49 * 4096; // behind what is there
                for (Transfer& t : all) {
                    t.kind = Transfer::Kind::write;
                    for (index_t i = 0; i < t.bytes; ++i) t.memory[i] = byte_at(place + i);
                    t.offset = place;
                    place += round_up(t.bytes);
                    transfers->start(t);
                }
                for (Transfer& t : all) {
                    transfers->wait(t);
                    CHECK(t.error == 0);
                    std::vector<std::byte> back(std::size_t(t.bytes));
                    file.file().read_at(back, t.offset);
                    CHECK(right(back.data(), t.bytes, t.offset));
                }
            }
}

TEST_CASE("io/transfers: reads begin at any byte of the file, in whole pages after the first") {
    for (Engine const engine : engines())
        for (Way const way : {Way::direct, Way::cached, Way::mapped}) {
            if (way == Way::mapped && engine == Engine::ring) continue;
            ScratchDirectory directory;
            FaultyFileSystem halting; // reads stop short, at a page
            halting.longest_transfer = 4096;
            for (FileSystem* const system :
                 {&default_file_system(), static_cast<FileSystem*>(&halting)}) {
                if (system == &halting && engine == Engine::ring) continue;
                TransferFile file(*system, make_file(directory, 50'001), false, way);
                auto const transfers =
                    make_transfers(file, {.depth = 2, .piece_bytes = 8192, .engine = engine});
                std::deque<Transfer> all;
                std::vector<AlignedMemory> memory;
                for (index_t const offset : {1, 4095, 4097, 8192, 12'345, 50'001 - 20'000})
                    for (index_t const n : {0, 1, 4095, 4096, 8192, 20'000}) {
                        index_t const shift = index_t(all.size() % 3) * 7;
                        memory.emplace_back(n + shift);
                        Transfer& t = all.emplace_back();
                        t.file = &file;
                        t.memory = memory.back().data() + shift;
                        t.bytes = n;
                        t.offset = offset;
                        transfers->start(t);
                    }
                for (Transfer& t : all) {
                    transfers->wait(t);
                    CHECK(t.error == 0);
                    CHECK(right(t.memory, t.bytes, t.offset));
                }
                // Of 20 000 bytes from 4095 on: 4097, up to the third page, then 8192 and 7711.
                index_t const before = transfers->counters().reads;
                Transfer& t = all[11];
                CHECK(t.offset == 4095);
                CHECK(t.bytes == 20'000);
                transfers->start(t);
                transfers->wait(t);
                CHECK(transfers->counters().reads - before == 3);
                t.offset = 50'001 - 19'999;
                transfers->start(t);
                transfers->wait(t);
                CHECK(t.describe_error().starts_with("read: the file ends, at byte "));
            }
        }
}

TEST_CASE("io/transfers: a direct write that does not begin with a page is refused") {
    for (Way const way : {Way::direct, Way::cached}) {
        ScratchDirectory directory;
        TransferFile file(default_file_system(), make_file(directory, 8192), true, way);
        auto const transfers = make_transfers(file, {});
        std::vector<std::byte> memory(100, std::byte{1});
        Transfer t;
        t.file = &file;
        t.kind = Transfer::Kind::write;
        t.memory = memory.data();
        t.bytes = 100;
        t.offset = 4196;
        std::string expected = read_text(file.name());
        transfers->start(t);
        transfers->wait(t);
        CHECK(t.error == (file.way() == Way::direct ? EINVAL : 0));
        if (t.error == 0) expected.replace(4196, 100, 100, '\1');
        CHECK(read_text(file.name()) == expected);
    }
}

TEST_CASE("io/transfers: a mapped file is read like any other") {
    ScratchDirectory directory;
    TransferFile file(default_file_system(), make_file(directory, 50'000), false, Way::mapped);
    auto const transfers = make_transfers(file, {.piece_bytes = 4096});
    CHECK(transfers->engine() == Engine::threads);
    std::vector<std::byte> memory(10'000);
    Transfer t;
    t.file = &file;
    t.memory = memory.data();
    t.bytes = 10'000;
    t.offset = 4096;
    transfers->start(t);
    transfers->wait(t);
    CHECK(t.error == 0);
    CHECK(right(memory.data(), 10'000, 4096));
}

TEST_CASE("io/transfers: a read past the end names the byte where the file ends") {
    for (Engine const engine : engines())
        for (Way const way : {Way::direct, Way::cached}) {
            ScratchDirectory directory;
            TransferFile file(default_file_system(), make_file(directory, 8192), false, way);
            auto const transfers = make_transfers(file, {.piece_bytes = 4096, .engine = engine});
            AlignedMemory const memory(16'384);
            Transfer t;
            t.file = &file;
            t.memory = memory.data();
            t.bytes = 16'384;
            transfers->start(t);
            transfers->wait(t);
            CHECK(t.error == Transfer::end_of_file);
            CHECK(t.error_offset >= 8192); // two pieces lie behind it
            CHECK(t.describe_error().starts_with("read: the file ends, at byte "));
            t.bytes = 8192; // it may be used again
            transfers->start(t);
            transfers->wait(t);
            CHECK(t.error == 0);
        }
}

TEST_CASE("io/transfers: a full device is named") {
    for (Engine const engine : engines()) {
        TransferFile file(default_file_system(), "/dev/full", true, Way::cached);
        auto const transfers = make_transfers(file, {.piece_bytes = 4096, .engine = engine});
        std::vector<std::byte> memory(10'000);
        Transfer t;
        t.file = &file;
        t.kind = Transfer::Kind::write;
        t.memory = memory.data();
        t.bytes = 10'000;
        transfers->start(t);
        transfers->wait(t);
        CHECK(t.error == ENOSPC);
        CHECK(t.describe_error().starts_with("write: No space left on device, at byte "));
    }
}

TEST_CASE("io/transfers: short transfers go on, interrupted ones start again") {
    for (bool const direct : {false, true}) {
        ScratchDirectory directory;
        FaultyFileSystem system;
        system.takes_direct = direct;
        system.interrupts = true;
        system.longest_transfer = direct ? 4096 : 700;
        TransferFile file(system, make_file(directory, 50'000), true);
        CHECK(file.way() == (direct ? direct_way() : Way::cached));
        auto const transfers = make_transfers(file, {.depth = 2, .piece_bytes = 8192});
        for (auto const kind : {Transfer::Kind::read, Transfer::Kind::write}) {
            AlignedMemory const memory(30'000);
            for (index_t i = 0; i < 30'000; ++i) memory.data()[i] = byte_at(i);
            Transfer t;
            t.file = &file;
            t.kind = kind;
            t.memory = memory.data();
            t.bytes = 30'000;
            transfers->start(t);
            transfers->wait(t);
            CHECK(t.error == 0);
            CHECK(right(memory.data(), 30'000, 0));
        }
        CHECK(right(reinterpret_cast<std::byte const*>(read_text(file.name()).data()), 30'000, 0));
    }
}

TEST_CASE("io/transfers: whichever request fails, the transfer has its errno and its place") {
    for (auto const kind : {Transfer::Kind::read, Transfer::Kind::write})
        for (index_t failing = 0; failing < 5; ++failing) {
            ScratchDirectory directory;
            FaultyFileSystem system;
            TransferFile file(system, make_file(directory, 40'960), true);
            auto const transfers = make_transfers(file, {.depth = 1, .piece_bytes = 8192});
            AlignedMemory const memory(40'960);
            for (index_t i = 0; i < 40'960; ++i) memory.data()[i] = byte_at(i);
            Transfer t;
            t.file = &file;
            t.kind = kind;
            t.memory = memory.data();
            t.bytes = 40'960;
            system.fail_at = system.operations + failing;
            transfers->start(t);
            transfers->wait(t);
            CHECK(t.error == EIO);
            CHECK(t.error_offset == failing * 8192);
            CHECK(transfers->counters().reads + transfers->counters().writes == failing + 1);
        }
}

TEST_CASE("io/transfers: start never waits for the file") {
    struct Stuck : PosixFileSystem {
        std::counting_semaphore<> passes{0};
        std::atomic<bool> stuck{false};
        ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) override {
            if (stuck) passes.acquire();
            return PosixFileSystem::read_at(descriptor, to, n, offset);
        }
        bool native() const override { return false; }
    } system;
    ScratchDirectory directory;
    TransferFile file(system, make_file(directory, 100'000), false);
    auto const transfers = make_transfers(file, {.depth = 2, .piece_bytes = 4096});
    system.stuck = true;
    std::vector<AlignedMemory> memory;
    std::deque<Transfer> all;
    for (int i = 0; i < 6; ++i) {
        memory.emplace_back(8192);
        Transfer& t = all.emplace_back();
        t.file = &file;
        t.memory = memory.back().data();
        t.bytes = 8192;
        t.offset = i * 8192;
        transfers->start(t);
    }
    system.passes.release(12);
    for (Transfer& t : all) {
        transfers->wait(t);
        CHECK(right(t.memory, t.bytes, t.offset));
    }
    CHECK(transfers->counters().most_in_flight <= 2);
}

TEST_CASE("io/transfers: several threads share an engine") {
    for (Engine const engine : engines()) {
        ScratchDirectory directory;
        TransferFile file(default_file_system(), make_file(directory, 100'000), false);
        auto const transfers =
            make_transfers(file, {.depth = 4, .piece_bytes = 4096, .engine = engine});
        std::atomic<int> wrong = 0;
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i)
            threads.emplace_back([&, i] {
                AlignedMemory const memory(12'288);
                for (int round = 0; round < 50; ++round) {
                    Transfer t;
                    t.file = &file;
                    t.memory = memory.data();
                    t.bytes = 12'288 - i;
                    t.offset = (round + i) % 20 * 4096;
                    transfers->start(t);
                    transfers->wait(t);
                    wrong += t.error != 0 || !right(t.memory, t.bytes, t.offset);
                }
            });
        for (std::thread& thread : threads) thread.join();
        CHECK(wrong == 0);
    }
}

TEST_CASE("io/transfers: what a thread began that ended meanwhile comes all the same") {
    constexpr index_t bytes = 131'072, count = 16;
    ScratchDirectory directory;
    std::string const path = make_file(directory, count * bytes);
    AlignedMemory const memory(count * bytes);
    for (Engine const engine : engines())
        for (int round = 0; round < 20; ++round) {
            // Out of the system's cache, so that reads are still under way.
            int const descriptor = ::open(path.c_str(), O_RDWR);
            REQUIRE(descriptor >= 0);
            ::fsync(descriptor);
            ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
            ::close(descriptor);
            TransferFile file(default_file_system(), path, false, Way::cached);
            auto const transfers =
                make_transfers(file, {.depth = 8, .piece_bytes = 32'768, .engine = engine});
            std::deque<Transfer> all(count);
            for (index_t i = 0; i < count; ++i) {
                Transfer& t = all[std::size_t(i)];
                t.file = &file;
                t.bytes = bytes;
                t.offset = i * bytes;
                t.memory = memory.data() + t.offset;
                std::thread([&] { transfers->start(t); }).join();
            }
            int failed = 0;
            for (Transfer& t : all) {
                transfers->wait(t);
                failed += t.error != 0;
            }
            CHECK(failed == 0);
            CHECK(right(memory.data(), count * bytes, 0));
        }
}

TEST_CASE("io/transfers: without descriptors for a ring threads carry transfers out") {
    ScratchDirectory directory;
    TransferFile file(default_file_system(), make_file(directory, 10'000), false);
    AlignedMemory const memory(8192);
    (void)ring_available(); // whose answer stays, and must not be that of this test
    rlimit before = {};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    rlimit none = before;
    none.rlim_cur = 0;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    std::unique_ptr<Transfers> transfers;
    std::exception_ptr refused; // looked at later: sanitizers need descriptors, too
    try {
        transfers = make_transfers(file, {});
        (void)make_transfers(file, {.engine = Engine::ring});
    } catch (...) {
        refused = std::current_exception();
    }
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    REQUIRE(transfers);
    CHECK(transfers->engine() == Engine::threads);
    REQUIRE(refused);
    CHECK_THROWS_WITH_AS(std::rethrow_exception(refused), doctest::Contains("io_uring"),
                         store_error);
    Transfer t;
    t.file = &file;
    t.memory = memory.data();
    t.bytes = 8192;
    transfers->start(t);
    transfers->wait(t);
    CHECK(right(t.memory, t.bytes, 0));
}

TEST_CASE("io/transfers: options out of range are named, and a ring that cannot be had") {
    ScratchDirectory directory;
    FaultyFileSystem system;
    TransferFile file(system, make_file(directory, 10), false);
    CHECK_THROWS_WITH_AS(make_transfers(file, {.depth = 0}),
                         "TransferOptions: depth is 0, must be 1 to 1024", precondition_error);
    CHECK_THROWS_WITH_AS(make_transfers(file, {.piece_bytes = 1000}),
                         "TransferOptions: piece_bytes is 1000, must be a multiple of 4096",
                         precondition_error);
    CHECK_THROWS_WITH_AS(make_transfers(file, {.engine = Engine::ring}),
                         (file.name() + ": io_uring is asked for, but its file system is not the "
                                        "kernel's own, or it is mapped")
                             .c_str(),
                         store_error);
}

#if !defined(SEMOE_TEST_SANITIZED) // sanitizers end a program that asks for so much
TEST_CASE("io/transfers: a buffer that cannot be had is an error of the constructor") {
    ScratchDirectory directory;
    TransferFile file(default_file_system(), make_file(directory, 10), false);
    for (Engine const engine : engines())
        CHECK_THROWS_WITH_AS(
            make_transfers(file, {.piece_bytes = index_t(1) << 50, .engine = engine}),
            "io: no memory for a buffer of 1125899906842624 bytes", store_error);
}
#endif

TEST_CASE("io/transfers: a piece may be longer than what the system takes at once") {
    constexpr index_t n = index_t(1) << 32; // zero in 32 bits
    for (Engine const engine : engines()) {
        ScratchDirectory directory;
        // A short file, so that nearly all of the memory is never touched.
        TransferFile file(default_file_system(), make_file(directory, 10'000), false, Way::cached);
        AlignedMemory memory;
        std::unique_ptr<Transfers> transfers;
        try {
            memory = AlignedMemory(n);
            transfers = make_transfers(file, {.depth = 1, .piece_bytes = n, .engine = engine});
        } catch (store_error const& error) {
            REQUIRE(std::string(error.what()).starts_with("io: no memory"));
            MESSAGE("pieces of 4 GiB are not tested: ", std::string(error.what()));
            continue;
        }
        Transfer t;
        t.file = &file;
        t.memory = memory.data();
        t.bytes = n;
        transfers->start(t);
        transfers->wait(t);
        CHECK(t.describe_error() == "read: the file ends, at byte 10000");
        CHECK(right(memory.data(), 10'000, 0));
    }
}

TEST_CASE("io/transfers: direct transfers that stop inside a page go on through the cache") {
    struct Stopping : PosixFileSystem {
        int direct = -1; // stops short, and takes nothing that begins inside a page
        int open(char const* path, int flags, mode_t mode) override {
            int const descriptor = PosixFileSystem::open(path, flags & ~O_DIRECT, mode);
            if (flags & O_DIRECT) direct = descriptor;
            return descriptor;
        }
        std::size_t most(int descriptor, std::size_t n, index_t offset) const {
            if (descriptor != direct) return n;
            return offset % direct_alignment == 0 ? std::min<std::size_t>(n, 1000) : 0;
        }
        ssize_t read_at(int descriptor, void* to, std::size_t n, index_t offset) override {
            return PosixFileSystem::read_at(descriptor, to, most(descriptor, n, offset), offset);
        }
        ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t offset) override {
            return PosixFileSystem::write_at(descriptor, from, most(descriptor, n, offset), offset);
        }
        bool native() const override { return false; }
    } system;
    ScratchDirectory directory;
    TransferFile file(system, make_file(directory, 50'000), true);
    CHECK(file.way() == Way::direct);
    auto const transfers = make_transfers(file, {.depth = 2, .piece_bytes = 8192});
    AlignedMemory const memory(50'000);
    Transfer t;
    t.file = &file;
    t.memory = memory.data();
    for (index_t const offset : {0, 8192, 4100}) {
        t.bytes = 30'000;
        t.offset = offset;
        transfers->start(t);
        transfers->wait(t);
        CHECK(t.error == 0);
        CHECK(right(memory.data(), 30'000, offset));
    }
    t.kind = Transfer::Kind::write;
    t.offset = 4096;
    for (index_t i = 0; i < 30'000; ++i) memory.data()[i] = byte_at(i);
    transfers->start(t);
    transfers->wait(t);
    CHECK(t.error == 0);
    CHECK(
        right(reinterpret_cast<std::byte const*>(read_text(file.name()).data()) + 4096, 30'000, 0));
}

TEST_CASE("io/transfers: where a file ends inside a page, direct transfers name the very byte") {
    if (!direct_works()) return;
    for (Engine const engine : engines()) {
        ScratchDirectory directory;
        TransferFile file(default_file_system(), make_file(directory, 5000), false);
        auto const transfers = make_transfers(file, {.piece_bytes = 8192, .engine = engine});
        AlignedMemory const memory(8192);
        Transfer t;
        t.file = &file;
        t.memory = memory.data();
        t.bytes = 8192;
        transfers->start(t);
        transfers->wait(t);
        CHECK(t.describe_error() == "read: the file ends, at byte 5000");
    }
}
