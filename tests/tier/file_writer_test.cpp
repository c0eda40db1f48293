#include "semoe/tier/store/file_writer.hpp"

#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

#include <algorithm>

using namespace semoe;
using namespace semoe::test;

TEST_CASE("tier/store/file_writer: its file is one that FileStore reads, aligned to pages") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    for (std::vector<index_t> const& sizes :
         {std::vector<index_t>{}, {0}, {1, 4096, 0, 4097, 50'000}}) {
        tier::FileWriter writer{path};
        for (int i = 0; i < int(sizes.size()); ++i)
            writer.write(file_key(i), {sizes[std::size_t(i)], LayoutId::panels_16},
                         pattern(std::uint32_t(i), sizes[std::size_t(i)]));
        writer.commit();
        CHECK(directory.list() == std::vector<std::string>{"blocks"});
        for (bool const read_only : {true, false}) {
            tier::FileStore store{path, {.read_only = read_only}};
            REQUIRE(store.keys().size() == sizes.size());
            for (int i = 0; i < int(sizes.size()); ++i) {
                CHECK(store.info(file_key(i)).layout == LayoutId::panels_16);
                CHECK(holds(store, file_key(i), i));
            }
        }
    }
    CpuBackend b; // and it can be written on
    tier::FileStore store{path};
    for (int i = 0; i < 5; ++i) store_pattern(b, store, file_key(i), i + 10);
    store.commit();
    for (int i = 0; i < 5; ++i) CHECK(holds(store, file_key(i), i + 10));
}

TEST_CASE("tier/store/file_writer: until commit, and after any failure, the previous file stands") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    index_t operations = 0;
    for (index_t fail_at = -1; fail_at < operations; ++fail_at) {
        write_text(path, "previous");
        FaultyFileSystem system;
        system.fail_at = fail_at;
        std::string const error = store_error_of([&] {
            tier::FileWriter writer{path, system};
            for (int i = 0; i < 3; ++i)
                writer.write(file_key(i), {5000, LayoutId::row_major},
                             pattern(std::uint32_t(i), 5000));
            if (fail_at >= 0) CHECK(read_text(path) == "previous");
            writer.commit();
        });
        operations = fail_at < 0 ? system.operations : operations;
        CAPTURE(fail_at);
        CHECK(system.open_files.empty());
        if (fail_at >= 0 && read_text(path) == "previous") {
            CHECK(error.find("Input/output error") != std::string::npos);
            continue;
        }
        // Of what follows the rename, a failed fsync is told; the file is whole.
        auto const renamed = std::find(system.log.begin(), system.log.end(), "rename");
        CHECK(renamed - system.log.begin() < (fail_at < 0 ? operations : fail_at));
        std::string const failed = fail_at < 0 ? "" : system.log[std::size_t(fail_at)];
        CHECK(error.empty() == (failed == "" || failed == "close"));
        tier::FileStore store{path, {.read_only = true}};
        for (int i = 0; i < 3; ++i)
            CHECK(load_bytes(store, file_key(i)) == pattern(std::uint32_t(i), 5000));
    }
    CHECK(operations >= 9);
}

TEST_CASE("tier/store/file_writer: a block of another size, or a second one, is refused by name") {
    ScratchDirectory directory;
    tier::FileWriter writer{directory / "blocks"};
    writer.write(file_key(1), {3, LayoutId::row_major}, pattern(1, 3));
    CHECK_THROWS_WITH_AS(writer.write(file_key(1), {3, LayoutId::row_major}, pattern(1, 3)),
                         "tier::FileWriter: block (layer 0, expert 1, weight) is written twice",
                         precondition_error);
    CHECK_THROWS_WITH_AS(writer.write(file_key(2), {3, LayoutId::row_major}, pattern(1, 4)),
                         "tier::FileWriter: block (layer 0, expert 2, weight) has 3 bytes, "
                         "row_major, the memory to write has 4 bytes",
                         precondition_error);
}

TEST_CASE("tier/store/file_writer: a block that could not be written is not in the file, and may "
          "be written again") {
    for (bool const again : {false, true}) {
        ScratchDirectory directory;
        std::string const path = directory / "blocks";
        FaultyFileSystem system;
        system.error = ENOSPC;
        tier::FileWriter writer{path, system};
        auto const write = [&](int i) {
            writer.write(file_key(i), {5000, LayoutId::row_major}, pattern(std::uint32_t(i), 5000));
        };
        write(0);
        system.fail_at = system.operations;
        CHECK(store_error_of([&] { write(1); }).starts_with(path + ": write: No space left"));
        if (again) write(1);
        write(2);
        writer.commit();
        tier::FileStore store{path, {.read_only = true}};
        std::vector<BlockKey> expected{file_key(0), file_key(2)};
        if (again) expected.insert(expected.begin() + 1, file_key(1));
        CHECK(store.keys() == expected);
        for (BlockKey const key : expected) CHECK(holds(store, key, key.expert));
    }
}

TEST_CASE(
    "tier/store/file_writer: any layout is written, and of a kind that there is not nothing") {
    ScratchDirectory directory;
    std::string const path = directory / "blocks";
    tier::FileWriter writer{path};
    writer.write(file_key(1), {3, LayoutId(100)}, pattern(1, 3));
    CHECK_THROWS_WITH_AS(
        writer.write({0, 2, BlockKind(9)}, {3, LayoutId::row_major}, pattern(1, 3)),
        "tier::FileWriter: block (layer 0, expert 2, unknown) is of kind 9, must be below 4",
        precondition_error);
    CHECK_THROWS_WITH_AS(writer.write(file_key(2), {-3, LayoutId::row_major}, {}),
                         "tier::FileWriter: block (layer 0, expert 2, weight) is declared with -3 "
                         "bytes, row_major, must not be negative",
                         precondition_error);
    writer.commit();
    tier::FileStore store{path};
    CHECK(store.info(file_key(1)) == BlockInfo{3, LayoutId(100)});
    CHECK(store.keys().size() == 1);
}
