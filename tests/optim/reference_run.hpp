#pragma once

#include "optim/fixture.hpp"
#include "semoe/optim/concept.hpp"
#include "support/memory.hpp"

#include <doctest/doctest.h>
#include <string>
#include <type_traits>
#include <vector>

namespace semoe::test {

template <class Real>
std::vector<Real> cast_to(std::vector<double> const& values) {
    return {values.begin(), values.end()};
}

/// Runs an optimizer over the reference's five steps in T and compares every parameter after
/// every step with tensor `kind.STEP.P`, at a relative error of `tolerance`.
/// @param moments  names of the reference's final moments, in the optimizer's order
template <class T, class B, class O>
void check_reference_run(B& b, O const& optimizer, std::string const& kind, double tolerance,
                         std::vector<std::string> const& moments = {}) {
    using S = space_of<B>;
    std::string const prefix = std::is_same_v<T, double> ? "f64." + kind : kind;
    for (std::string const p : {"a", "b", "c"}) {
        auto weight = to_backend(b, cast_to<T>(optimizer_tensor("start." + p)));
        index_t const n = weight.size();
        auto state = to_backend(b, std::vector<T>(std::size_t(n * O::moments_per_element)));
        for (index_t step = 0; step < 5; ++step) {
            std::string const number = std::to_string(step);
            auto gradient = to_backend(b, cast_to<T>(optimizer_tensor("grad." + number + "." + p)));
            ParameterBlock<T, S> const block{weight.view(), {}, gradient.view(), state.view()};
            optimizer.update(b, block, UpdateStep{.step = step});
            CAPTURE(kind);
            CAPTURE(p);
            CAPTURE(step);
            CHECK(relative_error(to_host(b, weight),
                                 optimizer_tensor(prefix + "." + number + "." + p)) < tolerance);
        }
        auto const final_state = to_host(b, state);
        for (std::size_t m = 0; m < moments.size(); ++m) {
            auto const first = final_state.begin() + std::ptrdiff_t(m) * n;
            CHECK(relative_error(std::vector<T>(first, first + n),
                                 optimizer_tensor(prefix + "." + moments[m] + "." + p)) <
                  tolerance);
        }
    }
}

} // namespace semoe::test
