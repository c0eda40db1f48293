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
    explicit FileJobs(std::unique_ptr<File> file)
      : shared_(std::make_shared<Shared>(std::move(file))) {}

    File& file() const { return *shared_->file; }

    /// As HasTransfers; where the backend's memory is not the host's, the host waits.
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if constexpr (host_reachable<B>)
            return transfer(b, file().job(Kind::read, key, dst.data, dst.size));
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
            return transfer(
                b, file().job(Kind::write, key, const_cast<std::byte*>(src.data), src.size));
        io::AlignedMemory const memory(io::round_up(src.size));
        b.copy(memory.data(), src.data, std::size_t(src.size));
        b.synchronize();
        run(file().job(Kind::write, key, memory.data(), src.size));
        return b.record();
    }

private:
    struct Shared {
        explicit Shared(std::unique_ptr<File> f)
          : file(std::move(f)) {}
        std::unique_ptr<File> file;
        std::mutex mutex;
        std::vector<std::any> queues; ///< a fork of each kind of backend, on which transfers end
    };
    // Both keep the file open until they have run.
    struct StartFn {
        std::shared_ptr<Shared> shared;
        Job* job;
        void operator()(index_t) const { shared->file->start(*job); }
    };
    struct FinishFn {
        std::shared_ptr<Shared> shared;
        Job* job;
        void operator()(index_t) const { shared->file->finish(*job); }
    };
    struct RunFn {
        std::shared_ptr<Shared> shared;
        Job* job;
        void operator()(index_t) const {
            shared->file->start(*job);
            shared->file->finish(*job);
        }
    };

    /// It starts in b's order, and ends on a queue of ours, so that b goes on meanwhile.
    template <class B>
    typename B::event_type transfer(B& b, Job& job) {
        if constexpr (may_block<B>) {
            B ends = queue_of(b);
            b.parallel_for(1, StartFn{shared_, &job});
            ends.parallel_for(1, FinishFn{shared_, &job});
            return ends.record();
        } else {
            b.parallel_for(1, RunFn{shared_, &job});
            return b.record();
        }
    }
    void run(Job& job) const { RunFn{shared_, &job}(0); }
    template <class B>
    B queue_of(B& b) {
        std::lock_guard lock(shared_->mutex);
        for (std::any& queue : shared_->queues)
            if (B* const found = std::any_cast<B>(&queue)) return *found;
        return std::any_cast<B&>(shared_->queues.emplace_back(b.fork()));
    }

    std::shared_ptr<Shared> shared_;
};

} // namespace semoe::tier::detail
