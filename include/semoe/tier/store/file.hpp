#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/io/aligned_memory.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_file.hpp"
#include "semoe/tier/store/file_options.hpp"

#include <any>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
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
/// Either one store has a file open for writing, or any number for reading. Memory: a piece's
/// buffer a request, an entry a block, and a forked queue of each kind of backend that it was used
/// with.
class FileStore {
    using State = detail::BlockFile;
    using Kind = io::Transfer::Kind;

public:
    /// Opens the file, and makes it first where it is missing.
    /// @throws store_error naming the file when it cannot be opened, is truncated, foreign,
    ///         corrupted, of another version, or open for writing elsewhere; precondition_error
    ///         naming an option that is out of range
    /// @cost reads the table of blocks
    explicit FileStore(std::string const& path, FileOptions options = {},
                       io::FileSystem& system = io::default_file_system())
      : state_(std::make_shared<Shared>(path, options, system)) {}

    /// @throws store_error naming both sizes and layouts when it exists with others, or when it
    ///         does not and the file is open for reading only
    /// @cost no room in the file until it is stored
    void declare(BlockKey key, BlockInfo info) { state_->file.declare(key, info); }
    bool contains(BlockKey key) const { return state_->file.contains(key); }
    /// @throws store_error naming the key when there is no such block
    BlockInfo info(BlockKey key) const { return state_->file.info(key); }
    /// Every block, in rising order.
    std::vector<BlockKey> keys() const { return state_->file.keys(); }

    /// @param dst  info(key).bytes of backend memory, overwritten
    /// @throws precondition_error when dst is of another size; what the system refuses is thrown
    ///         where the event is waited for: a store_error naming file, block, byte and cause
    /// @sync enqueues; where the backend's memory is not the host's, the host waits
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if constexpr (host_reachable<B>)
            return transfer(b, state_->file.job(Kind::read, key, dst.data, dst.size));
        b.synchronize(); // dst may be in use
        io::AlignedMemory const memory(io::round_up(dst.size));
        run(state_->file.job(Kind::read, key, memory.data(), dst.size));
        b.copy(dst.data, memory.data(), std::size_t(dst.size));
        b.synchronize();
        return b.record();
    }
    /// @param src  info(key).bytes of backend memory
    /// @throws as load; what the file had before is then still there
    /// @sync as load
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        if constexpr (host_reachable<B>)
            return transfer(
                b, state_->file.job(Kind::write, key, const_cast<std::byte*>(src.data), src.size));
        io::AlignedMemory const memory(io::round_up(src.size));
        b.copy(memory.data(), src.data, std::size_t(src.size));
        b.synchronize();
        run(state_->file.job(Kind::write, key, memory.data(), src.size));
        return b.record();
    }

    /// @throws store_error naming the file; after a failed fsync also from every later commit, for
    ///         the system forgets what it could not write
    /// @sync waits for the device twice; no transfer is under way
    /// @cost writes the table, 48 bytes a block; nothing when nothing was stored or declared
    void commit() { state_->file.commit(); }

    std::string const& path() const { return state_->file.path(); }
    FileCounters counters() const { return state_->file.counters(); }
    /// What the file system and the kernel allowed.
    io::Way way() const { return state_->file.way(); }
    io::Engine engine() const { return state_->file.engine(); }

private:
    struct Shared {
        Shared(std::string const& path, FileOptions options, io::FileSystem& system)
          : file(path, options, system) {}
        State file;
        std::mutex mutex;
        std::vector<std::any> queues; ///< a fork of each kind of backend, on which transfers end
    };
    // Both keep the file open until they have run.
    struct StartFn {
        std::shared_ptr<Shared> state;
        State::Job* job;
        void operator()(index_t) const { state->file.start(*job); }
    };
    struct FinishFn {
        std::shared_ptr<Shared> state;
        State::Job* job;
        void operator()(index_t) const { state->file.finish(*job); }
    };
    struct RunFn {
        std::shared_ptr<Shared> state;
        State::Job* job;
        void operator()(index_t) const {
            state->file.start(*job);
            state->file.finish(*job);
        }
    };

    /// It starts in b's order, and ends on a queue of ours, so that b goes on meanwhile.
    template <class B>
    typename B::event_type transfer(B& b, State::Job& job) {
        if constexpr (may_block<B>) {
            B ends = queue_of(b);
            b.parallel_for(1, StartFn{state_, &job});
            ends.parallel_for(1, FinishFn{state_, &job});
            return ends.record();
        } else {
            b.parallel_for(1, RunFn{state_, &job});
            return b.record();
        }
    }
    void run(State::Job& job) const { RunFn{state_, &job}(0); }
    template <class B>
    B queue_of(B& b) {
        std::lock_guard lock(state_->mutex);
        for (std::any& queue : state_->queues)
            if (B* const found = std::any_cast<B>(&queue)) return *found;
        return std::any_cast<B&>(state_->queues.emplace_back(b.fork()));
    }

    std::shared_ptr<Shared> state_;
};

static_assert(BlockStore<FileStore, CpuBackend> && HasCommit<FileStore>);

} // namespace semoe::tier
