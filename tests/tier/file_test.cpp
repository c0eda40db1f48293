#include "semoe/tier/store/file.hpp"

#include "semoe/testing/check_store.hpp"
#include "semoe/testing/check_tier.hpp"
#include "semoe/tier/cached.hpp"
#include "support/backends.hpp"
#include "support/direct.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

using namespace semoe;
using namespace semoe::test;

namespace {
std::vector<io::Engine> engines() {
    if (io::ring_available()) return {io::Engine::threads, io::Engine::ring};
    return {io::Engine::threads};
}
/// Flips a bit of a file.
void flip(std::string const& path, index_t byte, int bit) {
    std::string text = read_text(path);
    text[std::size_t(byte)] = char(text[std::size_t(byte)] ^ (1 << bit));
    write_text(path, text);
}
/// Each block with a pattern of its number, all of them committed.
void make_blocks(std::string const& path, std::vector<index_t> const& sizes) {
    CpuBackend b{.threads = 1};
    tier::FileStore store{path};
    for (int i = 0; i < int(sizes.size()); ++i) {
        store.declare(file_key(i), {sizes[std::size_t(i)], LayoutId::row_major});
        store_pattern(b, store, file_key(i), i);
    }
    store.commit();
}
} // namespace

TEST_CASE_TEMPLATE("tier/store/file: keeps the promises of a store", B, SEMOE_TEST_BACKENDS) {
    for (io::Engine const engine : engines())
        for (io::Way const way : {io::Way::direct, io::Way::cached}) {
            ScratchDirectory directory;
            tier::FileOptions const options{
                .way = way, .transfers = {.depth = 2, .piece_bytes = 4096, .engine = engine}};
            testing::check_store(B{}, tier::FileStore{directory / "blocks", options});
        }
}

TEST_CASE_TEMPLATE("tier/store/file: a tier over it keeps the promises of a tier", B,
                   SEMOE_TEST_BACKENDS) {
    for (io::Engine const engine : engines())
        for (index_t slots : {1, 2, 5}) {
            ScratchDirectory directory;
            int number = 0;
            testing::check_tier(B{}, [&](B& b) {
                tier::FileStore const store{directory / std::to_string(number++),
                                            {.transfers = {.engine = engine}}};
                return tier::Cached{b, store, {.slots = slots}};
            });
        }
}

TEST_CASE("tier/store/file: what was committed is there when the file is opened again") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    CpuBackend b;
    std::vector<index_t> const sizes{1, 0, 4096, 4097, 100'000, 2'000'000, 63};
    make_blocks(path, sizes);
    for (io::Way const way : {io::Way::direct, io::Way::cached, io::Way::mapped}) {
        tier::FileStore store{path, {.read_only = true, .way = way}};
        CHECK(store.way() == (way == io::Way::direct ? direct_way() : way));
        REQUIRE(store.keys().size() == sizes.size());
        for (int i = 0; i < int(sizes.size()); ++i) {
            CHECK(store.info(file_key(i)) == BlockInfo{sizes[std::size_t(i)], LayoutId::row_major});
            CHECK(holds(store, file_key(i), i));
        }
    }
    {
        tier::FileStore store{path};
        store_pattern(b, store, file_key(3), 33);
        CHECK(holds(store, file_key(3), 33)); // and not committed
    }
    tier::FileStore store{path};
    CHECK(holds(store, file_key(3), 3));
}

TEST_CASE("tier/store/file: a block of as many bytes of something else is refused by name") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    BlockInfo const known{64, LayoutId::row_major, 7}, other{64, LayoutId::row_major, 8},
        unknown{64, LayoutId::row_major};
    auto const declared = [&](tier::FileStore& store) {
        store.declare(file_key(0), known);
        store.declare(file_key(0), unknown);
        store.declare(file_key(1), unknown);
        store.declare(file_key(1), other); // nobody knows
        CHECK_THROWS_WITH_AS(store.declare(file_key(0), other),
                             doctest::Contains("exists with 64 bytes, row_major, too, but of other "
                                               "matrices or elements than it is declared with"),
                             store_error);
    };
    {
        tier::FileStore store{path};
        declared(store);
        store.commit();
    }
    tier::FileStore store{path};
    CHECK(store.info(file_key(0)) == known);
    declared(store);
}

TEST_CASE("tier/store/file: counts transfers, requests, checks and commits") {
    ScratchDirectory directory;
    CpuBackend b;
    tier::FileStore store{directory / "blocks", {.transfers = {.depth = 3, .piece_bytes = 4096}}};
    store.declare(file_key(0), {20'000, LayoutId::row_major});
    store.declare(file_key(1), {10, LayoutId::row_major});
    (void)load_bytes(store, file_key(0)); // nothing is read: it has not been stored
    store_pattern(b, store, file_key(0), 1);
    for (int i = 0; i < 3; ++i) (void)load_bytes(store, file_key(0));
    store.commit();
    store.commit(); // nothing to do
    auto const c = store.counters();
    CHECK(c.loads == 4);
    CHECK(c.stores == 1);
    CHECK(c.bytes_loaded == 80'000);
    CHECK(c.bytes_stored == 20'000);
    CHECK(c.transfers.reads == 15);
    CHECK(c.transfers.writes == 5);
    CHECK(c.transfers.bytes_read == 60'000);
    CHECK(c.transfers.bytes_written == 20'000);
    CHECK(c.transfers.most_in_flight <= 3);
    CHECK(c.checks == 1);
    CHECK(c.commits == 1);

    for (auto const& [verify, checks] :
         {std::pair{tier::Verify::never, 0}, {tier::Verify::first, 1}, {tier::Verify::always, 3}}) {
        ScratchDirectory other;
        make_blocks(other / "blocks", {5000});
        tier::FileStore opened{other / "blocks", {.read_only = true, .verify = verify}};
        for (int i = 0; i < 3; ++i) CHECK(holds(opened, file_key(0), 0));
        CHECK(opened.counters().checks == checks);
    }
}

TEST_CASE("tier/store/file: rewriting blocks takes the room of two commits and no more") {
    ScratchDirectory directory;
    CpuBackend b;
    tier::FileStore store{directory / "blocks"};
    for (int i = 0; i < 4; ++i) store.declare(file_key(i), {8192, LayoutId::row_major});
    for (int step = 0; step < 50; ++step) {
        for (int i = 0; i < 4; ++i) {
            store_pattern(b, store, file_key(i), step + i);
            store_pattern(b, store, file_key(i), step + i + 1); // over what nobody committed
        }
        store.commit();
    }
    for (int i = 0; i < 4; ++i) CHECK(holds(store, file_key(i), 50 + i));
    // Headers, four blocks twice, one more that was rewritten, two tables.
    CHECK(index_t(read_text(store.path()).size()) <= 8192 + 9 * 8192 + 2 * 4096);
}

TEST_CASE("tier/store/file: large aligned blocks and small ones, from several threads at once") {
    for (io::Engine const engine : engines()) {
        ScratchDirectory directory;
        CpuBackend b{.threads = 2};
        tier::FileStore store{directory / "blocks",
                              {.transfers = {.piece_bytes = 65'536, .engine = engine}}};
        index_t const sizes[] = {300'000, 1 << 20, 4096, 17};
        for (int i = 0; i < 4; ++i) {
            store.declare(file_key(i), {sizes[i], LayoutId::row_major});
            store_pattern(b, store, file_key(i), i);
        }
        std::atomic<int> wrong = 0;
        std::vector<std::thread> threads;
        for (int t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                CpuBackend queue = b.fork();
                Buffer<std::byte, CpuBackend> memory(b, 1 << 20);
                for (int round = 0; round < 20; ++round) {
                    int const i = (t + round) % 4;
                    Bytes<HostSpace> const bytes = memory.view().part(0, sizes[i]);
                    queue.wait(store.load(queue, file_key(i), bytes));
                    queue.synchronize();
                    wrong += HostBytes(bytes.data, bytes.data + bytes.size) !=
                             pattern(std::uint32_t(i), bytes.size);
                }
            });
        for (std::thread& thread : threads) thread.join();
        CHECK(wrong == 0);
    }
}

TEST_CASE("tier/store/file: refuses by name what is foreign, truncated or of another version") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    auto const refusal = [&] {
        return store_error_of([&] { tier::FileStore{path, {.read_only = true}}; });
    };
    CHECK(refusal() == path + ": open: No such file or directory");
    write_text(path, "short");
    CHECK(refusal() == path + ": not a file of blocks: it has 5 bytes, and the headers alone 8192");
    write_text(path, std::string(10'000, 'x'));
    CHECK(refusal() == path + ": not a file of blocks: it does not start with \"semoeblk\"");

    std::remove(path.c_str());
    make_blocks(path, {5000, 10});
    std::string const good = read_text(path);
    write_text(path, good.substr(0, good.size() - 1));
    CHECK(refusal() == path + ": the file is truncated: it has " + std::to_string(good.size() - 1) +
                           " bytes, its header says " + std::to_string(good.size()));

    for (index_t byte : {0, 9, 16, 24, 70}) { // one header may be lost
        write_text(path, good);
        flip(path, byte, 3);
        CHECK(refusal() == "");
        flip(path, 4096 + byte, 3);
        CHECK(refusal() ==
              path + (byte == 0 ? ": not a file of blocks: it does not start with \"semoeblk\""
                                : ": both headers are corrupted: their checksums are wrong"));
    }

    tier::detail::BlockHeader header;
    std::memcpy(&header, good.data(), sizeof header);
    write_text(path, good);
    flip(path, header.table_offset + 8, 0);
    CHECK(refusal() == path + ": the table of blocks is corrupted: its checksum is wrong");
    header.version = 2;
    auto const page = tier::detail::encode(header);
    write_text(path, std::string(reinterpret_cast<char const*>(page.data()), page.size()) +
                         good.substr(page.size()));
    CHECK(refusal() == path + ": version 2 of the format, this program reads version 1");
}

TEST_CASE("tier/store/file: a flipped bit in a block is found, and named") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {5000, 10});
    flip(path, 8192 + 4999, 7);
    tier::FileStore store{path};
    for (int i = 0; i < 2; ++i) // also the second time
        CHECK(store_error_of([&] { (void)load_bytes(store, file_key(0)); })
                  .starts_with(path +
                               ": block (layer 0, expert 0, weight): corrupted at byte 8192: "
                               "its checksum is "));
    CHECK(holds(store, file_key(1), 1));

    CpuBackend b;
    tier::Cached tier{b, store, {.slots = 2}};
    for (int i = 0; i < 2; ++i) tier.declare(b, file_key(i), store.info(file_key(i)));
    CHECK(store_error_of([&] { (void)tier.acquire(b, file_key(0), Access::read).bytes(); })
              .starts_with("tier::Cached: block (layer 0, expert 0, weight) could not be loaded: " +
                           path));
    store_pattern(b, store, file_key(0), 5);
    CHECK(tier.acquire(b, file_key(0), Access::read).bytes().size == 5000);
}

TEST_CASE("tier/store/file: a table that lies is refused, though its checksum is right") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {5000, 10});
    std::string const good = read_text(path);
    using tier::detail::BlockHeader, tier::detail::StoredBlock;
    BlockHeader header;
    std::memcpy(&header, good.data(), sizeof header);
    std::vector<StoredBlock> rows(2);
    std::memcpy(rows.data(), good.data() + header.table_offset, 2 * sizeof(StoredBlock));
    if (rows[0].bytes == 10) std::swap(rows[0], rows[1]);
    auto const refusal = [&](auto const& change) {
        auto h = header;
        auto r = rows;
        change(h, r);
        h.table_checksum = io::checksum(std::as_bytes(std::span(r)));
        auto const page = tier::detail::encode(h);
        std::string bad = good;
        std::memcpy(bad.data(), page.data(), page.size());
        std::memcpy(bad.data() + 4096, page.data(), page.size());
        std::memcpy(bad.data() + header.table_offset, r.data(), 2 * sizeof(StoredBlock));
        write_text(path, bad);
        return store_error_of([&] { tier::FileStore{path}; });
    };
    using Rows = std::vector<StoredBlock>;
    CHECK(refusal([](BlockHeader&, Rows&) {}) == "");
    CHECK(refusal([](BlockHeader&, Rows& r) { r[1].expert = 0; }) ==
          path + ": block (layer 0, expert 0, weight) is listed twice");
    CHECK(refusal([](BlockHeader&, Rows& r) { r[1].offset = r[0].offset + 4096; }) ==
          path + ": block (layer 0, expert 1, weight) overlaps another block or the table");
    CHECK(refusal([](BlockHeader& h, Rows& r) { r[1].offset = h.table_offset; }) ==
          path + ": block (layer 0, expert 1, weight) overlaps another block or the table");
    for (index_t const offset : {index_t(4096), index_t(8193), index_t(1) << 40, index_t(-4096)})
        CHECK(refusal([&](BlockHeader&, Rows& r) { r[1].offset = offset; }) ==
              path + ": block (layer 0, expert 1, weight) lies outside of the file");
    CHECK(refusal([](BlockHeader&, Rows& r) { r[1].bytes = -1; }) ==
          path + ": block (layer 0, expert 1, weight) lies outside of the file");
    CHECK(refusal([](BlockHeader&, Rows& r) { r[1].kind = 9; }) ==
          path + ": the table lists a block of kind 9, unknown to this program");
    CHECK(refusal([](BlockHeader& h, Rows&) { h.table_blocks = index_t(1) << 60; }) ==
          path + ": the header is corrupted: the table lies outside of the file");
}

TEST_CASE("tier/store/file: one store writes, or any number reads") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {10});
    {
        tier::FileStore const writer{path};
        CHECK(store_error_of([&] { tier::FileStore{path}; }) ==
              path + ": it is already open, here or elsewhere");
        CHECK(store_error_of([&] {
                  tier::FileStore{path, {.read_only = true}};
              }) == path + ": it is open for writing, here or elsewhere");
    }
    tier::FileStore reader{path, {.read_only = true}};
    tier::FileStore const other{path, {.read_only = true}};
    CHECK(store_error_of([&] { tier::FileStore{path}; }) != "");
    CpuBackend b;
    std::byte byte{};
    CHECK(store_error_of([&] {
              reader.declare(file_key(7), {1, LayoutId::row_major});
          }) ==
          path +
              ": block (layer 0, expert 7, weight) is not in the file, which is open for reading "
              "only");
    std::vector<std::byte> bytes(10);
    CHECK(store_error_of([&] {
              (void)reader.store(b, file_key(0), {bytes.data(), 10});
          }) == path + ": block (layer 0, expert 0, weight) cannot be stored: the file is open for "
                       "reading only");
    CHECK_THROWS_WITH_AS((void)reader.load(b, file_key(0), {&byte, 1}),
                         "tier::FileStore: block (layer 0, expert 0, weight) has 10 bytes, "
                         "row_major, the memory to transfer has 1 bytes",
                         precondition_error);
    reader.commit();
}

TEST_CASE("tier/store/file: short reads and a read that fails, with the block and the byte") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {20'000, 10});
    FaultyFileSystem system;
    system.takes_direct = false;
    tier::FileStore store{path, {.transfers = {.depth = 1, .piece_bytes = 8192}}, system};
    system.longest_transfer = 1000;
    system.interrupts = true;
    CHECK(holds(store, file_key(0), 0));
    system.interrupts = false;
    system.longest_transfer = 1 << 20;
    system.fail_at = system.operations + 1;
    CHECK(store_error_of([&] { (void)load_bytes(store, file_key(0)); }) ==
          path + ": block (layer 0, expert 0, weight): read: Input/output error, at byte 16384");
    CHECK(holds(store, file_key(0), 0));
}

TEST_CASE("tier/store/file: a slow disk keeps nobody but those who wait for it") {
    struct Slow : io::PosixFileSystem {
        std::atomic<bool> open_gate{false}, given_up{false};
        ssize_t write_at(int descriptor, void const* from, std::size_t n, index_t at) override {
            auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
            while (!open_gate && !given_up) {
                given_up = std::chrono::steady_clock::now() > end;
                std::this_thread::yield();
            }
            return io::PosixFileSystem::write_at(descriptor, from, n, at);
        }
        bool native() const override { return false; }
    } system;
    ScratchDirectory directory;
    CpuBackend b;
    system.open_gate = true;
    tier::FileStore store{directory / "blocks", {}, system};
    store.declare(file_key(0), {5000, LayoutId::row_major});
    system.open_gate = false;
    HostBytes const bytes = pattern(3, 5000);
    auto const stored = store.store(b, file_key(0), {bytes.data(), 5000});
    // The compute queue is past it, with the host.
    int sum = 0;
    b.parallel_for(1, [&](index_t) { ++sum; });
    CHECK(sum == 1);
    CHECK(!system.given_up);
    system.open_gate = true;
    b.wait(stored);
    CHECK(holds(store, file_key(0), 3));
}

TEST_CASE("tier/store/file: a layout of the user's own is kept, and compared by its number") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    CpuBackend b{.threads = 1};
    BlockInfo const own{64, LayoutId(100)};
    {
        tier::FileStore store{path};
        store.declare(file_key(0), own);
        store_pattern(b, store, file_key(0), 1);
        store.commit();
    }
    tier::FileStore store{path};
    CHECK(store.info(file_key(0)) == own);
    CHECK(holds(store, file_key(0), 1));
    store.declare(file_key(0), own);
    CHECK(store_error_of([&] {
              store.declare(file_key(0), {64, LayoutId(101)});
          }) ==
          "tier::FileStore: block (layer 0, expert 0, weight) is declared with 64 bytes, layout "
          "101, but it exists with 64 bytes, layout 100");
}

TEST_CASE("tier/store/file: what no file can hold is refused by name, and is not in the file") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {64});
    {
        tier::FileStore store{path};
        CHECK_THROWS_WITH_AS(store.declare(file_key(1), {-64, LayoutId::row_major}),
                             "tier::FileStore: block (layer 0, expert 1, weight) is declared with "
                             "-64 bytes, row_major, must not be negative",
                             precondition_error);
        CHECK_THROWS_WITH_AS(store.declare({0, 2, BlockKind(9)}, {64, LayoutId::row_major}),
                             "tier::FileStore: block (layer 0, expert 2, unknown) is of kind 9, "
                             "must be below 4",
                             precondition_error);
        store.declare(file_key(3), {64, LayoutId::row_major});
        store.commit();
    }
    tier::FileStore store{path};
    CHECK(store.keys() == std::vector{file_key(0), file_key(3)});
    CHECK(holds(store, file_key(0), 0));
}

TEST_CASE("tier/store/file: a header's number never begins anew") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    make_blocks(path, {64});
    auto const number = [&](std::uint64_t sequence) {
        tier::detail::BlockHeader header;
        std::string text = read_text(path);
        std::memcpy(&header, text.data(), sizeof header);
        header.sequence = sequence;
        auto const page = tier::detail::encode(header);
        for (std::size_t i = 0; i < 2; ++i)
            std::memcpy(text.data() + i * page.size(), page.data(), page.size());
        write_text(path, text);
    };
    number(~std::uint64_t(0));
    CHECK(store_error_of([&] { tier::FileStore{path}; }) ==
          path + ": the header is corrupted: its number leaves none for another commit");
    number(~std::uint64_t(0) - 1);
    {
        CpuBackend b{.threads = 1};
        tier::FileStore store{path};
        store.commit(); // nothing to do
        store_pattern(b, store, file_key(0), 1);
        CHECK(store_error_of([&] { store.commit(); }) ==
              path + ": its header's number leaves none for another commit");
    }
    tier::FileStore store{path};
    CHECK(holds(store, file_key(0), 0));
}
