#pragma once

#include "semoe/core/types.hpp"

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

} // namespace semoe::tier::eviction
