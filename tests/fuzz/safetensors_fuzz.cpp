#include "fuzz/safetensors_target.hpp"

#include <random>

/// A libFuzzer program over the safetensors reader and writer. Seeds are in the code, so an empty
/// corpus will do.

// A file of a few kilobytes gives no reason for large memory.
extern "C" char const* __asan_default_options() { return "max_allocation_size_mb=64"; }

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t limit);

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    semoe::fuzz::try_safetensors(std::as_bytes(std::span(data, size)));
    return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t limit, unsigned seed) {
    std::minstd_rand random(seed);
    auto const below = [&](std::size_t n) { return std::size_t(random()) % n; };
    std::string file(reinterpret_cast<char const*>(data), size);
    auto const seeds = semoe::fuzz::seeds();
    if (size < 8 || below(200) == 0) file = seeds[below(seeds.size())];

    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    std::size_t const rest = file.size() - 8;
    std::size_t const header = length < rest ? std::size_t(length) : rest;
    std::size_t const data_bytes = rest - header;
    if (below(4) == 0) { // anything anywhere
        file.resize(std::max(file.size(), limit));
        file.resize(
            LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(file.data()), rest + 8, limit));
    } else { // the header alone, its length kept true
        std::string text = file.substr(8, header);
        if (below(3) == 0) {
            std::size_t const n = std::size(semoe::fuzz::fragments);
            std::size_t const at = below(header + 1);
            text.replace(at, below(2) * below(header - at + 1) % 8,
                         semoe::fuzz::fragments[below(n)]);
        } else {
            text.resize(std::max(header + 64, std::size_t(64)));
            text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), header,
                                         text.size()));
        }
        file.replace(8, header, text);
        semoe::fuzz::repair_length(file, data_bytes);
    }
    file.resize(std::min(file.size(), limit));
    std::memcpy(data, file.data(), file.size());
    return file.size();
}
