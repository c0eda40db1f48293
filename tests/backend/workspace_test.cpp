#include "semoe/backend/workspace.hpp"

#include "support/backends.hpp"

#include <cstdint>
#include <doctest/doctest.h>

using namespace semoe;

namespace {

/// What a layer would carve: the same code counts and takes.
template <class Space>
index_t carve(Arena<Space>& arena) {
    arena.template take<float>(3);
    arena.template take<double>(0);
    arena.template take<std::int8_t>(65);
    arena.template take<std::uint16_t>(7, 11);
    return arena.used();
}

} // namespace

TEST_CASE_TEMPLATE("backend/workspace: an arena over no memory says how much is needed", B,
                   SEMOE_TEST_BACKENDS) {
    Arena<space_of<B>> counting;
    index_t const bytes = carve(counting);
    CHECK(bytes == 64 + 0 + 128 + 192);
    CHECK(counting.template take<float>(5).data == nullptr);

    B b{};
    Workspace<B> const workspace(b, bytes);
    CHECK(workspace.size_bytes() == bytes);
    auto arena = workspace.arena();
    CHECK(carve(arena) == bytes);
    CHECK_THROWS_WITH_AS(arena.template take<std::byte>(1), "Arena: 448 bytes needed, 384 reserved",
                         precondition_error);
}

TEST_CASE_TEMPLATE("backend/workspace: one of no bytes holds nothing, it does not count", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    Workspace<B> const workspace(b, 0);
    auto arena = workspace.arena();
    CHECK(arena.template take<float>(0).size == 0);
    CHECK_THROWS_WITH_AS(arena.template take<float>(1), "Arena: 64 bytes needed, 0 reserved",
                         precondition_error);
}

TEST_CASE_TEMPLATE("backend/workspace: parts are aligned, apart and the same each time", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    Workspace<B> const workspace(b, 1024);
    auto arena = workspace.arena();
    auto const first = arena.template take<float>(3);
    auto const second = arena.template take<double>(2, 5);
    CHECK(reinterpret_cast<std::uintptr_t>(first.data) % 64 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(second.data) % 64 == 0);
    CHECK(reinterpret_cast<std::byte*>(second.data) - reinterpret_cast<std::byte*>(first.data) ==
          64);
    CHECK(second.rows == 2);
    CHECK(second.ld == 5);
    CHECK(workspace.arena().template take<float>(3).data == first.data);
}

TEST_CASE("backend/workspace: sizes past 2^31 elements are counted in 64 bits") {
    Arena<HostSpace> counting;
    counting.take<double>(index_t(1) << 20, index_t(1) << 13);
    CHECK(counting.used() == index_t(1) << 36);
}
