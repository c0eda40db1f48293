#include "semoe/checkpoint/writer.hpp"

#include "semoe/checkpoint/reader.hpp"
#include "support/backends.hpp"
#include "support/faulty_file_system.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

namespace semoe::test {

/// A host backend that counts: the work of a copy is done at once.
struct CountingBackend {
    struct Counters {
        index_t copies = 0, bytes = 0, largest = 0, waits = 0;
    };
    using space = HostSpace;
    struct event_type {};
    Counters* counters;

    void* allocate(std::size_t n) { return ::operator new (n, std::align_val_t{64}); }
    void deallocate(void* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
    void copy(void* to, void const* from, std::size_t n) {
        std::memcpy(to, from, n);
        ++counters->copies;
        counters->bytes += index_t(n);
        counters->largest = std::max(counters->largest, index_t(n));
    }
    event_type record() { return {}; }
    void wait(event_type) {}
    void synchronize() { ++counters->waits; }
    CountingBackend fork() { return *this; }
    template <class F>
    void parallel_for(index_t n, F f) {
        for (index_t i = 0; i < n; ++i) f(i);
    }
};
static_assert(Backend<CountingBackend>);

} // namespace semoe::test

using namespace semoe;
using namespace semoe::checkpoint;
using namespace semoe::test;

TEST_CASE_TEMPLATE("checkpoint/writer: views of backend memory come back as they were", B,
                   SEMOE_TEST_BACKENDS) {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    B b{};
    auto const floats = random_values<float>(1, 7 * 11);
    auto const halves = random_values<bf16>(2, 13);
    auto matrix = to_backend(b, floats);
    auto vector = to_backend(b, halves);
    using S = space_of<B>;
    MatrixView<float, S> const padded{matrix.data() + 1, 6, 10, 11}; // inside the matrix
    VectorView<bf16 const, S> const flat = vector.view();
    MatrixView<float, S> const none{nullptr, 0, 5, 5};
    for (index_t chunk : {index_t(1), index_t(64), index_t(4) << 20}) {
        Writer writer{path, io::default_file_system(), chunk};
        writer.declare("padded", padded);
        writer.declare("flat", flat);
        writer.declare("none", none);
        writer.write(b, "flat", flat);
        writer.write(b, "none", none);
        writer.write(b, "padded", padded);
        writer.commit();

        Reader reader{path};
        auto matrix_back = to_backend(b, std::vector<float>(77, -1.0f));
        auto vector_back = to_backend(b, std::vector<bf16>(13));
        reader.read(b, "padded", MatrixView<float, S>{matrix_back.data() + 1, 6, 10, 11});
        reader.read(b, "flat", vector_back.view());
        reader.read(b, "none", none);
        reader.expect_all_read();
        auto const back = to_host(b, matrix_back);
        for (std::size_t i = 0; i < 77; ++i) {
            std::size_t const r = (i - 1) / 11, c = (i - 1) % 11;
            bool const inside = i > 0 && r < 6 && c < 10;
            CHECK(back[i] == (inside ? floats[i] : -1.0f));
        }
        auto const halves_back = to_host(b, vector_back);
        CHECK(std::memcmp(halves_back.data(), halves.data(), 26) == 0);
    }
}

TEST_CASE("checkpoint/writer: memory passes through in copies of at most a chunk, each byte once") {
    ScratchDirectory directory;
    CountingBackend::Counters counters;
    CountingBackend b{&counters};
    std::vector<float> values(100, 1.5f);
    MatrixView<float, HostSpace> const packed{values.data(), 10, 10},
        padded{values.data(), 10, 7, 10};
    Writer writer{directory / "f", io::default_file_system(), 64};
    writer.declare("packed", packed);
    writer.declare("padded", padded);
    writer.write(b, "packed", packed);
    CHECK(counters.bytes == 400);
    CHECK(counters.largest == 64);
    CHECK(counters.copies == 7); // packed rows travel as one run
    CHECK(counters.waits == 7);
    counters = {};
    writer.write(b, "padded", padded);
    CHECK(counters.bytes == 280);
    CHECK(counters.waits == 5);
    writer.commit();
}

TEST_CASE("checkpoint/writer: a view of another shape or type than was declared is refused") {
    ScratchDirectory directory;
    CpuBackend b{};
    std::vector<float> values(12);
    Writer writer{directory / "f"};
    writer.declare("a", VectorView<float, HostSpace>{values.data(), 10});
    auto const refused = [&](auto view, char const* as) {
        CHECK_THROWS_WITH_AS(
            writer.write(b, "a", view),
            (directory / "f: tensor 'a': declared otherwise than as ").append(as).c_str(),
            precondition_error);
    };
    refused(VectorView<float, HostSpace>{values.data(), 12}, "F32 [12]");
    refused(VectorView<float, HostSpace>{values.data(), 9}, "F32 [9]");
    refused(MatrixView<float, HostSpace>{values.data(), 2, 5}, "F32 [2,5]");
    refused(VectorView<std::int32_t, HostSpace>{nullptr, 10}, "I32 [10]");
    CHECK_THROWS_WITH_AS(writer.commit(),
                         (directory / "f: tensor 'a': 0 of 40 bytes were written").c_str(),
                         precondition_error);
}

TEST_CASE("checkpoint/writer: a tensor whose write failed may be written again whole, whatever its "
          "size") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    CpuBackend b{};
    auto const values = random_values<float>(3, 10 * 10);
    MatrixView<float const, HostSpace> const packed{values.data(), 10, 10},
        padded{values.data(), 10, 7, 10};
    for (index_t const chunk : {index_t(64), index_t(4) << 20})
        for (std::size_t const longest : {std::size_t(-1), std::size_t(50)}) {
            FaultyFileSystem system;
            system.longest_transfer = longest;
            Writer writer{path, system, chunk};
            writer.declare("packed", packed);
            writer.declare("padded", padded);
            for (auto const& [name, view] :
                 {std::pair("packed", packed), std::pair("padded", padded)})
                for (index_t n = 0;; ++n) { // the n-th operation of a whole write
                    system.failed = false;
                    system.fail_at = system.operations + n;
                    try {
                        writer.write(b, name, view);
                    } catch (store_error const&) {
                        CAPTURE(n);
                        REQUIRE(system.failed);
                        continue;
                    }
                    REQUIRE_FALSE(system.failed);
                    break;
                }
            system.fail_at = -1;
            writer.commit();
            Reader reader{path};
            std::vector<float> back(100), part(70);
            reader.read(b, "packed", MatrixView<float, HostSpace>{back.data(), 10, 10});
            reader.read(b, "padded", MatrixView<float, HostSpace>{part.data(), 10, 7});
            CHECK(back == values);
            for (std::size_t i = 0; i < 70; ++i) CHECK(part[i] == values[i / 7 * 10 + i % 7]);
        }
}

TEST_CASE("checkpoint/writer: of a view that is refused nothing counts as written") {
    ScratchDirectory directory;
    CpuBackend b{};
    std::vector<float> const values(100, 1.5f);
    Writer writer{directory / "f", io::default_file_system(), 64};
    VectorView<float const, HostSpace> const declared{values.data(), 60}, longer{values.data(), 90};
    writer.declare("a", declared);
    CHECK_THROWS_AS(writer.write(b, "a", longer), precondition_error);
    CHECK_THROWS_AS(writer.write(b, "b", longer), precondition_error);
    writer.write(b, "a", declared);
    CHECK_NOTHROW(writer.commit());
}
