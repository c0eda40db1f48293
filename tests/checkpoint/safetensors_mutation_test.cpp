#include "fuzz/safetensors_target.hpp"

#include <chrono>
#include <cstdlib>
#include <doctest/doctest.h>
#include <random>

using namespace semoe;

/// What tests/fuzz/safetensors_fuzz.cpp does without libFuzzer: mutations of small good files, the
/// same on every machine. SEMOE_FUZZ_SECONDS lets it go on for longer.
TEST_CASE("checkpoint/safetensors: mutated files are read whole or refused with an error") {
    char const* const wish = std::getenv("SEMOE_FUZZ_SECONDS");
    auto const deadline = std::chrono::steady_clock::now() +
                          std::chrono::duration<double>(wish ? std::atof(wish) : 0);
    std::vector<std::string> const seeds = fuzz::seeds();
    std::minstd_rand random(20220510);
    auto const below = [&](std::size_t n) { return std::size_t(random()) % n; };

    index_t count = 0, accepted = 0;
    std::string file;
    CAPTURE(count);
    while (count < 20'000 || std::chrono::steady_clock::now() < deadline) {
        if (count % 8 == 0) file = seeds[below(seeds.size())]; // up to eight mutations in a row
        std::uint64_t length = 0;
        if (file.size() < 8) file.resize(8);
        std::memcpy(&length, file.data(), sizeof length);
        std::size_t const rest = file.size() - 8;
        std::size_t const header = length < rest ? std::size_t(length) : rest;
        std::size_t const at = 8 + below(header + 1);
        switch (below(7)) {
        case 0: // a bit anywhere, the length word included
            file[below(file.size())] ^= char(1u << below(8));
            break;
        case 1: // truncation
            file.resize(below(file.size() + 1));
            break;
        case 2: // more data than described
            file += std::string(below(9), 'd');
            break;
        default: // the header alone, its length kept true
            if (std::size_t const kind = below(3); kind == 0) {
                file.erase(at, below(6));
            } else if (kind == 1) {
                file.insert(at, fuzz::fragments[below(std::size(fuzz::fragments))]);
            } else {
                std::size_t const from = 8 + below(header + 1);
                file.insert(at, file.substr(from, below(24)));
            }
            fuzz::repair_length(file, rest - header);
        }
        if (file.size() > 4096) file.resize(4096);
        accepted += fuzz::try_safetensors(std::as_bytes(std::span(file)));
        ++count;
    }
    MESSAGE(count << " files, " << accepted << " of them accepted");
    CHECK(accepted > 10);
    CHECK(accepted < count / 2);
}
