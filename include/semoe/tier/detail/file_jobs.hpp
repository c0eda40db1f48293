#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"
#include "semoe/io/aligned_memory.hpp"
#include "semoe/io/transfer.hpp"

#include <any>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace semoe::tier::detail {

/// The transfers of a file of blocks, on the queues of whatever backends ask for them. Copies share
/// the file; any thread may call.
///
/// Each copy ends its transfers on a queue of its own, in the order in which they were asked for.
/// So whoever has a copy hears of its own failures and of no others, and waits for no work but its
/// own: an end waits for a start, and that may lie behind anything on the queue that asked.
/// @tparam File  has, for any thread,
///                   Job& job(io::Transfer::Kind, BlockKey, std::byte* memory, index_t bytes);
///                   void start(Job&) noexcept;  // never waits for the file
///                   void finish(Job&);          // waits, maybe since before start; throws what
///                                               // went wrong
template <class File>
class FileJobs {
    using Job = typename File::Job;
    using Kind = io::Transfer::Kind;

public:
    explicit FileJobs(std::shared_ptr<File> file)
      : copy_(std::make_shared<Copy>(std::move(file))) {}
    FileJobs(FileJobs const& other)
      : FileJobs(other.copy_->file) {}
    FileJobs(FileJobs&&) noexcept = default;
    FileJobs& operator=(FileJobs other) noexcept {
        copy_ = std::move(other.copy_);
        return *this;
    }
    ~FileJobs() = default;

    File& file() const { return *copy_->file; }

    /// As HasTransfers; where the backend's memory is not the host's, the host waits.
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if constexpr (host_reachable<B>) return transfer(b, Kind::read, key, dst.data, dst.size);
        b.synchronize(); // dst may be in use
        io::AlignedMemory const memory(io::round_up(dst.size));
        run(file().job(Kind::read, key, memory.data(), dst.size));
        b.copy(dst.data, memory.data(), std::size_t(dst.size));
        b.synchronize();
        return b.record();
    }
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        if constexpr (host_reachable<B>)
            return transfer(b, Kind::write, key, const_cast<std::byte*>(src.data), src.size);
        io::AlignedMemory const memory(io::round_up(src.size));
        b.copy(memory.data(), src.data, std::size_t(src.size));
        b.synchronize();
        run(file().job(Kind::write, key, memory.data(), src.size));
        return b.record();
    }

private:
    struct Copy {
        explicit Copy(std::shared_ptr<File> f)
          : file(std::move(f)) {}
        std::shared_ptr<File> file;
        std::mutex mutex;
        std::vector<std::any> queues; ///< a fork of each kind of backend, on which transfers end
    };
    // All keep the file open, and the queues, until they have run.
    struct StartFn {
        std::shared_ptr<Copy> copy;
        Job* job;
        void operator()(index_t) const { copy->file->start(*job); }
    };
    struct FinishFn {
        std::shared_ptr<Copy> copy;
        Job* job;
        void operator()(index_t) const { copy->file->finish(*job); }
    };
    struct RunFn {
        std::shared_ptr<Copy> copy;
        Job* job;
        void operator()(index_t) const {
            copy->file->start(*job);
            copy->file->finish(*job);
        }
    };

    /// It starts in b's order, and ends on a queue of ours, so that b goes on meanwhile.
    template <class B>
    typename B::event_type transfer(B& b, Kind kind, BlockKey key, std::byte* memory,
                                    index_t bytes) {
        if constexpr (may_block<B>) {
            B ends = queue_of(b); // a job comes afterwards: no thread may be left for a fork
            Job& job = file().job(kind, key, memory, bytes);
            b.parallel_for(1, StartFn{copy_, &job});
            ends.parallel_for(1, FinishFn{copy_, &job});
            return ends.record();
        } else {
            b.parallel_for(1, RunFn{copy_, &file().job(kind, key, memory, bytes)});
            return b.record();
        }
    }
    void run(Job& job) const { RunFn{copy_, &job}(0); }
    template <class B>
    B queue_of(B& b) {
        std::lock_guard lock(copy_->mutex);
        for (std::any& queue : copy_->queues)
            if (B* const found = std::any_cast<B>(&queue)) return *found;
        return std::any_cast<B&>(copy_->queues.emplace_back(b.fork()));
    }

    std::shared_ptr<Copy> copy_;
};

} // namespace semoe::tier::detail
