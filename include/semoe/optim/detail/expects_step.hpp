#pragma once

#include "semoe/optim/concept.hpp"
#include "semoe/optim/detail/expects_number.hpp"

#include <string>

namespace semoe::optim::detail {

/// @throws precondition_error for a number of a step that is out of range, after "OPTIMIZER: "
inline void expects_step(std::string const& optimizer, UpdateStep const& step) {
    auto const name = [&](char const* what) { return optimizer + ": " + what; };
    expects_number(step.step >= 0, name("step").c_str(), double(step.step), "be 0 or more");
    expects_number(true, name("lr_factor").c_str(), step.lr_factor, "be finite");
    expects_number(true, name("gradient_scale").c_str(), step.gradient_scale, "be finite");
}

} // namespace semoe::optim::detail
