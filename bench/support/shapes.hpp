#pragma once

#include "semoe/core/types.hpp"

#include <algorithm>

namespace bench {

using semoe::index_t;

/// One layer of a published model: H, I, E and K.
struct Shape {
    char const* name;
    index_t hidden, intermediate, num_experts, top_k;

    /// Elements of one expert's gate_proj, up_proj and down_proj.
    double expert_elements() const { return 3.0 * double(hidden) * double(intermediate); }
};

inline constexpr Shape olmoe{"OLMoE", 2048, 1024, 64, 8};
inline constexpr Shape qwen3{"Qwen3-MoE", 2048, 768, 128, 8};
inline constexpr Shape mixtral{"Mixtral", 4096, 14336, 8, 2};
/// DeepSeek-V3 has 256 experts; 16 of them fit into memory.
inline constexpr Shape deepseek{"DeepSeek-V3-E16", 7168, 2048, 16, 8};

/// What the experts' weights are made of. Quantised ones have rows of bf16.
enum class Weights { bf16, floats, int8, int4, mxfp4 };
inline char const* to_string(Weights weights) {
    char const* const names[] = {"bf16", "float", "int8", "int4", "mxfp4"};
    return names[int(weights)];
}

/// What one timed call does.
enum class Work {
    forward,          ///< routed from outside, in an inference context
    gate_forward,     ///< the same with router and gate
    forward_backward, ///< with a training context: all gradients, written and not added
    training_step,    ///< and AdamW on every block
    step_at_once,     ///< the same by backward_and_update
};
inline bool is_step(Work work) { return work == Work::training_step || work == Work::step_at_once; }
inline char const* to_string(Work work) {
    switch (work) {
    case Work::forward:
        return "forward";
    case Work::gate_forward:
        return "gate+forward";
    case Work::forward_backward:
        return "forward+backward";
    case Work::training_step:
        return "step";
    case Work::step_at_once:
        return "step-at-once";
    }
    return "unknown";
}

/// What the work cannot do without: products, and bytes that must cross the memory bus once.
struct Cost {
    double flops = 0, bytes = 0;
};

/// The roofline's view of one call.
/// @param touched  experts that have rows; only their weights are read
/// @param element  bytes of one element of x and of y
/// @param weight   bytes of one weight, its part of scales included
///
/// Forward: 6 H I flops a row of an expert; the touched experts' weights, x and y.
/// Backward: twice the flops; the weights again, their gradients written in float, x again, dy, dx.
/// AdamW: gradients read, masters (of 16-bit weights) and two moments read and written in float,
/// weights written, and read where they are their own masters. At once with backward, no gradient
/// is written or read. Second packings are not counted:
/// a layer could do without.
inline Cost cost_of(Shape const& s, Work work, index_t tokens, double touched, double element,
                    double weight) {
    double const T = double(tokens), H = double(s.hidden), E = double(s.num_experts);
    double const weights = touched * s.expert_elements();
    Cost cost;
    cost.flops = 6.0 * H * double(s.intermediate) * T * double(s.top_k);
    cost.bytes = weights * weight + 2 * T * H * element;
    if (work == Work::gate_forward) {
        cost.flops += 2 * T * H * E;
        cost.bytes += 4 * H * E;
    }
    double const gradient = work == Work::step_at_once ? 0 : 4;
    if (work == Work::forward_backward || is_step(work)) {
        cost.flops *= 3;
        cost.bytes += weights * (element + gradient) + 3 * T * H * element;
    }
    if (is_step(work)) {
        double const all = E * s.expert_elements();
        double const masters = element < 4 ? 8 + element : 8;
        cost.bytes += weights * gradient + all * (masters + 16);
    }
    return cost;
}

/// Seconds that no machine with these limits undercuts.
inline double roofline_seconds(Cost const& cost, double flops_per_s, double bytes_per_s) {
    return std::max(cost.flops / flops_per_s, cost.bytes / bytes_per_s);
}

} // namespace bench
