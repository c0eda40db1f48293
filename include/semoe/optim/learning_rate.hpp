#pragma once

#include "semoe/core/types.hpp"
#include "semoe/optim/detail/expects_number.hpp"

#include <cmath>
#include <concepts>

/// Schedules of the learning rate: step -> factor in [0, 1] for UpdateStep::lr_factor. Step 0 is
/// the first update, which a warm-up gives a factor of 0: call with step + 1 to begin above it. A
/// schedule of one's own is any callable of this form.
namespace semoe::optim::learning_rate {

template <class S>
concept Schedule = requires(S const& s, index_t step) {
    { s(step) } -> std::convertible_to<double>;
};

namespace detail {
/// Share of the way from the end of the warm-up to `total`, held at 1 past it.
inline double progress(index_t step, index_t warmup, index_t total) {
    if (step >= total) return 1;
    return double(step - warmup) / double(total - warmup);
}
inline void validate(char const* warmup_name, index_t warmup, char const* total_name, index_t total,
                     char const* minimum_name, double minimum) {
    using optim::detail::expects_number;
    expects_number(total >= 1, total_name, double(total), "be 1 or more");
    expects_number(warmup >= 0 && warmup <= total, warmup_name, double(warmup),
                   "lie in [0, total]");
    expects_number(minimum >= 0 && minimum <= 1, minimum_name, minimum, "lie in [0, 1]");
}
/// Share of the warm-up that lies behind. @throws precondition_error for a step before the first
inline double risen(index_t step, index_t warmup) {
    optim::detail::expects_number(step >= 0, "learning_rate: step", double(step), "be 0 or more");
    return step < warmup ? double(step) / double(warmup) : 1.0;
}
} // namespace detail

/// Rises linearly from 0 over `warmup` steps, then stays 1.
struct Constant {
    index_t warmup = 0;

    double operator()(index_t step) const {
        optim::detail::expects_number(warmup >= 0, "learning_rate::Constant: warmup",
                                      double(warmup), "be 0 or more");
        return detail::risen(step, warmup);
    }
};

/// Rises linearly from 0 over `warmup` steps, then falls linearly to `minimum` at `total`, where
/// it stays.
struct Linear {
    index_t warmup = 0, total = 0;
    double minimum = 0;

    double operator()(index_t step) const {
        detail::validate("learning_rate::Linear: warmup", warmup, "learning_rate::Linear: total",
                         total, "learning_rate::Linear: minimum", minimum);
        if (double const share = detail::risen(step, warmup); step < warmup) return share;
        return minimum + (1 - minimum) * (1 - detail::progress(step, warmup, total));
    }
};

/// Rises linearly from 0 over `warmup` steps, then falls along half a cosine to `minimum` at
/// `total`, where it stays (Loshchilov and Hutter, ICLR 2017, without restarts).
struct Cosine {
    index_t warmup = 0, total = 0;
    double minimum = 0;

    double operator()(index_t step) const {
        detail::validate("learning_rate::Cosine: warmup", warmup, "learning_rate::Cosine: total",
                         total, "learning_rate::Cosine: minimum", minimum);
        if (double const share = detail::risen(step, warmup); step < warmup) return share;
        double const angle = 3.14159265358979323846 * detail::progress(step, warmup, total);
        return minimum + (1 - minimum) * 0.5 * (1 + std::cos(angle));
    }
};

} // namespace semoe::optim::learning_rate
