#pragma once

#include "semoe/core/config.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

namespace semoe {

/// Which choices an expert refuses once it is full.
enum class Drop {
    position,    ///< the last ones, in order of token, then choice
    probability, ///< those of the smallest weights; equal weights refuse the higher token
};

/// How many rows an expert takes of one forward over all ranks. Capacity is the share of an expert
/// when all choices are spread evenly, times `factor` (GShard, arXiv 2006.16668).
struct Capacity {
    double factor = 0;   ///< 0: dropless, every expert takes every row sent to it
    index_t minimum = 1; ///< an expert takes at least this many
    Drop drop = Drop::position;

    bool operator==(Capacity const&) const = default;
    SEMOE_HD constexpr bool dropless() const { return factor == 0; }

    /// @throws precondition_error naming the field
    void validate() const {
        expects(factor >= 0 && factor < 1e6, "Capacity: factor is {}, must lie in [0, 1e6)",
                factor);
        expects(minimum >= 0, "Capacity: minimum is {}, must not be negative", minimum);
    }
};

/// ceil(factor * choices / num_experts). A quotient that only rounding lifted above a whole number
/// counts as that number: 1.1 * 30 / 3 is 11, although 1.1 has no exact double.
SEMOE_HD constexpr index_t fair_share(double factor, index_t choices, index_t num_experts) {
    double const share = double(choices) * factor / double(num_experts);
    if (share >= double(choices)) return choices;
    auto const whole = index_t(share);
    return share - double(whole) > 5e-16 * share ? whole + 1 : whole;
}

/// Rows that one expert takes: max(minimum, ceil(factor * choices / num_experts)).
/// @param choices  of all ranks together: K for every token that is not masked
/// @pre !capacity.dropless()
SEMOE_HD constexpr index_t capacity_of(Capacity const& capacity, index_t choices,
                                       index_t num_experts) {
    index_t const share = fair_share(capacity.factor, choices, num_experts);
    return share > capacity.minimum ? share : capacity.minimum;
}
/// The same for T unmasked tokens of K choices each; never above T, which no expert can exceed.
SEMOE_HD constexpr index_t capacity_of(Capacity const& capacity, index_t num_tokens, index_t top_k,
                                       index_t num_experts) {
    index_t const rows = capacity_of(capacity, num_tokens * top_k, num_experts);
    return rows < num_tokens ? rows : num_tokens;
}

} // namespace semoe
