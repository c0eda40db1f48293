#pragma once

#include <deque>
#include <vector>

namespace semoe::tier::detail {

/// Jobs that are used again: they stay where they are, and giving one back never allocates. The
/// caller sees to it that one thread calls at a time.
template <class Job>
class JobPool {
public:
    Job& take() {
        if (free_.empty()) {
            free_.push_back(&jobs_.emplace_back());
            free_.reserve(jobs_.size());
        }
        Job& job = *free_.back();
        free_.pop_back();
        return job;
    }
    void give(Job& job) { free_.push_back(&job); }
    /// Also those that nobody has taken.
    std::deque<Job>& all() { return jobs_; }

private:
    std::deque<Job> jobs_;
    std::vector<Job*> free_;
};

} // namespace semoe::tier::detail
