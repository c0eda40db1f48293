#pragma once

#include "semoe/comm/threads.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/testing/reference.hpp"
#include "support/memory.hpp"

#include <map>
#include <string>
#include <vector>

namespace semoe::test {

using Named = std::map<std::string, std::vector<double>>;

/// Every parameter of one kind on this rank, by name, on the host.
template <class L>
Named parameters_of(L& layer, BlockKind kind = BlockKind::weight) {
    Named all;
    layer.for_each_parameter(
        [&](std::string const& name, auto view, Shape) {
            auto const values = to_host(layer.backend(), view.data, view.rows * view.cols);
            all[name].assign(values.begin(), values.end());
        },
        kind);
    return all;
}

/// What a context tells of its forward, by name.
template <class Context>
Named summary_of(Context const& context) {
    auto const& n = context.counters;
    return {{"losses",
             {context.losses.aux_loss, context.losses.z_loss, context.losses.mutual_information}},
            {"counters", {double(n.num_tokens), double(n.dropped), n.entropy}},
            {"tokens_per_expert", {n.tokens_per_expert.begin(), n.tokens_per_expert.end()}}};
}

/// Adds what one rank has to what others have.
/// @return  names that are there already with other bits: replicas that went apart
inline std::string add_rank(Named& all, Named const& own) {
    std::string apart;
    for (auto const& [name, values] : own)
        if (all.try_emplace(name, values).first->second != values) apart += name + " ";
    return apart;
}

/// A reference gate's rule by name.
inline testing::ReferenceGate reference_gate(std::string const& rule, index_t k, double scale = 1,
                                             std::vector<double> bias = {}) {
    using testing::Vector;
    auto const sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
    testing::ReferenceGate gate;
    gate.select = testing::select_top_k(k, [=](double z, expert_id e) {
        if (rule == "sigmoid_bias") return sigmoid(z) + (bias.empty() ? 0.0 : bias[std::size_t(e)]);
        return z;
    });
    gate.weights = [=](Vector const& logits, std::vector<expert_id> const& chosen, index_t) {
        Vector w(chosen.size());
        Vector const p = testing::reference_softmax(logits);
        double sum = rule == "sigmoid_bias" || rule == "sigmoid_normalised" ? 1e-20 : 0;
        for (std::size_t i = 0; i < w.size(); ++i) {
            if (chosen[i] < 0) continue;
            double const z = logits[std::size_t(chosen[i])];
            w[i] = rule == "softmax" || rule == "topk_softmax" ? p[std::size_t(chosen[i])]
                                                               : sigmoid(z);
            sum += w[i];
        }
        bool const normalised = rule != "softmax" && rule != "sigmoid";
        for (double& v : w) v *= scale / (normalised && sum > 0 ? sum : 1);
        return w;
    };
    return gate;
}

/// The oracle with the layer's own weights (of all ranks).
inline testing::ReferenceLayer reference_of(Named const& p, index_t hidden, index_t intermediate,
                                            index_t num_experts, testing::ReferenceGate gate,
                                            std::function<double(double)> activation,
                                            std::function<double(double)> derivative,
                                            index_t shared_intermediate = 0) {
    auto const get = [&](std::string const& name) {
        auto const it = p.find(name);
        return it == p.end() ? std::vector<double>{} : it->second;
    };
    auto const expert = [&](std::string const& prefix, index_t width) {
        testing::ReferenceExpert e;
        e.hidden = hidden;
        e.intermediate = width;
        e.activation = activation;
        e.derivative = derivative;
        e.gate_proj = get(prefix + "gate_proj");
        e.up_proj = get(prefix + "up_proj");
        e.down_proj = get(prefix + "down_proj");
        e.gate_bias = get(prefix + "gate_bias");
        e.up_bias = get(prefix + "up_bias");
        e.down_bias = get(prefix + "down_bias");
        return e;
    };
    testing::ReferenceLayer r;
    r.hidden = hidden;
    r.num_experts = num_experts;
    r.router = get("router.weight");
    r.shared_gate = get("router.shared_gate");
    r.gate = std::move(gate);
    for (index_t e = 0; e < num_experts; ++e)
        r.experts.push_back(expert("experts." + std::to_string(e) + ".", intermediate));
    if (shared_intermediate > 0) r.shared = expert("shared.", shared_intermediate);
    return r;
}

/// The oracle's gradients under the layer's names.
inline Named named_gradients(testing::ReferenceLayer::Gradients const& g) {
    Named all{{"router.weight", g.router}};
    auto const add = [&](std::string const& prefix, testing::ReferenceExpert const& e) {
        for (auto const& [name, values] :
             {std::pair{"gate_proj", &e.gate_proj}, std::pair{"up_proj", &e.up_proj},
              std::pair{"down_proj", &e.down_proj}, std::pair{"gate_bias", &e.gate_bias},
              std::pair{"up_bias", &e.up_bias}, std::pair{"down_bias", &e.down_bias}})
            if (!values->empty()) all[prefix + name] = *values;
    };
    for (std::size_t e = 0; e < g.experts.size(); ++e)
        add("experts." + std::to_string(e) + ".", g.experts[e]);
    if (g.shared.hidden) add("shared.", g.shared);
    if (!g.shared_gate.empty()) all["router.shared_gate"] = g.shared_gate;
    return all;
}

/// The largest relative error over tensors; a tensor that only one side has counts as infinite.
inline double worst_error(Named const& a, Named const& b) {
    double worst = a.size() == b.size() ? 0 : 1e300;
    for (auto const& [name, values] : b) {
        auto const it = a.find(name);
        worst = std::max(worst, it == a.end() ? 1e300 : relative_error(it->second, values));
    }
    return worst;
}

} // namespace semoe::test
