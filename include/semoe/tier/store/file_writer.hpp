#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/io/atomic_file.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/detail/block_table.hpp"

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace semoe::tier {

/// Writes a file for FileStore, one block after another, holding none of them. The file appears at
/// commit(), whole, or not at all.
class FileWriter {
public:
    /// @throws store_error when the directory is missing or takes no files
    explicit FileWriter(std::string path, io::FileSystem& system = io::default_file_system())
      : file_(std::move(path), system) {}

    /// @param bytes  of the whole block, in the order that info.layout names
    /// @throws precondition_error when the block was written before, is of no kind, or has other
    ///         than info.bytes bytes; store_error naming the file, which then does without the
    ///         block, unless it is written once more
    void write(BlockKey key, BlockInfo info, std::span<std::byte const> bytes) {
        detail::expect_possible("tier::FileWriter", key, info);
        expects(index_t(bytes.size()) == info.bytes, [&] {
            return message("tier::FileWriter: {} has {}, the memory to write has {} bytes",
                           to_string(key), to_string(info), bytes.size());
        });
        expects(!rows_.contains(key),
                [&] { return "tier::FileWriter: " + to_string(key) + " is written twice"; });
        file_.write_at(bytes, end_);
        rows_.emplace(key, detail::StoredBlock{key.layer, key.expert, std::uint32_t(key.kind),
                                               std::uint32_t(info.layout), info.bytes,
                                               info.bytes > 0 ? end_ : 0, io::checksum(bytes),
                                               info.contents});
        end_ = io::round_up(end_ + info.bytes);
    }
    /// On return the file is in its place, on the device. Call it once, last.
    /// @throws store_error, as io::AtomicFile::commit
    void commit() {
        std::vector<detail::StoredBlock> rows;
        for (auto const& [key, row] : rows_) rows.push_back(row);
        auto const table = std::as_bytes(std::span(rows));
        detail::BlockHeader header;
        header.sequence = 1;
        header.table_offset = end_;
        header.table_blocks = index_t(rows.size());
        header.table_checksum = io::checksum(table);
        header.file_bytes = end_ + index_t(table.size());
        file_.write_at(table, end_);
        auto const page = detail::encode(header);
        for (index_t i = 0; i < 2; ++i) file_.write_at(page, i * io::direct_alignment);
        file_.commit();
    }

    std::string const& path() const { return file_.path(); }

private:
    io::AtomicFile file_;
    std::map<BlockKey, detail::StoredBlock> rows_; ///< of the blocks that are in the file
    index_t end_ = detail::headers_bytes;
};

} // namespace semoe::tier
