#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_file.hpp"
#include "semoe/tier/detail/file_jobs.hpp"
#include "semoe/tier/store/file_options.hpp"

#include <memory>
#include <string>
#include <vector>

namespace semoe::tier {

/// Blocks in one file, read and written with several requests under way. Copies are the same
/// store; any thread may call.
///
///     tier::FileStore store{"experts.semoe"};
///     tier::Cached tier{backend, store, {.slots = 3}};
///
/// Bytes go between the file and the caller's memory past the system's cache, as they lie, where
/// the memory is aligned to 4096 bytes (as a backend's blocks of 1 MiB and more are); else through
/// a buffer. Requests are carried out by io_uring where the program has liburing and the kernel
/// grants it, and by threads elsewhere.
///
/// **What is durable.** `store` brings bytes to pages that nothing else uses; `commit` makes all of
/// them the file's in one step (HasCommit). Whoever dies in between leaves the last commit. Every
/// block has a checksum, compared as FileOptions::verify says.
///
/// All of them: whatever any copy stored. A tier's flush commits once, so what one tier over the
/// file holds goes from step to step as one. Where several have copies, each flush also commits
/// what the others have written back by then, and whoever dies between two of them leaves blocks of
/// two steps.
///
/// Each copy ends its transfers on a queue of its own, in the order in which they were asked for,
/// and that tells of a failure once, to whoever waits first. So every tier has a copy, and so does
/// every thread that waits for transfers of its own.
///
/// The file is the one that was opened, also where its path was removed or names another one since.
///
/// Either one store has a file open for writing, or any number for reading, as far as the mount has
/// locks (flock): without them that is the caller's to see to. Memory: a piece's
/// buffer a request, an entry a block, and a copy's forked queue of each kind of backend that it
/// was used with.
class FileStore {
public:
    /// Opens the file, and makes it first where it is missing.
    /// @throws store_error naming the file when it cannot be opened, is truncated, foreign,
    ///         corrupted, of another version, or open for writing elsewhere; precondition_error
    ///         naming an option that is out of range
    /// @sync for writing, waits for the device
    /// @cost reads the table of blocks, and for writing writes it where it is
    explicit FileStore(std::string const& path, FileOptions options = {},
                       io::FileSystem& system = io::default_file_system())
      : jobs_(std::make_unique<detail::BlockFile>(path, options, system)) {}

    /// @throws store_error naming both sizes and layouts when it exists with others, or when it
    ///         does not and the file is open for reading only; precondition_error naming a size
    ///         that is negative
    /// @cost no room in the file until it is stored
    void declare(BlockKey key, BlockInfo info) { jobs_.file().declare(key, info); }
    bool contains(BlockKey key) const { return jobs_.file().contains(key); }
    /// @throws store_error naming the key when there is no such block
    BlockInfo info(BlockKey key) const { return jobs_.file().info(key); }
    /// Every block, in rising order.
    std::vector<BlockKey> keys() const { return jobs_.file().keys(); }

    /// @param dst  info(key).bytes of backend memory, overwritten
    /// @throws precondition_error when dst is of another size; what the system refuses is thrown
    ///         where the event is waited for: a store_error naming file, block, byte and cause
    /// @sync enqueues; where the backend's memory is not the host's, the host waits
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        return jobs_.load(b, key, dst);
    }
    /// @param src  info(key).bytes of backend memory
    /// @throws as load; what the file had before is then still there
    /// @sync as load
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        return jobs_.store(b, key, src);
    }

    /// @throws store_error naming the file, where the commit may not hold; after a failed fsync
    ///         also from every later commit, for the system forgets what it could not write
    /// @sync waits for the device twice; loads may be under way, and stores that are not done are
    ///       the next commit's
    /// @cost writes the table, 48 bytes a block; nothing when nothing was stored or declared
    void commit() { jobs_.file().commit(); }

    std::string const& path() const { return jobs_.file().path(); }
    FileCounters counters() const { return jobs_.file().counters(); }
    /// What the file system and the kernel allowed.
    io::Way way() const { return jobs_.file().way(); }
    io::Engine engine() const { return jobs_.file().engine(); }

private:
    detail::FileJobs<detail::BlockFile> jobs_;
};

static_assert(BlockStore<FileStore, CpuBackend> && HasCommit<FileStore>);

} // namespace semoe::tier
