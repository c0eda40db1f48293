#include "semoe/tier/store/file.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <optional>
#include <utility>

using namespace semoe;
using namespace semoe::test;

namespace file_open_test {
namespace {

constexpr BlockInfo info{4096, LayoutId::row_major};

/// Lets somebody else at the directory in between two steps of whoever opens a file.
struct Between : io::PosixFileSystem {
    std::function<void()> missing; ///< once, after an open that found no file
    std::function<void()> locking; ///< once, before a lock
    int open(char const* path, int flags, mode_t mode) override {
        int const descriptor = PosixFileSystem::open(path, flags, mode);
        if (descriptor < 0 && errno == ENOENT && missing) {
            std::exchange(missing, nullptr)();
            errno = ENOENT;
        }
        return descriptor;
    }
    int lock(int descriptor, bool shared) override {
        if (locking) std::exchange(locking, nullptr)();
        return PosixFileSystem::lock(descriptor, shared);
    }
};

/// A file with one committed block, open.
tier::FileStore made(std::string const& path, int seed) {
    CpuBackend b{.threads = 1};
    tier::FileStore store{path};
    store.declare(file_key(0), info);
    store_pattern(b, store, file_key(0), seed);
    store.commit();
    return store;
}

} // namespace

TEST_CASE("tier/store/file: who makes a missing file last takes nothing from who made it first") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    Between system;
    std::optional<tier::FileStore> first;
    system.missing = [&] { first.emplace(made(path, 1)); };
    CHECK(store_error_of([&] {
              tier::FileStore{path, {}, system};
          }) == path + ": it is already open, here or elsewhere");
    first->declare(file_key(1), info);
    first->commit();
    first.reset();
    system.missing = nullptr;
    tier::FileStore store{path, {}, system};
    CHECK(store.keys().size() == 2);
    CHECK(holds(store, file_key(0), 1));
    CHECK(directory.list() == std::vector<std::string>{"blocks"});

    // It is open no more when the second one comes to its lock.
    std::string const other = directory / "other";
    system.missing = [&] { (void)made(other, 2); };
    tier::FileStore second{other, {}, system};
    REQUIRE(second.contains(file_key(0)));
    CHECK(holds(second, file_key(0), 2));
}

TEST_CASE("tier/store/file: a file that is replaced while it is being opened is not the one open") {
    for (bool const read_only : {false, true}) {
        ScratchDirectory directory;
        std::string const path = directory / "blocks";
        (void)made(path, 1);
        (void)made(directory / "new", 2);
        Between system;
        system.locking = [&] { std::rename((directory / "new").c_str(), path.c_str()); };
        tier::FileStore store{path, {.read_only = read_only}, system};
        CHECK(holds(store, file_key(0), 2));
        system.locking = [&] { std::remove(path.c_str()); };
        CHECK((store_error_of([&] {
                   tier::FileStore{path, {.read_only = true}, system};
               }) == path + ": open: No such file or directory") == read_only);
    }
}

} // namespace file_open_test
