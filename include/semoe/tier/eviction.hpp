#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>

namespace semoe::tier::eviction {

/// What is known of a block that might lose its slot.
template <class SlotState>
struct Candidate {
    SlotState const& state;
    /// Where it stands in the announced list; `never` if it is not announced.
    index_t next_use;
    static constexpr index_t never = std::numeric_limits<index_t>::max();
};

template <class E>
concept HasSlotState = std::copyable<E> && std::copyable<typename E::SlotState> &&
    std::default_initializable<typename E::SlotState>;
template <class E>
concept HasNotices = requires(E& e, typename E::SlotState& state) {
    /// A block came into the slot, by an acquire or ahead of one.
    e.placed(state);
    /// The slot's block was acquired; follows `placed` where the acquire brought it in.
    e.used(state);
};
template <class E>
concept HasVictimOrder = requires(E const& e, Candidate<typename E::SlotState> a) {
    /// Whether a should lose its slot rather than b; a strict weak order.
    { e.before(a, a) } -> std::same_as<bool>;
};

/// Which block loses its slot. A tier keeps one policy a kind of block, and a SlotState for each of
/// its slots; the policy sees what happens to them and orders those that could be evicted.
/// Frequency counts, their decay, and the announced future all fit in.
template <class E>
concept EvictionPolicy = HasSlotState<E> && HasNotices<E> && HasVictimOrder<E>;
/// Capability: a policy whose numbers may be out of range.
template <class E>
concept HasValidation = requires(E const& e) {
    /// Throws precondition_error naming the field; called once, by the tier that takes the policy.
    e.validate();
};

/// What nobody announced goes first, the least recently used of it before the rest; then what is
/// announced for the latest (Belady's rule, as far as the future is known).
struct Lru {
    struct SlotState {
        std::uint64_t last_use = 0;
    };
    std::uint64_t clock = 0;

    void placed(SlotState& state) { state.last_use = ++clock; }
    void used(SlotState& state) { state.last_use = ++clock; }
    bool before(Candidate<SlotState> a, Candidate<SlotState> b) const {
        if (a.next_use != b.next_use) return a.next_use > b.next_use;
        return a.state.last_use < b.state.last_use;
    }
};

static_assert(EvictionPolicy<Lru>);

/// As Lru, but of what nobody announced the least often used goes first: of the blocks with at
/// least `threshold` uses the one with fewest, so that none is written out before it has earned it;
/// if there are none, the one with fewest of all. The least recently used decides between equals.
/// Every `period` uses of any block all counts fade, so that old fame does not last (SE-MoE, arXiv
/// 2205.10034, algorithm 2, where a full cache always finds a victim). Where use does not change
/// with time, a threshold above 1 costs loads: newcomers stay until they have earned a write.
struct Lfu {
    double threshold = 1;
    double decay = 0.5;    ///< what is left of a count after a period, from 0 to 1
    index_t period = 1024; ///< 0: counts never fade

    struct SlotState {
        double uses = 0; ///< as of `faded` periods
        std::uint64_t faded = 0, last_use = 0;
    };
    std::uint64_t clock = 0, num_uses = 0;

    /// @throws precondition_error naming the field
    void validate() const {
        expects(decay >= 0 && decay <= 1, "eviction::Lfu: decay is {}, must be from 0 to 1", decay);
    }
    void placed(SlotState& state) { state = {0, periods(), ++clock}; }
    void used(SlotState& state) {
        state = {uses(state) + 1, periods(), ++clock};
        ++num_uses;
    }
    bool before(Candidate<SlotState> a, Candidate<SlotState> b) const {
        if (a.next_use != b.next_use) return a.next_use > b.next_use;
        double const a_uses = uses(a.state), b_uses = uses(b.state);
        bool const a_earned = a_uses >= threshold, b_earned = b_uses >= threshold;
        if (a_earned != b_earned) return a_earned;
        if (a_uses != b_uses) return a_uses < b_uses;
        return a.state.last_use < b.state.last_use;
    }

private:
    std::uint64_t periods() const { return period > 0 ? num_uses / std::uint64_t(period) : 0; }
    double uses(SlotState const& state) const {
        return state.uses * std::pow(decay, double(periods() - state.faded));
    }
};

static_assert(EvictionPolicy<Lfu> && HasValidation<Lfu>);

} // namespace semoe::tier::eviction
