#include "semoe/tier/store/write_blocks.hpp"

#include "semoe/tier/cached.hpp"
#include "semoe/tier/resident.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/backends.hpp"
#include "tier/file_blocks.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::test;

namespace {
constexpr index_t sizes[] = {0, 1, 5000, 8192};
std::vector<BlockKey> const keys{file_key(2), file_key(0), file_key(3), file_key(1)};

bool holds_all(std::string const& path) {
    tier::FileStore store{path, {.read_only = true}};
    bool right = store.keys().size() == 4;
    for (int i = 0; i < 4 && right; ++i) right = holds(store, file_key(i), i);
    return right;
}
} // namespace

TEST_CASE_TEMPLATE("tier/store/write_blocks: blocks of a tier, of a store and of a file", B,
                   SEMOE_TEST_BACKENDS) {
    ScratchDirectory directory;
    B b;
    tier::HostStore host;
    tier::Resident<B> resident{b};
    tier::Cached cached{b, host, {.slots = 1}};
    for (int i = 0; i < 4; ++i) {
        BlockInfo const info{sizes[i], LayoutId::row_major};
        auto const fill = [&](auto& tier) {
            tier.declare(b, file_key(i), info);
            auto const lease = tier.acquire(b, file_key(i), Access::overwrite);
            b.parallel_for(info.bytes,
                           testing::detail::StampFn{lease.bytes().data, std::uint32_t(i)});
        };
        fill(resident);
        fill(cached);
    }
    cached.flush(b);
    tier::write_blocks(b, resident, keys, directory / "a");
    tier::write_blocks(b, cached, keys, directory / "b");
    tier::write_blocks(b, host, keys, directory / "c");
    tier::FileStore file{directory / "c", {.read_only = true}};
    tier::write_blocks(b, file, keys, directory / "d");
    for (char const* name : {"a", "b", "c", "d"}) CHECK(holds_all(directory / name));
}

TEST_CASE("tier/store/write_blocks: a block that is not there is named, and there is no file") {
    ScratchDirectory directory;
    CpuBackend b;
    tier::HostStore host;
    CHECK(store_error_of([&] { tier::write_blocks(b, host, keys, directory / "a"); }) ==
          "tier::HostStore: block (layer 0, expert 2, weight) was never declared");
    CHECK(directory.list().empty());
}

TEST_CASE("tier/store/write_blocks: a block for which there is no memory is named") {
    ScratchDirectory directory;
    CpuBackend b{.allocator = {.allocate = [](std::size_t n, void*) -> void* {
                     return n > 1 << 20 ? nullptr : cpu::HostMemory::allocate(n);
                 }}};
    tier::FileStore file{directory / "a"};
    file.declare(file_key(0), {1 << 21, LayoutId::row_major});
    CHECK(store_error_of(
              [&] { tier::write_blocks(b, file, std::vector{file_key(0)}, directory / "b"); })
              .starts_with("tier::write_blocks: no memory for block (layer 0, expert 0, weight), "
                           "2097152 bytes, row_major: backend: out of memory"));
    CHECK(directory.list() == std::vector<std::string>{"a"});
}
