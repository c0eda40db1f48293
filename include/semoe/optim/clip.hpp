#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/optim/detail/expects_number.hpp"

#include <cmath>

namespace semoe::optim {

/// The factor that bounds a global gradient norm, as torch.nn.utils.clip_grad_norm_:
/// min(1, limit / (norm + 1e-6)). Goes into UpdateStep::gradient_scale; where gradients are s times
/// the true ones, give norm_squared / s^2 here and divide the answer by s.
/// @param norm_squared  sum of squares over all parameters, of every layer that is clipped together
/// @throws data_error when the norm is not finite: an update would destroy the weights
/// @throws precondition_error unless limit > 0 and finite
/// @sync  none: host arithmetic
inline double clip_scale(double norm_squared, double limit) {
    detail::expects_number(limit > 0, "clip_scale: limit", limit, "be above 0 and finite");
    double const norm = std::sqrt(norm_squared);
    if (!std::isfinite(norm))
        throw data_error(
            message("clip_scale: the gradient norm is {}, no step can be taken", norm));
    double const scale = limit / (norm + 1e-6);
    return scale < 1 ? scale : 1;
}

} // namespace semoe::optim
