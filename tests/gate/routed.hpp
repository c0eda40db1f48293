#pragma once

#include "semoe/backend/workspace.hpp"
#include "semoe/gate/concept.hpp"
#include "support/memory.hpp"

#include <vector>

namespace semoe::test {

/// What a gate answers, on the host.
template <class Real>
struct Routed {
    std::vector<expert_id> ids;
    std::vector<Real> weights;
};

/// Options of one call.
struct RouteOptions {
    std::vector<std::uint8_t> mask = {};
    RngKey rng = {};
    index_t first_token = 0;
    bool training = false;
};

/// One forward over host logits [T,E].
template <class B, class G, class Real>
Routed<Real> route(B& b, G const& gate, std::vector<Real> const& logits,
                   RouteOptions const& options = {}) {
    index_t const E = gate.num_experts, T = index_t(logits.size()) / E, K = slots_per_token(gate);
    auto const z = to_backend(b, logits);
    auto const mask = to_backend(b, options.mask);
    Buffer<expert_id, B> ids(b, T * K);
    Buffer<Real, B> weights(b, T * K);
    Buffer<std::byte, B> scratch(b, gate_scratch_bytes(gate, T));
    RouteInput<B, Real> input;
    input.logits = z.matrix(T, E);
    input.mask = mask.view();
    input.rng = options.rng;
    input.first_token = options.first_token;
    input.training = options.training;
    input.scratch = scratch.view();
    gate.forward(b, input, Assignment<B, Real>{ids.matrix(T, K), weights.matrix(T, K)});
    return {to_host(b, ids), to_host(b, weights)};
}

} // namespace semoe::test
