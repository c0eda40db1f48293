#pragma once

#include "support/backends.hpp"
#include "support/grid.hpp"

#include <doctest/doctest.h>

namespace semoe::test {

/// A queue of its own for every rank, over the memory of one backend.
template <class B>
B rank_backend(B& shared, int) {
    return shared.fork();
}
#if !defined(__CUDACC__)
/// On the CPU ranks work inline, as programs do, and share the pool.
inline CpuBackend rank_backend(CpuBackend& shared, int) { return shared; }
#endif

template <class B>
B& shared_backend() {
    static B backend{};
    return backend;
}

template <class B, class MakeTier, class Sch>
Outcome step_on(GridCase const& n, int ranks, MakeTier make_tier, Sch schedule) {
    return run_step(
        n, ranks, [](int rank) { return rank_backend(shared_backend<B>(), rank); }, make_tier,
        schedule);
}

/// One rank, everything resident, one chunk.
template <class B>
Outcome baseline(GridCase const& n) {
    return step_on<B>(
        n, 1, [](B& b) { return tier::Resident<B>{b}; }, schedule::Sequential{});
}

template <class B, class MakeTier, class Sch>
void check_step(Outcome const& expected, GridCase const& n, int ranks, MakeTier make_tier,
                Sch schedule) {
    CAPTURE(schedule.chunks);
    auto const got = step_on<B>(n, ranks, make_tier, schedule);
    CHECK(got.y == expected.y);
    CHECK(got.tokens_per_expert == expected.tokens_per_expert);
    if (ranks == 1) {
        // Sums over tokens continue from chunk to chunk, so even gradients keep their bits.
        CHECK(got.dx == expected.dx);
        CHECK(worst_error(got.gradients, expected.gradients) == 0);
        CHECK(worst_error(got.weights, expected.weights) == 0);
        CHECK(got.norm == expected.norm);
    }
    CHECK(relative_error(got.dx, expected.dx) < 1e-6);
    CHECK(worst_error(got.gradients, expected.gradients) < 1e-6);
    // Adam's first step divides by |g|: a gradient near zero may turn the whole step.
    CHECK(worst_error(got.weights, expected.weights) < 1e-3);
    CHECK(got.aux_loss == doctest::Approx(expected.aux_loss).epsilon(1e-9));
    CHECK(got.z_loss == doctest::Approx(expected.z_loss).epsilon(1e-9));
    CHECK(got.norm == doctest::Approx(expected.norm).epsilon(1e-6));
}

} // namespace semoe::test
