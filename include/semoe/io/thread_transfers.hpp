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
    /// @throws store_error when the system has no more threads
    explicit ThreadTransfers(TransferOptions options)
      : Transfers(options) {
        try {
            for (int i = 0; i < options.depth; ++i) threads_.emplace_back([this] { work(); });
        } catch (std::system_error const& error) {
            stop();
            throw store_error(std::string("io: a thread cannot be started: ") + error.what());
        }
    }
    ~ThreadTransfers() override { stop(); }

    Engine engine() const override { return Engine::threads; }

private:
    void wake() override { work_.notify_all(); }

    void work() {
        Lane lane(options().piece_bytes);
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
    std::vector<std::thread> threads_;
};

} // namespace semoe::io
