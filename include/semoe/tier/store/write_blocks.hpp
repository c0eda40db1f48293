#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/backend/concept.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/store/file_writer.hpp"

#include <exception>
#include <span>
#include <string>
#include <vector>

namespace semoe::tier {

/// Writes blocks of a tier or of a store into a file for FileStore, as they lie there:
///
///     tier::write_blocks(backend, layer.tier(), layer.block_keys(), "experts.semoe");
///
/// @param source  a MemoryTier, or a BlockStore of which no transfer is under way
/// @param keys    in the order in which the file will have them
/// @throws store_error or precondition_error naming the block or the file; there is then no file
/// @sync the host waits for b and the device
/// @cost memory for the largest block, twice for a store
template <Backend B, class Source>
void write_blocks(B& b, Source& source, std::span<BlockKey const> keys, std::string const& path,
                  io::FileSystem& system = io::default_file_system()) {
    static_assert(MemoryTier<Source, B> || BlockStore<Source, B>,
                  "tier::write_blocks: neither a MemoryTier nor a BlockStore (see "
                  "tier/concept.hpp)");
    FileWriter file(path, system);
    std::vector<std::byte> host;
    Buffer<std::byte, B> buffer; // of a store's block
    auto const make_room = [&](BlockKey key, BlockInfo info) {
        try {
            if constexpr (!MemoryTier<Source, B>) {
                buffer = {};
                buffer = {b, info.bytes};
            }
            host.resize(std::size_t(info.bytes));
        } catch (std::exception const& error) {
            throw store_error(message("tier::write_blocks: no memory for {}, {}: {}",
                                      to_string(key), to_string(info), error.what()));
        }
    };
    auto const write = [&](BlockKey key, BlockInfo info, ConstBytes<space_of<B>> bytes) {
        b.copy(host.data(), bytes.data, host.size());
        b.synchronize();
        file.write(key, info, host);
    };
    for (BlockKey const key : keys) {
        BlockInfo const info = source.info(key);
        make_room(key, info);
        if constexpr (MemoryTier<Source, B>) {
            auto const lease = source.acquire(b, key, Access::read);
            write(key, info, lease.bytes());
        } else {
            b.wait(source.load(b, key, buffer.view()));
            write(key, info, buffer.view());
        }
    }
    file.commit();
}

} // namespace semoe::tier
