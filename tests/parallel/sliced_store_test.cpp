#include "semoe/parallel/sliced_store.hpp"

#include "semoe/comm/self.hpp"
#include "semoe/comm/threads.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/testing/check_store.hpp"
#include "support/backends.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

using namespace semoe;
using namespace std::chrono_literals;
using parallel::SlicedStore;
using testing::detail::HostBytes;
using testing::detail::pattern;

namespace {

constexpr BlockKey key_of(index_t i, BlockKind kind = BlockKind::weight) {
    return {layer_id(i), shared_block, kind};
}
template <class S>
void put(CpuBackend& b, S& store, BlockKey key, HostBytes const& bytes) {
    store.declare(key, {index_t(bytes.size()), LayoutId::row_major});
    b.wait(store.store(b, key, ConstBytes<HostSpace>{bytes.data(), index_t(bytes.size())}));
}
/// What a load brings, and that it writes nothing beyond.
template <class S>
HostBytes get(CpuBackend& b, S& store, BlockKey key) {
    std::size_t const n = std::size_t(store.info(key).bytes), guard = 64;
    HostBytes bytes(n + 2 * guard, std::byte{0xEE});
    b.wait(store.load(b, key, Bytes<HostSpace>{bytes.data() + guard, index_t(n)}));
    auto const untouched = [](std::byte byte) { return byte == std::byte{0xEE}; };
    CHECK(std::all_of(bytes.begin(), bytes.begin() + guard, untouched));
    CHECK(std::all_of(bytes.end() - guard, bytes.end(), untouched));
    return {bytes.begin() + guard, bytes.end() - guard};
}
/// A store that cannot be read.
struct Unreadable {
    static constexpr bool fails_late = false;
    tier::HostStore blocks;

    void declare(BlockKey key, BlockInfo info) { blocks.declare(key, info); }
    bool contains(BlockKey key) const { return blocks.contains(key); }
    BlockInfo info(BlockKey key) const { return blocks.info(key); }
    template <Backend B>
    typename B::event_type load(B&, BlockKey, Bytes<space_of<B>>) {
        throw store_error("it is gone");
    }
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        return blocks.store(b, key, src);
    }
};
void on_ranks(int ranks, auto const& body) { comm::ThreadWorld{ranks, {.timeout = 10s}}.run(body); }

} // namespace

TEST_CASE_TEMPLATE("parallel/sliced_store: keeps the promises of a store on 1 to 4 ranks", B,
                   SEMOE_TEST_BACKENDS) {
    static_assert(BlockStore<SlicedStore<comm::Threads>, B>);
    testing::check_store(B{}, SlicedStore{comm::Self{}});
    for (int ranks : {1, 2, 3, 4}) {
        CAPTURE(ranks);
        CHECK_NOTHROW(on_ranks(ranks, [](comm::Threads rank) {
            testing::check_store(B{}, SlicedStore{rank});
            testing::check_store(B{}.fork(), SlicedStore{rank});
        }));
    }
}

TEST_CASE("parallel/sliced_store: a rank keeps one part of the bytes, and less than a granule a "
          "rank more") {
    constexpr index_t granule = SlicedStore<comm::Threads>::granule;
    for (int ranks : {1, 2, 3, 4, 7})
        for (index_t bytes :
             {index_t(0), index_t(1), index_t(ranks - 1), granule - 1, granule * ranks - 1,
              granule * ranks, granule * ranks + 1, index_t(99991)}) {
            CAPTURE(ranks);
            CAPTURE(bytes);
            index_t const slice = bytes / ranks / granule * granule;
            index_t const rest = bytes - ranks * slice;
            std::vector<HostBytes> loaded(static_cast<std::size_t>(ranks));
            std::vector<parallel::SliceCounters> counters(static_cast<std::size_t>(ranks));
            on_ranks(ranks, [&](comm::Threads rank) {
                CpuBackend b{.threads = 1};
                SlicedStore store{rank};
                auto const r = std::size_t(rank.rank());
                put(b, store, key_of(1), pattern(7, bytes));
                CHECK(rank.counters().collectives == 0);
                loaded[r] = get(b, store, key_of(1));
                counters[r] = store.counters();
                CHECK(rank.counters().collectives == counters[r].gathers);
                CHECK(rank.counters().bytes_received == counters[r].bytes_received);
            });
            for (std::size_t r = 0; r < loaded.size(); ++r) {
                CHECK(loaded[r] == pattern(7, bytes));
                CHECK(counters[r].blocks == 1);
                CHECK(counters[r].bytes_kept == slice + rest);
                CHECK(counters[r].bytes_kept - bytes / ranks < granule * ranks);
                CHECK(counters[r].gathers == (slice > 0));
                CHECK(counters[r].bytes_received == (ranks - 1) * slice);
            }
        }
}

TEST_CASE("parallel/sliced_store: what a rank stores is its own slice alone") {
    on_ranks(3, [](comm::Threads rank) {
        CpuBackend b{.threads = 1};
        SlicedStore store{rank};
        index_t const bytes = 3 * 512;
        put(b, store, key_of(0), pattern(std::uint32_t(rank.rank()), bytes));
        HostBytes expected;
        for (std::uint32_t r = 0; r < 3; ++r) {
            auto const part = pattern(r, bytes);
            expected.insert(expected.end(), part.begin() + r * 512, part.begin() + (r + 1) * 512);
        }
        CHECK(get(b, store, key_of(0)) == expected);
    });
}

TEST_CASE("parallel/sliced_store: many parameters in one block are one gather, and the bytes of "
          "a gather each") {
    std::vector<index_t> sizes;
    for (index_t i = 0; i < 100; ++i) sizes.push_back(4 * (1 + i * i * 37 % 1999));
    index_t total = 0;
    for (index_t bytes : sizes) total += bytes;
    on_ranks(4, [&](comm::Threads rank) {
        CpuBackend b{.threads = 1};
        SlicedStore apart{rank}, fused{rank};
        HostBytes all;
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            auto const bytes = pattern(std::uint32_t(i), sizes[i]);
            put(b, apart, key_of(index_t(i)), bytes);
            all.insert(all.end(), bytes.begin(), bytes.end());
        }
        put(b, fused, key_of(0), all);
        auto const whole = get(b, fused, key_of(0));
        CHECK(fused.counters().gathers == 1);
        std::ptrdiff_t at = 0;
        for (std::size_t i = 0; i < sizes.size(); ++i, at += sizes[i - 1])
            CHECK(get(b, apart, key_of(index_t(i))) ==
                  HostBytes(whole.begin() + at, whole.begin() + at + sizes[i]));
        CHECK(apart.counters().gathers > 80);
        CHECK(fused.counters().bytes_kept < apart.counters().bytes_kept);
        CHECK(fused.counters().bytes_kept < total / 4 + 4 * 256);
    });
}

TEST_CASE("parallel/sliced_store: a rank that fails, stays away or loads another block is told "
          "to every rank") {
    auto const errors = [](auto timeout, auto const& load_on) {
        std::vector<std::string> texts(3);
        auto const run = [&] {
            comm::ThreadWorld{3, {.timeout = timeout}}.run([&](comm::Threads rank) {
                CpuBackend b{.threads = 1};
                SlicedStore store{rank};
                put(b, store, key_of(0), pattern(0, 5000));
                put(b, store, key_of(1), pattern(1, 9000));
                try {
                    load_on(rank, b, store);
                } catch (comm_error const& error) {
                    texts[std::size_t(rank.rank())] = error.what();
                    throw;
                }
            });
        };
        CHECK_THROWS(run());
        return texts;
    };
    auto const thrown = errors(60s, [](comm::Threads rank, CpuBackend& b, auto& store) {
        if (rank.rank() == 1) throw std::runtime_error("out of luck");
        get(b, store, key_of(0));
    });
    for (int r : {0, 2}) CHECK(thrown[std::size_t(r)].find("out of luck") != std::string::npos);
    auto const absent = errors(2s, [](comm::Threads rank, CpuBackend& b, auto& store) {
        if (rank.rank() != 2) get(b, store, key_of(0));
    });
    for (int r : {0, 1}) CHECK(absent[std::size_t(r)].find("missing: rank 2") != std::string::npos);
    auto const other = errors(60s, [](comm::Threads rank, CpuBackend& b, auto& store) {
        get(b, store, key_of(rank.rank() == 0));
    });
    for (auto const& text : other)
        CHECK(text.find("rank 0 calls all_gather (2816 bytes a rank), rank 1 calls all_gather "
                        "(1536 bytes a rank)") != std::string::npos);
}

TEST_CASE("parallel/sliced_store: a rank that cannot load its slice keeps no other one waiting") {
    std::vector<std::string> texts(3);
    on_ranks(3, [&](comm::Threads rank) {
        CpuBackend b{.threads = 1};
        try {
            if (rank.rank() == 1) {
                SlicedStore store{rank, Unreadable{}};
                put(b, store, key_of(4), pattern(0, 5000));
                get(b, store, key_of(4));
            } else {
                SlicedStore store{rank};
                put(b, store, key_of(4), pattern(0, 5000));
                get(b, store, key_of(4));
            }
        } catch (std::runtime_error const& error) {
            texts[std::size_t(rank.rank())] = error.what();
        }
    });
    CHECK(texts[1] == "it is gone");
    for (int r : {0, 2})
        CHECK(texts[std::size_t(r)].find("rank 1 could not load its slice of block (layer 4, "
                                         "shared expert, weight)") != std::string::npos);
}

TEST_CASE("parallel/sliced_store: slices of another one are not taken for whole blocks") {
    CpuBackend b{.threads = 1};
    tier::HostStore slices;
    SlicedStore first{comm::Self{}, slices}, second{comm::Self{}, slices};
    put(b, first, key_of(0), pattern(0, 1000));
    CHECK_THROWS_WITH_AS(
        second.declare(key_of(0), {1000, LayoutId::row_major}),
        doctest::Contains("the slices have block (layer 0, shared expert, weight)"), store_error);
    CHECK(get(b, first, key_of(0)) == pattern(0, 1000));
}

TEST_CASE("parallel/sliced_store: a transfer of another size names the block and both sizes") {
    CpuBackend b{.threads = 1};
    SlicedStore store{comm::Self{}};
    store.declare(key_of(1), {10, LayoutId::row_major});
    std::vector<std::byte> memory(16);
    auto const message = "parallel::SlicedStore: block (layer 1, shared expert, weight) has 10 "
                         "bytes, row_major, the memory to transfer has 16 bytes";
    CHECK_THROWS_WITH_AS((void)store.load(b, key_of(1), {memory.data(), 16}), message,
                         precondition_error);
    CHECK_THROWS_WITH_AS((void)store.store(b, key_of(1), {memory.data(), 16}), message,
                         precondition_error);
}
