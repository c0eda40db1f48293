#pragma once

#include "semoe/core/error.hpp"
#include "semoe/optim/concept.hpp"

#include <cmath>
#include <cstdio>
#include <string>

namespace semoe::optim::detail {

/// @throws precondition_error for a number of a step that is out of range
inline void expects_step(char const* optimizer, UpdateStep const& step) {
    auto const expect = [&](bool ok, char const* name, double value, char const* range) {
        expects(ok && std::isfinite(value), [&] {
            char text[160];
            std::snprintf(text, sizeof text, "%s: %s is %g, must %s", optimizer, name, value,
                          range);
            return std::string(text);
        });
    };
    expect(step.step >= 0, "step", double(step.step), "be 0 or more");
    expect(step.lr_factor >= 0, "lr_factor", step.lr_factor, "be 0 or more");
    expect(true, "gradient_scale", step.gradient_scale, "be finite");
}

} // namespace semoe::optim::detail
