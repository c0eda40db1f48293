#pragma once

#include "semoe/core/error.hpp"

#include <cmath>
#include <cstdio>
#include <string>

namespace semoe::optim::detail {

/// Throws "NAME is VALUE, must RANGE" unless ok and value is finite.
/// @throws precondition_error
inline void expects_number(bool ok, char const* name, double value, char const* range) {
    expects(ok && std::isfinite(value), [&] {
        char text[160];
        std::snprintf(text, sizeof text, "%s is %g, must %s", name, value, range);
        return std::string(text);
    });
}

} // namespace semoe::optim::detail
