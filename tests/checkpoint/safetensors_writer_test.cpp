#include "semoe/checkpoint/safetensors_writer.hpp"

#include "semoe/checkpoint/safetensors.hpp"
#include "support/faulty_file_system.hpp"

#include <doctest/doctest.h>
#include <numeric>

using namespace semoe;
using namespace semoe::checkpoint;
using namespace semoe::test;

namespace safetensors_writer_test {
namespace {

using Index = std::vector<index_t>;

struct Tensor {
    std::string name;
    Dtype dtype;
    Index shape;
    std::string bytes;
};

/// Every dtype in every kind of shape, filled with bytes that differ.
std::vector<Tensor> every_kind() {
    std::vector<Tensor> tensors;
    unsigned next = 1;
    for (auto const& row : checkpoint::detail::dtypes)
        for (Index const& shape : {Index{}, Index{0}, Index{7}, Index{3, 5}, Index{3, 4},
                                   Index{4, 0, 2}, Index{1, 2, 3, 1, 2}}) {
            index_t const n = std::accumulate(shape.begin(), shape.end(), index_t(1),
                                              [](index_t a, index_t b) { return a * b; });
            auto const whole = checkpoint::bytes_of(row.dtype, n);
            if (!whole) continue; // of less than a byte each
            std::string bytes(std::size_t(*whole), '\0');
            for (char& c : bytes) c = char(next = next * 1103515245u + 12345u);
            tensors.push_back({std::string(row.name) + checkpoint::detail::shape_text(shape),
                               row.dtype, shape, bytes});
        }
    return tensors;
}

template <class F>
std::string precondition_of(F const& f) {
    try {
        f();
    } catch (precondition_error const& error) {
        return error.what();
    }
    return "nothing thrown";
}

} // namespace

TEST_CASE("checkpoint/safetensors_writer: every dtype and shape comes back as it was, aligned") {
    ScratchDirectory directory;
    std::string const path = directory / "all.safetensors";
    std::vector<Tensor> const tensors = every_kind();
    SafetensorsWriter writer{path};
    writer.metadata("plain", "text");
    writer.metadata("q\"uo\\te\n\u00e4", "\u2713\t\x01");
    for (Tensor const& t : tensors) writer.declare(t.name, t.dtype, t.shape);
    // Bytes come in another order than declarations, and in pieces.
    for (auto t = tensors.rbegin(); t != tensors.rend(); ++t)
        for (std::size_t i = 0; i < t->bytes.size(); i += 5)
            writer.write(t->name, bytes_of(t->bytes.substr(i, 5)));
    CHECK_FALSE(std::filesystem::exists(path));
    writer.commit();

    SafetensorsFile const file{path};
    CHECK(file.names().size() == tensors.size());
    CHECK(file.metadata() == std::map<std::string, std::string>{
                                 {"plain", "text"}, {"q\"uo\\te\n\u00e4", "\u2713\t\x01"}});
    for (Tensor const& t : tensors) {
        CAPTURE(t.name);
        StoredTensor const stored = file.tensor(t.name);
        CHECK(stored.dtype == t.dtype);
        CHECK(std::ranges::equal(stored.shape, t.shape));
        CHECK(std::ranges::equal(stored.bytes, bytes_of(t.bytes)));
        CHECK(reinterpret_cast<std::uintptr_t>(stored.bytes.data()) %
                  std::uintptr_t(size_bytes(t.dtype)) ==
              0);
    }
}

TEST_CASE("checkpoint/safetensors_writer: data begin at a multiple of 8, whatever the header") {
    ScratchDirectory directory;
    for (std::size_t n = 0; n < 9; ++n) {
        SafetensorsWriter writer{directory / "f"};
        writer.declare(std::string(n, 'n'), Dtype::U8, {});
        writer.write(std::string(n, 'n'), bytes_of("x"));
        writer.commit();
        std::uint64_t length = 0;
        std::string const file = read_text(directory / "f");
        std::memcpy(&length, file.data(), sizeof length);
        CHECK(length % 8 == 0);
        CHECK(file.size() == 8 + length + 1);
    }
}

TEST_CASE("checkpoint/safetensors_writer: values of each type pass through the file unchanged") {
    ScratchDirectory directory;
    std::string const path = directory / "values.safetensors";
    std::vector<float> const floats{0.0f, -0.0f, 1.0f / 3, 1e-45f, 3.4e38f};
    std::vector<std::int16_t> const shorts{-32768, 0, 32767};
    index_t const five[] = {5}, three[] = {3};
    SafetensorsWriter writer{path};
    writer.declare("floats", Dtype::F32, five);
    writer.declare("shorts", Dtype::I16, three);
    writer.write("shorts", std::as_bytes(std::span(shorts)));
    writer.write("floats", std::as_bytes(std::span(floats)));
    writer.commit();
    SafetensorsFile const file{path};
    CHECK(file.values<float>("floats") == floats);
    CHECK(file.values<std::int16_t>("shorts") == shorts);
    CHECK(std::memcmp(file.view<float>("floats").data, floats.data(), 20) == 0);
}

TEST_CASE("checkpoint/safetensors_writer: no tensors make a file as well") {
    ScratchDirectory directory;
    for (bool metadata : {false, true}) {
        SafetensorsWriter writer{directory / "empty"};
        if (metadata) writer.metadata("k", "v");
        writer.commit();
        CHECK(SafetensorsFile{directory / "empty"}.names().empty());
        CHECK(SafetensorsFile{directory / "empty"}.metadata().size() == (metadata ? 1 : 0));
    }
}

TEST_CASE("checkpoint/safetensors_writer: a wrong call is refused by name, and no file appears") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    index_t const four[] = {4}, negative[] = {2, -1}, huge[] = {1LL << 40, 1LL << 40};
    {
        SafetensorsWriter writer{path};
        writer.declare("a", Dtype::U8, four);
        writer.declare("b", Dtype::U8, four);
        CHECK(precondition_of([&] { writer.declare("a", Dtype::U8, four); }) ==
              path + ": tensor 'a': declared twice");
        CHECK(precondition_of([&] { writer.declare("n", Dtype::U8, negative); }) ==
              path + ": tensor 'n': shape [2,-1] is negative or too large");
        CHECK(precondition_of([&] { writer.declare("h", Dtype::U8, huge); }) ==
              path + ": tensor 'h': shape [1099511627776,1099511627776] is negative or too large");
        CHECK(precondition_of([&] { writer.declare("__metadata__", Dtype::U8, four); }) ==
              path + ": tensor '__metadata__': the name is reserved");
        CHECK(precondition_of([&] { writer.declare("\xff", Dtype::U8, four); }) ==
              "safetensors: '\xff' is not UTF-8");
        CHECK(precondition_of([&] { writer.metadata("k", "\xc3"); }) ==
              "safetensors: '\xc3' is not UTF-8");
        writer.write("a", bytes_of("abc"));
        CHECK(precondition_of([&] { writer.write("c", bytes_of("x")); }) ==
              path + ": tensor 'c': not declared");
        CHECK(precondition_of([&] { writer.declare("c", Dtype::U8, four); }) ==
              path + ": tensor 'c': declared after the first write");
        CHECK(precondition_of([&] { writer.write("a", bytes_of("de")); }) ==
              path + ": tensor 'a': 2 bytes after 3, its shape has 4");
        CHECK(precondition_of([&] { writer.take_back("a", 4); }) ==
              path + ": tensor 'a': takes back 4 of 3 bytes");
        CHECK(precondition_of([&] { writer.take_back("c", 0); }) ==
              path + ": tensor 'c': not declared");
        writer.write("a", bytes_of("d"));
        writer.write("b", bytes_of("fgh"));
        CHECK(precondition_of([&] { writer.commit(); }) ==
              path + ": tensor 'b': 3 of 4 bytes were written");
    }
    CHECK(directory.list().empty());
}

TEST_CASE("checkpoint/safetensors_writer: whatever fails, the file that was there stays whole") {
    ScratchDirectory directory;
    std::string const path = directory / "f", text(100, 'x');
    index_t const hundred[] = {100};
    auto const write = [&](io::FileSystem& system) {
        SafetensorsWriter writer{path, system};
        writer.declare("a", Dtype::U8, hundred);
        writer.write("a", bytes_of(text.substr(0, 50)));
        writer.write("a", bytes_of(text.substr(50)));
        writer.commit();
    };
    write(io::default_file_system());
    std::string const whole = read_text(path);
    for (index_t n = 0;; ++n) {
        write_text(path, "previous");
        FaultyFileSystem system;
        system.fail_at = n;
        system.error = ENOSPC;
        system.fault = FaultyFileSystem::Fault::full_disk;
        std::string said;
        try {
            write(system);
        } catch (store_error const& error) {
            said = error.what();
        }
        CAPTURE(n);
        CAPTURE(said);
        std::string const now = read_text(path);
        if (!system.failed) {
            CHECK(now == whole);
            break;
        }
        bool const renamed = std::ranges::count(system.log, "rename") && now == whole;
        CHECK((now == "previous" || renamed));
        CHECK(directory.list() == std::vector<std::string>{"f"});
        CHECK(system.open_files.empty());
        if (!renamed) CHECK(said.find(": No space left on device") != std::string::npos);
    }
}

TEST_CASE(
    "checkpoint/safetensors_writer: a write that failed may be made again, the first as well") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    index_t const four[] = {4};
    FaultyFileSystem system;
    SafetensorsWriter writer{path, system};
    writer.declare("a", Dtype::U8, four);
    writer.declare("b", Dtype::U8, four);
    for (char const* name : {"a", "b"}) {
        system.fail_at = system.operations;
        CHECK_THROWS_AS(writer.write(name, bytes_of("text")), store_error);
        writer.write(name, bytes_of("text"));
    }
    writer.commit();
    SafetensorsFile const file{path};
    for (char const* name : {"a", "b"})
        CHECK(std::ranges::equal(file.tensor(name).bytes, bytes_of("text")));
}

TEST_CASE("checkpoint/safetensors_writer: what was taken back is written anew") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    index_t const four[] = {4};
    SafetensorsWriter writer{path};
    writer.declare("a", Dtype::U8, four);
    writer.write("a", bytes_of("abxx"));
    writer.take_back("a", 2);
    CHECK(precondition_of([&] { writer.commit(); }) ==
          path + ": tensor 'a': 2 of 4 bytes were written");
    writer.write("a", bytes_of("cd"));
    writer.commit();
    CHECK(std::ranges::equal(SafetensorsFile{path}.tensor("a").bytes, bytes_of("abcd")));
}

TEST_CASE(
    "checkpoint/safetensors_writer: tensors that are too large together are refused by name") {
    ScratchDirectory directory;
    std::string const path = directory / "f";
    index_t const half[] = {index_t(1) << 62}, four[] = {4};
    SafetensorsWriter writer{path};
    writer.declare("a", Dtype::U8, half);
    CHECK(precondition_of([&] { writer.declare("b", Dtype::U8, half); }) ==
          path + ": tensor 'b': with it the file would pass 2^63 bytes");
    CHECK(precondition_of([&] { writer.declare("c", Dtype::U8, four); }) == "nothing thrown");
}

} // namespace safetensors_writer_test
