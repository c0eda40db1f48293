#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/io/aligned_memory.hpp"
#include "semoe/io/checksum.hpp"
#include "semoe/io/file.hpp"
#include "semoe/tier/concept.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace semoe::tier::detail {

/// A file of blocks: two headers of a page each, then blocks and the table that lists them, each at
/// a multiple of a page, in any order, with unused pages between them. Numbers are little-endian.
///
/// A table is written to unused pages, as blocks are, and becomes the file's by a header that names
/// it: the first one, and once that is on the device the second. A header that was being written
/// when the machine died is told by its checksum, and the other one counts.

/// One block as the table has it: 48 bytes.
struct StoredBlock {
    std::int32_t layer = 0, expert = 0;
    std::uint32_t kind = 0, layout = 0;
    index_t bytes = 0;
    index_t offset = 0; ///< 0: the block is all zeros and lies nowhere
    std::uint64_t checksum = 0;
    std::uint64_t contents = 0;

    BlockKey key() const { return {layer, expert, BlockKind(kind)}; }
    BlockInfo info() const { return {bytes, LayoutId(layout), contents}; }
};
static_assert(sizeof(StoredBlock) == 48);

/// 72 bytes at the start of a page.
struct BlockHeader {
    static constexpr char expected_magic[9] = "semoeblk";
    static constexpr std::uint32_t expected_version = 1;
    static constexpr std::uint64_t last_sequence = ~std::uint64_t(0) - 1; ///< none is higher

    char magic[8] = {'s', 'e', 'm', 'o', 'e', 'b', 'l', 'k'};
    std::uint32_t version = expected_version, header_bytes = 72;
    std::uint64_t sequence = 0; ///< rises by one a commit; the higher header counts
    index_t table_offset = 0, table_blocks = 0;
    std::uint64_t table_checksum = 0;
    index_t file_bytes = 0; ///< the file is at least so long
    std::uint64_t reserved = 0, checksum = 0;

    index_t table_bytes() const { return table_blocks * index_t(sizeof(StoredBlock)); }
    std::uint64_t sum() const {
        return io::checksum(
            std::as_bytes(std::span(this, 1)).first(sizeof *this - sizeof checksum));
    }
};
static_assert(sizeof(BlockHeader) == 72);
static_assert(std::endian::native == std::endian::little,
              "tier: files of blocks are read and written on little-endian machines only");

inline constexpr index_t headers_bytes = 2 * io::direct_alignment;

/// A page for the file that holds the header, its checksum filled in.
inline std::vector<std::byte> encode(BlockHeader header) {
    header.checksum = header.sum();
    std::vector<std::byte> page(static_cast<std::size_t>(io::direct_alignment));
    std::memcpy(page.data(), &header, sizeof header);
    return page;
}

struct BlockTable {
    BlockHeader header;
    std::vector<StoredBlock> blocks; ///< in the order of their offsets
};

/// Reads a file's table and believes nothing of it.
class TableReader {
public:
    explicit TableReader(io::File const& file)
      : file_(file)
      , size_(file.size()) {}

    /// @throws store_error naming the file and what is wrong with it
    BlockTable read() const {
        BlockTable table{header(), {}};
        BlockHeader const& h = table.header;
        if (size_ < h.file_bytes)
            refuse(message("the file is truncated: it has {} bytes, its header says {}", size_,
                           h.file_bytes));
        bool const inside = h.table_blocks >= 0 &&
                            h.table_blocks <= size_ / index_t(sizeof(StoredBlock)) &&
                            lies_inside(h.table_offset, h.table_bytes());
        if (!inside) refuse("the header is corrupted: the table lies outside of the file");
        table.blocks.resize(std::size_t(h.table_blocks));
        auto const bytes = std::as_writable_bytes(std::span(table.blocks));
        file_.read_at(bytes, h.table_offset);
        if (io::checksum(bytes) != h.table_checksum)
            refuse("the table of blocks is corrupted: its checksum is wrong");
        check(table);
        return table;
    }

private:
    [[noreturn]] void refuse(std::string const& why) const {
        throw store_error(file_.name() + ": " + why);
    }
    bool lies_inside(index_t offset, index_t bytes) const {
        return offset >= headers_bytes && offset % io::direct_alignment == 0 && bytes >= 0 &&
               offset <= size_ && bytes <= size_ - offset;
    }

    BlockHeader header() const {
        if (size_ < headers_bytes)
            refuse(message("not a file of blocks: it has {} bytes, and the headers alone {}", size_,
                           headers_bytes));
        std::optional<BlockHeader> best;
        bool ours = false;
        for (index_t page = 0; page < 2; ++page) {
            BlockHeader h;
            file_.read_at(std::as_writable_bytes(std::span(&h, 1)), page * io::direct_alignment);
            bool const magic = std::memcmp(h.magic, BlockHeader::expected_magic, 8) == 0;
            ours = ours || magic;
            if (!magic || h.checksum != h.sum()) continue;
            if (h.version != BlockHeader::expected_version)
                refuse(message("version {} of the format, this program reads version {}", h.version,
                               BlockHeader::expected_version));
            if (!best || h.sequence > best->sequence) best = h;
        }
        if (!ours) refuse("not a file of blocks: it does not start with \"semoeblk\"");
        if (!best) refuse("both headers are corrupted: their checksums are wrong");
        if (best->sequence > BlockHeader::last_sequence)
            refuse("the header is corrupted: its number leaves none for another commit");
        return *best;
    }
    void check(BlockTable& table) const {
        std::vector<BlockKey> keys;
        for (StoredBlock const& block : table.blocks) {
            // Any layout may be one of the user's, which is compared where the block is declared.
            if (block.kind >= std::uint32_t(num_block_kinds))
                refuse(message("the table lists a block of kind {}, unknown to this program",
                               block.kind));
            bool const nowhere = block.offset == 0 && block.bytes >= 0;
            if (!nowhere && !lies_inside(block.offset, block.bytes))
                refuse(to_string(block.key()) + " lies outside of the file");
            keys.push_back(block.key());
        }
        std::sort(keys.begin(), keys.end());
        if (auto const twice = std::adjacent_find(keys.begin(), keys.end()); twice != keys.end())
            refuse(to_string(*twice) + " is listed twice");
        auto& blocks = table.blocks;
        std::sort(blocks.begin(), blocks.end(),
                  [](StoredBlock const& a, StoredBlock const& b) { return a.offset < b.offset; });
        index_t const list = table.header.table_offset;
        index_t const list_end = list + io::round_up(table.header.table_bytes());
        index_t end = headers_bytes;
        for (StoredBlock const& block : blocks) {
            if (block.offset == 0) continue;
            bool const over_list = block.offset < list_end && list < block.offset + block.bytes;
            if (block.offset < end || over_list)
                refuse(to_string(block.key()) + " overlaps another block or the table");
            end = block.offset + io::round_up(block.bytes);
        }
    }

    io::File const& file_;
    index_t size_;
};

} // namespace semoe::tier::detail
