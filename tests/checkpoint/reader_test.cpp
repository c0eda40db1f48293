#include "semoe/checkpoint/reader.hpp"

#include "semoe/checkpoint/safetensors_writer.hpp"
#include "support/backends.hpp"
#include "support/faulty_file_system.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>

using namespace semoe;
using namespace semoe::checkpoint;
using namespace semoe::test;

namespace {
/// "m" F32 [2,3] of 0 to 5, "v" I32 [2], "s" F64 [].
std::string written(ScratchDirectory const& directory) {
    std::string const path = directory / "f";
    index_t const m[] = {2, 3}, v[] = {2};
    float const floats[] = {0, 1, 2, 3, 4, 5};
    std::int32_t const ints[] = {-1, 7};
    double const scalar = 0.5;
    SafetensorsWriter writer{path};
    writer.declare("m", Dtype::F32, m);
    writer.declare("v", Dtype::I32, v);
    writer.declare("s", Dtype::F64, {});
    writer.write("m", std::as_bytes(std::span(floats)));
    writer.write("v", std::as_bytes(std::span(ints)));
    writer.write("s", std::as_bytes(std::span(&scalar, 1)));
    writer.commit();
    return path;
}
template <class T>
MatrixView<T, HostSpace> shaped(index_t rows, index_t cols) {
    return {nullptr, rows, cols};
}
} // namespace

TEST_CASE_TEMPLATE("checkpoint/reader: tensors arrive in backend memory, padding is left alone", B,
                   SEMOE_TEST_BACKENDS) {
    ScratchDirectory directory;
    B b{};
    auto matrix = to_backend(b, std::vector<float>(10, -1.0f));
    auto vector = to_backend(b, std::vector<std::int32_t>(2));
    // Each reader is gone before anybody waits for the queue.
    std::string const path = written(directory);
    Reader{path}.read(b, "m", MatrixView<float, space_of<B>>{matrix.data() + 1, 2, 3, 5});
    b.synchronize();
    Reader{path}.read(b, "v", vector.view());
    CHECK(to_host(b, matrix) == std::vector<float>{-1, 0, 1, 2, -1, -1, 3, 4, 5, -1});
    CHECK(to_host(b, vector) == std::vector<std::int32_t>{-1, 7});
}

TEST_CASE("checkpoint/reader: what differs is named, both as it is and as it should be") {
    ScratchDirectory directory;
    std::string const path = written(directory);
    Reader reader{path};
    auto const message = [&](auto const& f) {
        try {
            f();
        } catch (store_error const& error) {
            return std::string(error.what());
        }
        return std::string("nothing thrown");
    };
    CHECK(message([&] { reader.check("w", shaped<float>(2, 3)); }) ==
          path + ": tensor 'w': missing");
    CHECK(message([&] { reader.check("m", shaped<float>(3, 2)); }) ==
          path + ": tensor 'm': shape is [2,3], this model has [3,2]");
    CHECK(message([&] {
              reader.check("m", VectorView<float, HostSpace>{nullptr, 6});
          }) == path + ": tensor 'm': shape is [2,3], this model has [6]");
    CHECK(message([&] { reader.check("m", shaped<bf16>(2, 3)); }) ==
          path + ": tensor 'm': dtype is F32, this model has BF16");
    CHECK(message([&] {
              reader.check("v", VectorView<float, HostSpace>{nullptr, 2});
          }) == path + ": tensor 'v': dtype is I32, this model has F32");
    CHECK(message([&] { reader.check("s", shaped<double>(1, 1)); }) ==
          path + ": tensor 's': shape is [], this model has [1,1]");

    float untouched[6] = {9, 9, 9, 9, 9, 9};
    CpuBackend b{};
    CHECK(message([&] {
              reader.read(b, "m", MatrixView<float, HostSpace>{untouched, 3, 2});
          }) == path + ": tensor 'm': shape is [2,3], this model has [3,2]");
    CHECK(untouched[0] == 9);
}

TEST_CASE("checkpoint/reader: a byte that is no bool is not read as one") {
    ScratchDirectory directory;
    std::string const path = directory / "model";
    SafetensorsWriter writer{path};
    index_t const shape[] = {3};
    writer.declare("mask", Dtype::BOOL, shape);
    writer.write("mask", bytes_of(std::string("\1\0\2", 3)));
    writer.commit();
    CpuBackend b{};
    bool mask[3] = {};
    CHECK_THROWS_WITH_AS(Reader{path}.read(b, "mask", VectorView<bool, HostSpace>{mask, 3}),
                         (path + ": tensor 'mask': a bool that is neither 0 nor 1").c_str(),
                         store_error);
    CHECK_FALSE(mask[0]);
}

TEST_CASE("checkpoint/reader: tensors that nobody asked for are named, unless ignored") {
    ScratchDirectory directory;
    std::string const path = written(directory);
    Reader reader{path};
    reader.check("m", shaped<float>(2, 3));
    CHECK_THROWS_WITH_AS(reader.expect_all_read(),
                         (path + ": 2 tensors that this model does not have: 's' 'v'").c_str(),
                         store_error);
    reader.ignore("s");
    CHECK_THROWS_AS(reader.expect_all_read(), store_error);
    reader.check("v", VectorView<std::int32_t, HostSpace>{nullptr, 2});
    CHECK_NOTHROW(reader.expect_all_read());

    SafetensorsWriter writer{path};
    for (char const* name : {"a", "b", "c", "d", "e", "f"}) writer.declare(name, Dtype::U8, {});
    for (char const* name : {"a", "b", "c", "d", "e", "f"}) writer.write(name, bytes_of("x"));
    writer.commit();
    CHECK_THROWS_WITH_AS(
        Reader{path}.expect_all_read(),
        (path + ": 6 tensors that this model does not have: 'a' 'b' 'c' 'd' ...").c_str(),
        store_error);
}
