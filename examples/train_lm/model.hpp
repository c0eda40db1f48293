#pragma once

// What is chosen here at compile time: the gate, the expert and the sizes. Change a line, build,
// and train another model; a checkpoint of the old one will name the line that differs.

#include "names.hpp"

#include <semoe/semoe.hpp>

#include <map>
#include <string>

namespace train_lm {

using Element = semoe::bf16; // or float; gradients, masters and moments are float
using Expert = semoe::expert::SwiGlu<Element>;
using Gate = semoe::gate::TopK<semoe::gate::TopKSoftmax>;

inline constexpr semoe::index_t hidden = 128;
inline constexpr semoe::index_t num_layers = 3;
inline constexpr semoe::index_t num_heads = 4;
inline constexpr semoe::index_t num_experts = 8;
inline constexpr semoe::index_t top_k = 2;
inline constexpr semoe::index_t intermediate = 192; // of one expert
inline constexpr semoe::index_t window = 128;       // bytes that attention sees
inline constexpr semoe::index_t batch = 16;         // windows in a step

inline Gate make_gate() { return {.num_experts = num_experts, .top_k = top_k}; }
inline Expert make_expert() { return {.hidden = hidden, .intermediate = intermediate}; }
inline semoe::MoeConfig make_config(semoe::layer_id layer, std::uint64_t seed) {
    return {.layer = layer, .aux_loss_weight = 0.01, .z_loss_weight = 1e-4, .seed = seed};
}

inline semoe::optim::AdamW make_optimizer() {
    return {.lr = 2e-3, .beta1 = 0.9, .beta2 = 0.98, .weight_decay = 0.01};
}
inline constexpr double gradient_limit = 1.0; // global norm
inline constexpr semoe::index_t warmup = 40;  // steps; then the rate falls as 1 / sqrt(step)

/// What must be equal for a checkpoint to be resumed.
inline std::map<std::string, std::string> fields() {
    semoe::MoeConfig const config = make_config(0, 0);
    return {{"expert", type_name<Expert>()},
            {"gate", type_name<Gate>()},
            {"gate_setting", text(semoe::gate_setting(make_gate()))},
            {"capacity", text(config.capacity.factor)},
            {"capacity_minimum", std::to_string(config.capacity.minimum)},
            {"capacity_drop", std::to_string(int(config.capacity.drop))},
            {"aux_loss_weight", text(config.aux_loss_weight)},
            {"z_loss_weight", text(config.z_loss_weight)},
            {"mutual_information_weight", text(config.mutual_information_weight)},
            {"skip_untouched", std::to_string(int(config.skip_untouched))},
            {"optimizer", type_name<decltype(make_optimizer())>()},
            {"lr", text(make_optimizer().lr)},
            {"beta1", text(make_optimizer().beta1)},
            {"beta2", text(make_optimizer().beta2)},
            {"eps", text(make_optimizer().eps)},
            {"weight_decay", text(make_optimizer().weight_decay)},
            {"gradient_limit", text(gradient_limit)},
            {"warmup", std::to_string(warmup)},
            {"hidden", std::to_string(hidden)},
            {"num_layers", std::to_string(num_layers)},
            {"num_heads", std::to_string(num_heads)},
            {"num_experts", std::to_string(num_experts)},
            {"top_k", std::to_string(top_k)},
            {"intermediate", std::to_string(intermediate)},
            {"window", std::to_string(window)},
            {"batch", std::to_string(batch)}};
}

} // namespace train_lm
