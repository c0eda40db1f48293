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

/// A device behind a cache: what is written is seen at once, and outlives a process; the device has
/// it after an fsync, and may have it before.
struct Device : io::PosixFileSystem {
    struct Write {
        index_t offset;
        std::string bytes;
    };
    std::vector<Write> cached;
    std::string image;
    int syncs = -1;         ///< how many more succeed; negative: all
    bool forgetful = false; ///< what the others were to bring is in the cache alone, for ever
    int headers = -1;       ///< how many more are written before one fails; negative: all

    ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t at) override {
        if (at < 2 * 4096 && headers >= 0 && headers-- == 0) {
            errno = EIO;
            return -1;
        }
        cached.push_back({at, std::string(static_cast<char const*>(from), n)});
        return PosixFileSystem::write_at(descriptor, from, n, at);
    }
    int sync(int) override {
        if (syncs != 0) {
            syncs -= syncs > 0;
            bring(0);
            return 0;
        }
        if (forgetful) cached.clear();
        errno = EIO;
        return -1;
    }
    bool native() const override { return false; }
    /// What was written from the n-th on comes to the device.
    void bring(std::size_t n) {
        for (; n < cached.size(); ++n) {
            auto const at = std::size_t(cached[n].offset);
            image.resize(std::max(image.size(), at + cached[n].bytes.size()));
            image.replace(at, cached[n].bytes.size(), cached[n].bytes);
        }
        cached.clear();
    }
};

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

TEST_CASE("tier/store/file: what a process that died left in the cache is on the device before a "
          "store") {
    for (bool const forgetful : {false, true}) {
        ScratchDirectory directory;
        std::string const path = directory / "blocks";
        tier::FileOptions const options{.way = io::Way::cached};
        CpuBackend b{.threads = 1};
        Device device;
        {
            tier::FileStore store{path, options, device};
            store.declare(file_key(0), info);
            store_pattern(b, store, file_key(0), 1);
            store.commit();
            store_pattern(b, store, file_key(0), 2);
            store.commit();
            store.declare(file_key(1), info);
            device.syncs = 1; // the table is on the device, the header is not
            device.forgetful = forgetful;
            REQUIRE(store_error_of([&] { store.commit(); }) != "");
        }
        device.syncs = -1;
        std::size_t before = 0;
        {
            tier::FileStore store{path, options, device};
            REQUIRE(store.contains(file_key(1))); // the cache has the header
            before = device.cached.size();
            for (int i = 1; i < 5; ++i) {
                store.declare(file_key(i), info);
                store_pattern(b, store, file_key(i), 3);
            }
        }
        // The power goes when the device has those blocks, and what it was made to have before.
        device.bring(before);
        write_text(path, device.image);
        tier::FileStore store{path};
        CHECK(holds(store, file_key(0), 2));
        CHECK(store.keys().size() == 2);
    }
}

TEST_CASE("tier/store/file: a commit without its second header holds, and the next one writes it") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks", copy = directory / "copy";
    CpuBackend b{.threads = 1};
    Device device;
    tier::FileStore store{path, {}, device};
    store.declare(file_key(0), info);
    for (int step = 1; step <= 3; ++step) {
        store_pattern(b, store, file_key(0), step);
        device.headers = 1;
        store.commit();
        REQUIRE(device.headers < 0);
        write_text(copy, read_text(path));
        tier::FileStore opened{copy, {.read_only = true}};
        CHECK(holds(opened, file_key(0), step));
    }
    CHECK(read_text(path).substr(0, 4096) != read_text(path).substr(4096, 4096));
    store.commit();
    CHECK(read_text(path).substr(0, 4096) == read_text(path).substr(4096, 4096));
    CHECK(store.counters().commits == 4);
    store.commit(); // nothing to do
    CHECK(store.counters().commits == 4);
    CHECK(holds(store, file_key(0), 3));
}

TEST_CASE("tier/store/file: options that are refused leave no file behind") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    CHECK_THROWS_WITH_AS((tier::FileStore{path, {.transfers = {.depth = 0}}}),
                         "TransferOptions: depth is 0, must be 1 to 1024", precondition_error);
    CHECK_THROWS_WITH_AS((tier::FileStore{path, {.way = io::Way::mapped}}),
                         "FileOptions: way is mapped, which is for reading; set read_only, or "
                         "another way to write",
                         precondition_error);
    CHECK(directory.list().empty());
}

} // namespace file_open_test
