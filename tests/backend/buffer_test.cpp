#include "semoe/backend/buffer.hpp"

#include "semoe/backend/cpu/cpu.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <type_traits>
#include <utility>
#include <vector>

using namespace semoe;

TEST_CASE_TEMPLATE("backend/buffer: a buffer moves and never copies", B, SEMOE_TEST_BACKENDS) {
    static_assert(!std::is_copy_constructible_v<Buffer<int, B>>);
    static_assert(std::is_nothrow_move_constructible_v<Buffer<int, B>>);
    B b{};
    Buffer<int, B> first = test::to_backend(b, std::vector<int>{1, 2, 3});
    int* const memory = first.data();
    Buffer<int, B> second = std::move(first);
    CHECK(second.data() == memory);
    CHECK(first.data() == nullptr);
    CHECK(first.size() == 0);
    Buffer<int, B> third;
    third = std::move(second);
    CHECK(third.data() == memory);
    CHECK(test::to_host(b, third) == std::vector<int>{1, 2, 3});
    CHECK(third.view().size == 3);
    CHECK(third.matrix(1, 3).ld == 3);
}

TEST_CASE_TEMPLATE("backend/buffer: an empty buffer holds no memory", B, SEMOE_TEST_BACKENDS) {
    B b{};
    Buffer<double, B> none(b, 0), unset;
    CHECK(none.data() == nullptr);
    CHECK(none.view().empty());
    CHECK(unset.size() == 0);
    CHECK(test::to_host(b, none).empty());
}

TEST_CASE("backend/buffer: a size that no memory has is refused") {
    CpuBackend const b;
    using Numbers = Buffer<double, CpuBackend>;
    CHECK_THROWS_WITH_AS(Numbers(b, -1), "Buffer: -1 elements of 8 bytes", precondition_error);
    CHECK_THROWS_AS(Numbers(b, index_t(1) << 61), precondition_error);
}

TEST_CASE("backend/buffer: memory is returned once, with the size that was asked for") {
    CpuBackend b{.threads = 1};
    {
        Buffer<double, CpuBackend> first(b, 10), second(b, 20);
        CHECK(b.counters().bytes_in_use == 240);
        second = std::move(first);
        Buffer<double, CpuBackend> const third = std::move(second);
    }
    CHECK(b.counters().bytes_in_use == 0);
    CHECK(b.counters().allocations == 2);
    CHECK(b.counters().deallocations == 2);
}
