#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/store/host.hpp"

#include <chrono>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace semoe::testing {

/// What a FaultyStore does beside storing.
struct StoreFaults {
    index_t fail_load = -1, fail_store = -1; ///< which transfer fails, counted from 0; -1: none
    bool late = false;    ///< it fails when the queued work runs, not when it is asked for
    bool reorder = false; ///< transfers run on two queues of the store's own, as they please
    int slow_us = 0;      ///< every other transfer takes at least this long; host backends
};

namespace detail {
struct FailFn {
    void operator()(index_t) const { throw std::runtime_error("injected failure"); }
};
struct SleepFn {
    int us;
    void operator()(index_t) const { std::this_thread::sleep_for(std::chrono::microseconds(us)); }
};
} // namespace detail

/// A host store that fails, dawdles and reorders as told, and remembers what it was asked for.
/// Copies are the same store.
template <class B>
class FaultyStore {
public:
    struct Request {
        bool store; ///< else a load
        BlockKey key;
    };

    explicit FaultyStore(B b, StoreFaults faults = {})
      : state_(std::make_shared<State>(std::move(b), faults)) {}

    void declare(BlockKey key, BlockInfo info) { state_->blocks.declare(key, info); }
    bool contains(BlockKey key) const { return state_->blocks.contains(key); }
    BlockInfo info(BlockKey key) const { return state_->blocks.info(key); }

    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        return transfer(b, {false, key},
                        [&](B& queue) { return state_->blocks.load(queue, key, dst); });
    }
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        return transfer(b, {true, key},
                        [&](B& queue) { return state_->blocks.store(queue, key, src); });
    }

    /// The blocks themselves; look at them when no transfer is under way.
    tier::HostStore& blocks() { return state_->blocks; }
    std::vector<Request> requests() const {
        std::lock_guard lock(state_->mutex);
        return state_->requests;
    }
    /// Forgets the requests so far, so that counting starts again, with other faults.
    void reset(StoreFaults faults = {}) {
        std::lock_guard lock(state_->mutex);
        state_->requests.clear();
        state_->loads = state_->stores = 0;
        state_->faults = faults;
    }

private:
    struct State {
        State(B b, StoreFaults f)
          : faults(f)
          , queues{b.fork(), b.fork()} {}
        ~State() {
            for (B& queue : queues) {
                try {
                    queue.synchronize();
                } catch (...) {
                }
            }
        }

        mutable std::mutex mutex;
        tier::HostStore blocks;
        StoreFaults faults;
        std::vector<Request> requests;
        index_t loads = 0, stores = 0;
        B queues[2];
    };

    template <class Transfer>
    typename B::event_type transfer(B& b, Request request, Transfer const& run) {
        std::lock_guard lock(state_->mutex);
        StoreFaults const& faults = state_->faults;
        index_t const number = request.store ? state_->stores++ : state_->loads++;
        state_->requests.push_back(request);
        bool const fails = number == (request.store ? faults.fail_store : faults.fail_load);
        if (fails && !faults.late) throw std::runtime_error("injected failure");
        std::size_t const turn = state_->requests.size() % 2;
        B& queue = faults.reorder ? state_->queues[turn] : b;
        if (faults.reorder) queue.wait(b.record());
        if constexpr (host_reachable<B>) {
            if (faults.slow_us > 0 && turn) queue.parallel_for(1, detail::SleepFn{faults.slow_us});
            if (fails) {
                queue.parallel_for(1, detail::FailFn{});
                return queue.record();
            }
        }
        return run(queue);
    }

    std::shared_ptr<State> state_;
};

} // namespace semoe::testing
