#pragma once

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/testing/detail/block_bytes.hpp"
#include "semoe/tier/store/file.hpp"
#include "support/faulty_file_system.hpp"

#include <string>
#include <vector>

namespace semoe::test {

using testing::detail::HostBytes, testing::detail::pattern;

inline BlockKey file_key(int i) { return {0, i, BlockKind::weight}; }

/// Stores a pattern as a block and waits for it.
template <class B>
void store_pattern(B& b, tier::FileStore& store, BlockKey key, int seed) {
    HostBytes const bytes = pattern(std::uint32_t(seed), store.info(key).bytes);
    b.wait(store.store(b, key, {bytes.data(), index_t(bytes.size())}));
    b.synchronize();
}
inline HostBytes load_bytes(tier::FileStore& store, BlockKey key) {
    CpuBackend b{.threads = 1};
    HostBytes bytes(std::size_t(store.info(key).bytes), std::byte{99});
    b.wait(store.load(b, key, {bytes.data(), index_t(bytes.size())}));
    return bytes;
}
inline bool holds(tier::FileStore& store, BlockKey key, int seed) {
    return load_bytes(store, key) == pattern(std::uint32_t(seed), store.info(key).bytes);
}
/// What a store_error says; empty if there was none.
template <class F>
std::string store_error_of(F const& f) {
    try {
        f();
    } catch (store_error const& error) {
        return error.what();
    }
    return "";
}

} // namespace semoe::test
