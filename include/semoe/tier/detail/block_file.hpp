#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/io/atomic_file.hpp"
#include "semoe/io/make_transfers.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/detail/block_table.hpp"
#include "semoe/tier/detail/extents.hpp"
#include "semoe/tier/detail/job_pool.hpp"
#include "semoe/tier/store/file_options.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace semoe::tier {

/// What a FileStore has been asked for, and what it asked of the system.
struct FileCounters {
    index_t loads = 0, stores = 0;
    index_t bytes_loaded = 0, bytes_stored = 0;
    index_t checks = 0;  ///< blocks compared with their checksums
    index_t commits = 0; ///< that had something to commit
    io::TransferCounters transfers = {};
};

namespace detail {

/// Makes a file of no blocks appear, whole or not at all; one that others have made stays.
/// @throws store_error
inline void create_block_file(std::string const& path, io::FileSystem& system) {
    io::AtomicFile file(path, system);
    BlockHeader header;
    header.table_offset = header.file_bytes = headers_bytes;
    header.table_checksum = io::checksum({});
    auto const page = encode(header);
    for (index_t i = 0; i < 2; ++i) file.write_at(page, i * io::direct_alignment);
    file.commit_new();
}

/// What the copies of a FileStore share: the blocks' places, and transfers between them and memory.
///
/// A block is stored to unused pages, and what it had before stays until a commit no longer lists
/// it. So what the headers name is never written over, whenever the process dies.
class BlockFile {
public:
    /// One load or store from the call to its end.
    struct Job {
        io::Transfer transfer;
        BlockKey key;
        BlockInfo info;
        Extent place;
        std::uint64_t checksum = 0;
        bool check = false;
        bool reads = false;      ///< from its place, now
        bool gives_back = false; ///< its place is of no more use to anybody else
        std::string failure;     ///< why it could not be started
    };

    BlockFile(std::string const& path, FileOptions options, io::FileSystem& system)
      : options_((options.validate(), options))
      , file_(open(path, options, system))
      , transfers_(io::make_transfers(file_, options.transfers)) {
        BlockTable const table = TableReader(file_.file()).read();
        header_ = table.header;
        auto const& blocks = table.blocks;
        Extent const own{header_.table_offset, io::round_up(header_.table_bytes())};
        // The table lies between two blocks, or behind them all.
        bool table_used = false;
        space_ = Extents(headers_bytes);
        for (StoredBlock const& stored : blocks) {
            Extent const place{stored.offset, stored.offset == 0 ? 0 : io::round_up(stored.bytes)};
            if (!table_used && stored.offset > own.offset) {
                space_.use(own);
                table_used = true;
            }
            if (place.bytes > 0) space_.use(place);
            blocks_.emplace(stored.key(),
                            Entry{stored.info(), place, stored.checksum, true, false});
        }
        if (!table_used) space_.use(own);
        table_ = own;
        safe_page_ = safe_page();
        if (!options.read_only) secure();
    }
    BlockFile(BlockFile const&) = delete;
    BlockFile& operator=(BlockFile const&) = delete;

    void declare(BlockKey key, BlockInfo info) {
        expect_possible(name(), key, info);
        std::lock_guard lock(mutex_);
        if (auto const found = blocks_.find(key); found != blocks_.end())
            return expect_same<store_error>(name(), key, found->second.info, info);
        if (options_.read_only)
            throw store_error(path() + ": " + to_string(key) +
                              " is not in the file, which is open for reading only");
        blocks_.emplace(key, Entry{info, {}, 0, false, false});
        changed_ = true;
    }
    bool contains(BlockKey key) const {
        std::lock_guard lock(mutex_);
        return blocks_.contains(key);
    }
    BlockInfo info(BlockKey key) const {
        std::lock_guard lock(mutex_);
        return declared<store_error>(blocks_, key, name()).info;
    }
    std::vector<BlockKey> keys() const {
        std::lock_guard lock(mutex_);
        std::vector<BlockKey> all;
        for (auto const& [key, entry] : blocks_) all.push_back(key);
        std::sort(all.begin(), all.end());
        return all;
    }

    /// A transfer of the whole block that has not started. Nothing has happened where it throws.
    Job& job(io::Transfer::Kind kind, BlockKey key, std::byte* memory, index_t bytes) {
        bool const loads = kind == io::Transfer::Kind::read;
        std::lock_guard lock(mutex_);
        BlockInfo const info = declared<store_error>(blocks_, key, name()).info;
        expects(bytes == info.bytes, [&] {
            return message("{}: {} has {}, the memory to transfer has {} bytes", name(),
                           to_string(key), to_string(info), bytes);
        });
        if (!loads && options_.read_only)
            throw store_error(path() + ": " + to_string(key) +
                              " cannot be stored: the file is open for reading only");
        Job& job = jobs_.take();
        job.transfer.file = &file_;
        job.transfer.kind = kind;
        job.transfer.memory = memory;
        job.transfer.done = false;
        job.key = key;
        job.info = info;
        job.place = {};
        job.check = job.reads = job.gives_back = false;
        job.failure.clear();
        ++(loads ? counters_.loads : counters_.stores);
        (loads ? counters_.bytes_loaded : counters_.bytes_stored) += bytes;
        return job;
    }
    /// Never waits for the file.
    void start(Job& job) noexcept {
        bool const loads = job.transfer.kind == io::Transfer::Kind::read;
        try {
            std::unique_lock lock(mutex_);
            Entry const& entry = blocks_.find(job.key)->second;
            job.place = loads ? entry.place : space_.take(job.info.bytes);
            job.reads = loads && entry.place.bytes > 0;
            job.checksum = entry.checksum;
            job.check = loads && entry.place.bytes > 0 && options_.verify != Verify::never &&
                        (options_.verify == Verify::always || !entry.verified);
            lock.unlock();
            job.transfer.offset = job.place.offset;
            job.transfer.bytes = job.place.bytes > 0 ? job.info.bytes : 0;
            if (loads && job.place.bytes == 0 && job.info.bytes > 0) // nobody has stored it
                std::memset(job.transfer.memory, 0, std::size_t(job.info.bytes));
        } catch (std::exception const& error) {
            job.transfer.bytes = 0;
            job.failure = error.what();
        }
        transfers_->start(job.transfer);
    }
    /// Waits until the job is over, and does what is left; may be called before start.
    /// @throws store_error naming the file, the block, the place and the cause
    void finish(Job& job) {
        transfers_->wait(job.transfer);
        bool const loads = job.transfer.kind == io::Transfer::Kind::read;
        if (job.failure.empty() && job.transfer.error != 0)
            job.failure = job.transfer.describe_error();
        bool const moved = job.failure.empty() && job.transfer.bytes > 0;
        std::uint64_t const sum =
            moved && (job.check || !loads)
                ? io::checksum({job.transfer.memory, std::size_t(job.info.bytes)})
                : 0;
        if (moved && job.check && sum != job.checksum)
            job.failure = message("corrupted at byte {}: its checksum is not that of the table",
                                  job.place.offset);
        std::string const failure =
            job.failure.empty() ? "" : path() + ": " + to_string(job.key) + ": " + job.failure;
        {
            std::lock_guard lock(mutex_);
            Entry& entry = blocks_.find(job.key)->second;
            if (loads) {
                job.reads = false;
                if (job.gives_back) give(job.place);
                counters_.checks += moved && job.check;
                if (failure.empty() && job.check && entry.place == job.place) entry.verified = true;
            } else if (failure.empty()) {
                replace(entry, job.place, sum);
            } else {
                space_.give(job.place);
            }
            jobs_.give(job);
        }
        if (!failure.empty()) throw store_error(failure);
    }

    /// As HasCommit.
    void commit() {
        std::lock_guard committing(committing_);
        std::unique_lock lock(mutex_);
        if (broken_)
            throw store_error(path() + ": fsync failed earlier, and what was stored since the last "
                                       "commit may be lost; open the file again");
        if (!changed_) return;
        if (header_.sequence >= BlockHeader::last_sequence)
            throw store_error(path() + ": its header's number leaves none for another commit");
        BlockHeader const next = list();
        Extent const table = space_.take(next.table_bytes());
        std::vector<Extent> leaving = std::move(retired_);
        retired_.clear();
        changed_ = false; // not before: there may be no memory for the list
        lock.unlock();
        try {
            write(next, table);
        } catch (...) {
            lock.lock();
            changed_ = true;
            // The device may hold either table now, and blocks of both.
            retired_.insert(retired_.end(), leaving.begin(), leaving.end());
            retired_.push_back(table);
            throw;
        }
        int const other = std::exchange(safe_page_, 1 - safe_page_);
        lock.lock();
        for (Extent const place : leaving) give(place);
        space_.give(std::exchange(table_, table));
        ++counters_.commits;
        lock.unlock();
        // A second copy, in case the first one's page goes bad; the next commit waits for it.
        try {
            file_.file().write_at(encode(header_), other * io::direct_alignment);
        } catch (std::exception const&) { // this commit holds; the next begins with that page
            lock.lock();
            changed_ = true;
        }
    }

    std::string const& path() const { return file_.name(); }
    FileOptions const& options() const { return options_; }
    io::Way way() const { return file_.way(); }
    io::Engine engine() const { return transfers_->engine(); }
    FileCounters counters() const {
        std::lock_guard lock(mutex_);
        FileCounters all = counters_;
        all.transfers = transfers_->counters();
        return all;
    }

private:
    struct Entry {
        BlockInfo info;
        Extent place; ///< no bytes: all zeros, and nowhere
        std::uint64_t checksum;
        bool listed;   ///< in a table that the device may hold
        bool verified; ///< its bytes have been seen to agree with the checksum
    };

    static constexpr char const* name() { return "tier::FileStore"; }
    /// The file that the path names, locked.
    static io::TransferFile open(std::string const& path, FileOptions const& options,
                                 io::FileSystem& system) {
        for (int attempt = 0; attempt < 100; ++attempt) {
            try {
                io::TransferFile file(system, path, !options.read_only, options.way);
                file.file().lock(options.read_only);
                if (file.file().is_named()) return file;
                continue; // it was replaced before it was locked
            } catch (io::file_error const& error) {
                if (error.code != ENOENT || options.read_only) throw;
            }
            create_block_file(path, system);
        }
        throw store_error(path + ": others replace it all the time, or it links to no file");
    }

    void replace(Entry& entry, Extent place, std::uint64_t sum) {
        if (entry.listed && entry.place.bytes > 0)
            retired_.push_back(entry.place);
        else
            give(entry.place);
        entry.place = place;
        entry.checksum = sum;
        entry.listed = entry.verified = false;
        changed_ = true;
    }
    /// Gives a block's pages back, once no load reads them: the last one that does will do it.
    void give(Extent place) {
        for (Job& job : jobs_.all())
            if (job.reads && job.place == place) {
                job.gives_back = true;
                return;
            }
        space_.give(place);
    }
    /// Writes the table of all blocks into rows_. @return its header, but for the table's place
    BlockHeader list() {
        rows_.clear();
        BlockHeader next;
        next.file_bytes = headers_bytes;
        for (auto& [key, entry] : blocks_) {
            rows_.push_back({key.layer, key.expert, std::uint32_t(key.kind),
                             std::uint32_t(entry.info.layout), entry.info.bytes, entry.place.offset,
                             entry.checksum, entry.info.contents});
            entry.listed = true;
            if (entry.place.bytes > 0)
                next.file_bytes = std::max(next.file_bytes, entry.place.offset + entry.info.bytes);
        }
        next.table_blocks = index_t(rows_.size());
        next.table_checksum = io::checksum(std::as_bytes(std::span(rows_)));
        return next;
    }
    /// On return the device has the table and one header that names it.
    void write(BlockHeader next, Extent table) {
        next.table_offset = table.offset;
        next.file_bytes = std::max(next.file_bytes, table.offset + next.table_bytes());
        next.sequence = ++header_.sequence; // also after a failure: either header may be the latest
        io::File& file = file_.file();
        file.write_at(std::as_bytes(std::span(rows_)), table.offset);
        sync();
        file.write_at(encode(next), (1 - safe_page_) * io::direct_alignment);
        sync();
        header_ = next;
    }
    /// After a failure the system forgets what it could not write: no later fsync tells of it.
    void sync() {
        try {
            file_.file().sync();
        } catch (...) {
            std::lock_guard lock(mutex_);
            broken_ = true;
            throw;
        }
    }
    /// Brings what was read to the device, before anything that only an older header names is
    /// written over: a process that died may have left it in the system's cache, and after an fsync
    /// that failed only what is written again is brought.
    void secure() {
        io::File& file = file_.file();
        std::vector<std::byte> table(std::size_t(header_.table_bytes()));
        file.read_at(table, header_.table_offset);
        file.write_at(table, header_.table_offset);
        file.write_at(encode(header_), safe_page_ * io::direct_alignment);
        file.sync();
    }
    /// The page of the header that was read.
    int safe_page() const {
        BlockHeader first;
        file_.file().read_at(std::as_writable_bytes(std::span(&first, 1)), 0);
        return first.checksum == first.sum() && first.sequence == header_.sequence ? 0 : 1;
    }

    FileOptions options_;
    io::TransferFile file_;
    std::unique_ptr<io::Transfers> transfers_;
    std::mutex committing_; ///< guards header_, rows_ and safe_page_; taken before mutex_
    BlockHeader header_;
    std::vector<StoredBlock> rows_;
    int safe_page_ = 0; ///< which header the device has for certain
    mutable std::mutex mutex_;
    BlockMap<Entry> blocks_;
    Extents space_;
    std::vector<Extent> retired_; ///< of no use but to a table that the device may hold
    Extent table_;
    JobPool<Job> jobs_;
    FileCounters counters_;
    bool changed_ = false, broken_ = false;
};

} // namespace detail
} // namespace semoe::tier
