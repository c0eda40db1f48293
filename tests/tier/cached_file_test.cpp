#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/file.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>

// What a cache makes of a file's failures: of several transfers under way, on queues of the store.

using namespace semoe;
using namespace semoe::test;

namespace cached_file_test {
namespace {

constexpr index_t block_bytes = 8192;
constexpr int refused = 4;

struct Device : io::PosixFileSystem {
    std::atomic<int> bad_reads{0}, bad_writes{0}; ///< how many more of a block fail

    ssize_t read_at(int descriptor, void* to, std::size_t n, index_t at) override {
        if (n != block_bytes || bad_reads == 0)
            return PosixFileSystem::read_at(descriptor, to, n, at);
        --bad_reads;
        errno = EIO;
        return -1;
    }
    ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t at) override {
        if (n != block_bytes || bad_writes == 0)
            return PosixFileSystem::write_at(descriptor, from, n, at);
        --bad_writes;
        errno = EIO;
        return -1;
    }
    bool native() const override { return false; }
};

/// Refuses to load one block.
struct Store : tier::FileStore {
    using FileStore::FileStore;
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if (key.expert == refused) throw store_error("refused");
        return FileStore::load(b, key, dst);
    }
};

/// Two slots over a file of five blocks, with block 0 dirty in the slot that gives way first.
struct Fixture {
    ScratchDirectory directory;
    Device device;
    CpuBackend b{.threads = 1};
    Store store{directory / "blocks",
                {.way = io::Way::cached, .transfers = {.depth = 1, .engine = io::Engine::threads}},
                device};
    tier::Cached<CpuBackend, Store> tier{b, store, {.slots = 2}};

    Fixture() {
        for (int i = 0; i <= refused; ++i) {
            tier.declare(b, file_key(i), {block_bytes, LayoutId::row_major});
            store_pattern(b, store, file_key(i), i);
        }
        store.commit();
        write(0, 50);
        CHECK(holds(2, 2));
    }
    void write(int block, int stamp) {
        auto const lease = tier.acquire(b, file_key(block), Access::write);
        auto const bytes = pattern(std::uint32_t(stamp), block_bytes);
        std::copy(bytes.begin(), bytes.end(), lease.bytes().data);
    }
    bool holds(int block, int stamp) {
        auto const lease = tier.acquire(b, file_key(block), Access::read);
        auto const bytes = pattern(std::uint32_t(stamp), block_bytes);
        return std::equal(bytes.begin(), bytes.end(), lease.bytes().data);
    }
    void prefetch(std::vector<int> const& blocks) {
        std::vector<BlockKey> keys;
        for (int const block : blocks) keys.push_back(file_key(block));
        tier.prefetch(b, keys);
    }
};
bool contains(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}
constexpr char const* lost =
    "block (layer 0, expert 0, weight) could not be written back and is lost";

} // namespace

TEST_CASE("tier/cached: a load that fails is told to who acquires it, not to the next write-back") {
    Fixture f;
    CHECK(f.holds(0, 50)); // so that block 2 gives way first
    f.device.bad_reads = 1;
    f.prefetch({1, 3}); // block 3 comes behind the write-back of block 0
    while (!f.tier.arrived(file_key(3))) std::this_thread::yield();
    CHECK(contains(store_error_of([&] { (void)f.holds(1, 1); }),
                   "block (layer 0, expert 1, weight) could not be loaded"));
    CHECK(f.holds(1, 1));
    CHECK(f.holds(3, 3));
    CHECK(f.holds(0, 50));
}

TEST_CASE("tier/cached: a block that could not be written back is not given out as it was before") {
    Fixture f;
    f.device.bad_writes = 1;
    f.prefetch({1});
    CHECK(contains(store_error_of([&] { (void)f.holds(0, 0); }), lost));
    CHECK(f.holds(0, 0)); // what the file has
    CHECK(f.holds(1, 1));
    CHECK(f.holds(2, 2));
}

TEST_CASE("tier/cached: flush tells what is lost before what could not be loaded, each once") {
    Fixture f;
    CHECK(f.holds(0, 50));
    f.device.bad_writes = 1;
    f.prefetch({refused, 1}); // into the slots of 2 and 0
    CHECK(contains(store_error_of([&] { f.tier.flush(f.b); }), lost));
    std::string const not_loaded =
        "tier::Cached: block (layer 0, expert 4, weight) could not be loaded: refused";
    CHECK(store_error_of([&] { f.tier.flush(f.b); }) == not_loaded);
    CHECK(store_error_of([&] { f.tier.flush(f.b); }) == "");
    CHECK(store_error_of([&] { (void)f.holds(refused, 0); }) == not_loaded);
    CHECK(f.holds(1, 1));
}

} // namespace cached_file_test
