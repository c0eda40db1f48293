#pragma once

#include "semoe/core/types.hpp"
#include "support/probe.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

inline double median(std::vector<double> values) {
    if (values.empty()) return 0;
    auto const middle = values.begin() + std::ptrdiff_t(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// One of several that do the same work and are timed in turn.
struct Contender {
    std::string name;
    std::function<void(semoe::index_t call)> run; ///< call counts up, so that inputs can rotate
    std::function<void(semoe::index_t call)> before = {}; ///< not timed
    double share = 1;                                     ///< of the budget
    std::vector<double> seconds = {};
    semoe::index_t calls = 0;

    void once() {
        if (before) before(calls);
        auto const start = Clock::now();
        run(calls++);
        seconds.push_back(seconds_since(start));
    }
};

struct Budget {
    double seconds = 1; ///< of each contender, all rounds together
    int rounds = 5;
};

/// Times the contenders in rounds, all of them in each, so that a machine that is slower for some
/// seconds is so for everybody. Threads of one may spin for a while after its last call, so each
/// turn begins with a pause, and the first call after it counts only where one call is long.
inline void measure(std::vector<Contender>& contenders, Budget budget) {
    double const long_call = 0.25;
    for (int round = 0; round < budget.rounds; ++round)
        for (Contender& c : contenders) {
            std::this_thread::sleep_for(std::chrono::milliseconds(40));
            double const slot = c.share * budget.seconds / budget.rounds;
            auto const start = Clock::now();
            c.once();
            bool more = seconds_since(start) < long_call;
            if (more) c.seconds.pop_back();
            for (; more || seconds_since(start) < slot; more = false) c.once();
        }
}

} // namespace bench
