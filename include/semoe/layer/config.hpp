#pragma once

#include "semoe/core/error.hpp"
#include "semoe/core/view.hpp"
#include "semoe/routing/capacity.hpp"

#include <cmath>

namespace semoe {

/// What a context is for: inference keeps nothing, training keeps what backward reads.
enum class Mode { inference, training };

/// Run-time properties of one layer; policies are types, these are values.
struct MoeConfig {
    layer_id layer = 0;          ///< the layer's number in every BlockKey and random stream
    Capacity capacity = {};      ///< dropless unless capacity.factor is set
    double aux_loss_weight = 0;  ///< of the load-balance loss, in backward
    double z_loss_weight = 0;    ///< of the router z-loss, in backward
    std::uint64_t seed = 0;      ///< of the gate's random numbers
    bool recompute = false;      ///< compute expert activations again in backward, so that a
                                 ///< context has memory for those of one chunk, not of all
    bool skip_untouched = false; ///< an update leaves experts without a gradient alone, so that
                                 ///< one met late has moments of zero and a late step's bias
                                 ///< corrections
    double mutual_information_weight = 0; ///< of the mutual-information loss, in backward

    /// @throws precondition_error naming the field
    void validate() const {
        expects(layer >= 0, "MoeConfig: layer is {}, must not be negative", layer);
        auto const finite = [](char const* name, double weight) {
            expects(std::isfinite(weight), "MoeConfig: {} is {}, must be finite", name, weight);
        };
        finite("aux_loss_weight", aux_loss_weight);
        finite("z_loss_weight", z_loss_weight);
        finite("mutual_information_weight", mutual_information_weight);
        capacity.validate();
    }
};

/// What may differ from one forward to the next.
template <class Space>
struct ForwardOptions {
    /// [T], backend memory, 0 marks padding: no output, no gradient, no part in any loss or metric,
    /// whatever its rows of x hold.
    VectorView<std::uint8_t const, Space> mask = {};
    /// [T], backend memory, for gates that route by token; in training it must stay as it is until
    /// backward.
    VectorView<std::int32_t const, Space> token_ids = {};
    std::uint64_t step = 0; ///< keys the gate's random numbers
};

struct BackwardOptions {
    /// Multiplies the auxiliary losses' gradients; dy is the caller's to scale.
    double loss_scale = 1;
};

} // namespace semoe
