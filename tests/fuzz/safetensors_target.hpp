#pragma once

#include "semoe/checkpoint/safetensors.hpp"
#include "semoe/checkpoint/safetensors_writer.hpp"
#include "semoe/io/file.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace semoe::fuzz {

/// One file in memory, whatever its path.
class MemoryFileSystem : public io::FileSystem {
public:
    std::string bytes;

    int open(char const*, int, mode_t) override { return 1; }
    int close(int) override { return 0; }
    ssize_t read_at(int, void*, std::size_t, index_t) override { return 0; }
    ssize_t write_at(int, void const* from, std::size_t n, index_t offset) override {
        bytes.resize(std::max(bytes.size(), std::size_t(offset) + n));
        if (n > 0) std::memcpy(bytes.data() + offset, from, n);
        return ssize_t(n);
    }
    int sync(int) override { return 0; }
    index_t size(int) override { return index_t(bytes.size()); }
    void* map(int, std::size_t) override { return MAP_FAILED; }
    int rename(char const*, char const*) override { return 0; }
    int unlink(char const*) override { return 0; }
    int make_directory(char const*, mode_t) override { return 0; }
};

/// A defect that was found. No ordinary error, so it ends a fuzzing run and fails a test.
inline void require(bool ok, char const* property) {
    if (!ok) throw std::logic_error(property);
}

/// Reads everything of a file that was accepted.
inline void read_everything(checkpoint::SafetensorsFile const& file,
                            std::span<std::byte const> bytes) {
    unsigned sum = 0;
    for (std::string const& name : file.names()) {
        auto const t = file.tensor(name);
        require(t.bytes.data() >= bytes.data() &&
                    t.bytes.data() + t.bytes.size() <= bytes.data() + bytes.size(),
                "a tensor lies outside the file");
        index_t elements = 1;
        for (index_t const n : t.shape) elements *= n;
        require(elements == t.elements(), "a tensor is not as long as its shape");
        for (std::byte const byte : t.bytes) sum += unsigned(byte);
        try {
            sum += unsigned(file.values<f16>(name).size());
        } catch (store_error const&) {
        }
        try {
            sum += unsigned(file.values<std::int16_t>(name).size());
        } catch (store_error const&) {
        }
        try {
            sum += unsigned(file.view<double>(name).size);
        } catch (store_error const&) {
        }
    }
    unsigned volatile keep = sum;
    (void)keep;
}

/// What is read, written again and read again is the same.
inline void write_and_compare(checkpoint::SafetensorsFile const& file) {
    MemoryFileSystem memory;
    checkpoint::SafetensorsWriter writer{"copy", memory};
    for (auto const& [key, value] : file.metadata()) writer.metadata(key, value);
    for (std::string const& name : file.names())
        writer.declare(name, file.tensor(name).dtype, file.tensor(name).shape);
    for (std::string const& name : file.names()) writer.write(name, file.tensor(name).bytes);
    writer.commit();
    checkpoint::SafetensorsFile const copy{"copy", std::as_bytes(std::span(memory.bytes))};
    require(copy.names() == file.names() && copy.metadata() == file.metadata(),
            "a copy has other names");
    for (std::string const& name : file.names()) {
        auto const a = file.tensor(name), b = copy.tensor(name);
        require(a.dtype == b.dtype && std::ranges::equal(a.shape, b.shape) &&
                    std::ranges::equal(a.bytes, b.bytes),
                "a copy has other tensors");
    }
}

/// Bytes that claim to be a file: they are accepted and can be read whole, or there is a
/// store_error that names the file in a text of ordinary length. Anything else is thrown on.
/// @return whether they were accepted
inline bool try_safetensors(std::span<std::byte const> bytes) {
    bool accepted = false;
    for (auto gaps : {checkpoint::Gaps::refuse, checkpoint::Gaps::allow}) {
        try {
            checkpoint::SafetensorsFile const file{"input", bytes, gaps};
            read_everything(file, bytes);
            if (gaps == checkpoint::Gaps::refuse) write_and_compare(file);
            accepted = true;
        } catch (store_error const& error) {
            std::string const text = error.what();
            require(text.starts_with("input: ") && text.size() < 1000, "an error's text");
            require(!accepted, "gaps allowed refuse what gaps refused accept");
        } catch (precondition_error const&) {
            require(false, "what was read cannot be written");
        }
    }
    return accepted;
}

/// A header as a file: the length word before it, `data_bytes` bytes behind it.
inline std::string file_of(std::string header, std::size_t data_bytes) {
    std::uint64_t const length = header.size();
    char word[sizeof length];
    std::memcpy(word, &length, sizeof length);
    header.insert(0, word, sizeof word);
    for (std::size_t i = 0; i < data_bytes; ++i) header += char(i * 37);
    return header;
}

/// Small files that are all right, to mutate from.
inline std::vector<std::string> seeds() {
    return {
        file_of("{}", 0),
        file_of(R"({"__metadata__":{"format":"pt","\u00e4":"\n"}} )", 0),
        file_of(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", 24),
        file_of(R"({"a":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]},)"
                R"("b":{"dtype":"I64","shape":[0,7],"data_offsets":[1,1]},)"
                R"("c":{"shape":[1,1,2],"data_offsets":[1,9],"dtype":"F32"}})",
                9),
        file_of(R"({"__metadata__":{"step":"12"},"x":{"dtype":"F64","shape":[1],)"
                R"("data_offsets":[0,8]},"y":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                R"("z":{"dtype":"F16","shape":[1],"data_offsets":[12,14]},)"
                R"("i":{"dtype":"I16","shape":[1],"data_offsets":[14,16]},)"
                R"("j":{"dtype":"I8","shape":[1],"data_offsets":[16,17]},)"
                R"("k":{"dtype":"U8","shape":[1],"data_offsets":[17,18]},)"
                R"("l":{"dtype":"I32","shape":[1],"data_offsets":[18,22]}})",
                22),
    };
}

/// Words that a header is made of, to splice in.
inline constexpr char const* fragments[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "null",
    "true",
    "\"F64\"",
    "\"BOOL\"",
    "\"F8_E4M3\"",
    "\"F6_E2M3\"",
    "\"F4\"",
    "\"U64\"",
    "\"dtype\"",
    "\"shape\"",
    "\"data_offsets\"",
    "\"__metadata__\"",
    "\\ud800",
    "\\u0000",
    "\xff",
    "[0,0]",
    "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}",
    "[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    " ",
};

/// The file with its length word made true again for a header that ends `data_bytes` before the
/// end: what lets a mutated header get past the first check.
inline void repair_length(std::string& file, std::size_t data_bytes) {
    if (file.size() < 8) return;
    std::uint64_t const length = file.size() - 8 - std::min(data_bytes, file.size() - 8);
    std::memcpy(file.data(), &length, sizeof length);
}

} // namespace semoe::fuzz
