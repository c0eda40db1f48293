#pragma once

#include "semoe/io/transfers.hpp"

#include <condition_variable>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace semoe::io {

/// A thread for each request under way: works with every file system and every way of a file.
class ThreadTransfers final : public Transfers {
public:
    /// @throws store_error when the system has no more threads, or no memory for their buffers
    explicit ThreadTransfers(TransferOptions options)
      : Transfers(options) {
        lanes_.reserve(std::size_t(options.depth));
        for (int i = 0; i < options.depth; ++i) lanes_.emplace_back(options.piece_bytes);
        threads_.reserve(lanes_.size());
        try {
            for (Lane& lane : lanes_) threads_.emplace_back([this, &lane] { work(lane); });
        } catch (std::system_error const& error) {
            stop();
            throw store_error(std::string("io: a thread cannot be started: ") + error.what());
        }
    }
    ~ThreadTransfers() override { stop(); }

    Engine engine() const override { return Engine::threads; }

private:
    void wake() override { work_.notify_all(); }

    void work(Lane& lane) {
        std::unique_lock lock(mutex_);
        for (;;) {
            work_.wait(lock, [&] { return has_work() || stopping_; });
            while (take(lane)) {
                lock.unlock();
                int error = 0;
                while (!lane.answer(lane.run(), error)) {
                }
                lock.lock();
                finish(lane, error);
            }
            if (stopping_) return;
        }
    }
    void stop() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        work_.notify_all();
        for (std::thread& thread : threads_) thread.join();
        threads_.clear();
    }

    std::condition_variable work_;
    bool stopping_ = false;
    std::vector<Lane> lanes_;
    std::vector<std::thread> threads_;
};

} // namespace semoe::io
