#pragma once

// Where liburing is there: the CMake target semoe::uring defines this for the whole program.
#if defined(SEMOE_LIBURING)

#include "semoe/io/transfers.hpp"

#include <algorithm>
#include <cerrno>
#include <liburing.h>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace semoe::io {

/// Requests go to the kernel's io_uring from whoever starts a transfer; one thread sleeps until
/// some are done, and asks for what is left.
class RingTransfers final : public Transfers {
public:
    /// Whether the kernel lets this process have one.
    static bool available() {
        static bool const answer = [] {
            io_uring_probe* const probe = io_uring_get_probe();
            if (!probe) return false;
            bool const enough = io_uring_opcode_supported(probe, IORING_OP_READ) &&
                                io_uring_opcode_supported(probe, IORING_OP_WRITE);
            io_uring_free_probe(probe);
            return enough;
        }();
        return answer;
    }

    /// @throws store_error when the kernel refuses
    explicit RingTransfers(TransferOptions options)
      : Transfers(options) {
        lanes_.reserve(std::size_t(options.depth));
        for (int i = 0; i < options.depth; ++i) {
            lanes_.emplace_back(options.piece_bytes);
            free_.push_back(&lanes_.back());
        }
        int const error = io_uring_queue_init(unsigned(options.depth) + 1, &ring_, 0);
        if (error != 0) throw store_error(std::string("io: io_uring: ") + std::strerror(-error));
        try {
            thread_ = std::thread([this] { work(); });
        } catch (std::system_error const& failure) {
            io_uring_queue_exit(&ring_);
            throw store_error(std::string("io: a thread cannot be started: ") + failure.what());
        }
    }
    ~RingTransfers() override {
        {
            std::lock_guard lock(mutex_);
            io_uring_sqe* const stop = io_uring_get_sqe(&ring_);
            io_uring_prep_nop(stop);
            io_uring_sqe_set_data(stop, nullptr);
            submit();
        }
        thread_.join();
        io_uring_queue_exit(&ring_);
    }

    Engine engine() const override { return Engine::ring; }

private:
    void wake() override {
        while (!free_.empty() && take(*free_.back())) {
            ask(*free_.back());
            free_.pop_back();
        }
        submit();
    }
    /// Short of memory, the kernel takes fewer than it is given.
    void submit() {
        while (io_uring_sq_ready(&ring_) > 0)
            if (io_uring_submit(&ring_) < 0) std::this_thread::yield();
    }
    /// There are as many entries as lanes, and one more to stop: one is always free.
    void ask(Lane& lane) {
        Lane::Call const call = lane.call();
        Transfer const& transfer = lane.transfer();
        io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
        int const descriptor = transfer.file->descriptor(call.direct);
        auto const offset = std::uint64_t(call.offset);
        // A request's length has 32 bits; the kernel transfers no more than this at once, and what
        // remains is another call.
        auto const n = unsigned(std::min(call.n, std::size_t(0x7fff'f000)));
        if (transfer.kind == Transfer::Kind::read)
            io_uring_prep_read(entry, descriptor, call.memory, n, offset);
        else
            io_uring_prep_write(entry, descriptor, call.memory, n, offset);
        io_uring_sqe_set_data(entry, &lane);
    }
    void work() {
        for (;;) {
            io_uring_cqe* done = nullptr;
            if (io_uring_wait_cqe(&ring_, &done) != 0) continue; // a signal came
            std::unique_lock lock(mutex_);
            for (; done; done = nullptr, io_uring_peek_cqe(&ring_, &done)) {
                auto* const lane = static_cast<Lane*>(io_uring_cqe_get_data(done));
                index_t const result = done->res;
                io_uring_cqe_seen(&ring_, done);
                if (!lane) return;
                answer(*lane, result, lock);
            }
            wake();
        }
    }
    void answer(Lane& lane, index_t result, std::unique_lock<std::mutex>& lock) {
        int error = 0;
        // The kernel gives up what a thread asked for that has ended since, with either of two
        // errors, and may refuse to wait for a device: then this thread waits, and nobody else.
        if (result == -ECANCELED || result == -EFAULT || result == -EAGAIN) {
            lock.unlock();
            result = lane.run();
            lock.lock();
        }
        if (!lane.answer(result, error)) return ask(lane);
        finish(lane, error);
        free_.push_back(&lane);
    }

    io_uring ring_ = {};
    std::vector<Lane> lanes_;
    std::vector<Lane*> free_;
    std::thread thread_;
};

} // namespace semoe::io

#endif
