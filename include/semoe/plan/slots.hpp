#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"
#include "semoe/plan/timing.hpp"

#include <algorithm>
#include <concepts>
#include <limits>
#include <vector>

namespace semoe::plan {

/// Which numbers of slots are tried, and how much longer a run may take for having fewer.
struct SlotSearch {
    index_t least = 1, most = 1;
    double slack = 0.01; ///< a part of the time

    /// @throws precondition_error naming the field
    void validate() const {
        expects(least >= 1, "SlotSearch: least is {}, must be at least 1", least);
        expects(most >= least, "SlotSearch: most is {}, must be at least least, {}", most, least);
        expects(most < std::numeric_limits<index_t>::max(),
                "SlotSearch: most is {}, there is no number above", most);
        expects(slack >= 0, "SlotSearch: slack is {}, must not be negative", slack);
    }
};
struct SlotPlan {
    index_t slots = 0;
    Timing timing;
    bool hidden = false; ///< the queue waits for nothing, neither copies nor messages of ranks and
                         ///< chunks, up to the slack
};

/// The fewest slots of a tier that hide its copies behind the computation. Where none do, for the
/// link is too slow, the fewest that take no longer than any other number.
///
///     auto const plan = plan::fewest_slots({.least = 1, .most = 8}, [&](index_t slots) {
///         SimulatedBackend b{.machine = machine};
///         Model model{b, tier::Ring{b, store, {.slots = slots}}}; // its layers over this tier
///         model.forward();                                        // fills the slots
///         return plan::time_on(b, [&] { model.forward(); });
///     });
///
/// @param run  run(slots) -> Timing: the very layers on a machine of their own, on which they take
///             the same time whenever they run
/// @throws precondition_error naming a value out of range, or what run throws
/// @cost a run a number, from the least upwards, until one hides the copies
template <class Run>
SlotPlan fewest_slots(SlotSearch const& search, Run&& run) {
    static_assert(std::same_as<decltype(run(index_t{})), Timing>,
                  "fewest_slots: run(slots) must return plan::Timing (see plan/timing.hpp)");
    search.validate();
    auto const within_slack = [&](simulated::Time took, simulated::Time of) {
        return simulated::seconds(took) <= (1 + search.slack) * simulated::seconds(of);
    };
    std::vector<SlotPlan> tried;
    simulated::Time best{};
    for (index_t slots = search.least; slots <= search.most; ++slots) {
        Timing const timing = run(slots);
        if (within_slack(timing.took, timing.worked)) return {slots, timing, true};
        tried.push_back({slots, timing, false});
        best = tried.size() == 1 ? timing.took : std::min(best, timing.took);
    }
    for (SlotPlan const& plan : tried)
        if (within_slack(plan.timing.took, best)) return plan;
    return tried.back();
}

} // namespace semoe::plan
