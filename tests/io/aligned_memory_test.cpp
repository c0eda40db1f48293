#include "semoe/io/aligned_memory.hpp"

#include <doctest/doctest.h>

using namespace semoe::io;

TEST_CASE("io/aligned_memory: begins at a page, and moves") {
    CHECK(round_up(0) == 0);
    CHECK(round_up(1) == 4096);
    CHECK(round_up(4096) == 4096);
    CHECK(round_up(4097) == 8192);
    AlignedMemory memory(10);
    CHECK(is_aligned(memory.data()));
    CHECK_FALSE(is_aligned(memory.data() + 64));
    std::byte* const data = memory.data();
    AlignedMemory other = std::move(memory);
    CHECK(other.data() == data);
    CHECK(other.size() == 10);
    memory = AlignedMemory(5);
    std::swap(memory, other);
    CHECK(memory.data() == data);
}
