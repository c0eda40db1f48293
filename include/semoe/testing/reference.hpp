#pragma once

#include "semoe/core/types.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

namespace semoe::testing {

/// A whole MoE layer as plain loops over doubles on the host: the oracle that every tuned,
/// distributed or tiered layer is compared with. Shares no code with the layer.

using Vector = std::vector<double>;

/// y = down(act(up x)) or, with a gate projection, down(act(gate x) * (up x)). Biases may be empty.
struct ReferenceExpert {
    index_t hidden = 0, intermediate = 0;
    std::function<double(double)> activation, derivative;
    Vector gate_proj, up_proj, down_proj; // [I,H] or empty, [I,H], [H,I]
    Vector gate_bias, up_bias, down_bias; // [I], [I], [H] or empty

    Vector forward(double const* x) const {
        auto const [act, unused] = hidden_units(x);
        Vector y = down_bias.empty() ? Vector(std::size_t(hidden)) : down_bias;
        for (index_t h = 0; h < hidden; ++h)
            for (index_t i = 0; i < intermediate; ++i)
                y[std::size_t(h)] += at(down_proj, h, i, intermediate) * act[std::size_t(i)];
        return y;
    }
    /// Adds this row's share to `gradient` (an expert of the same shape) and to dx [H].
    void backward(double const* x, double const* dy, ReferenceExpert& gradient, double* dx) const {
        auto const [act, pre] = hidden_units(x);
        for (index_t h = 0; h < hidden && !down_bias.empty(); ++h)
            gradient.down_bias[std::size_t(h)] += dy[h];
        for (index_t i = 0; i < intermediate; ++i) {
            double d_act = 0;
            for (index_t h = 0; h < hidden; ++h) {
                d_act += at(down_proj, h, i, intermediate) * dy[h];
                at(gradient.down_proj, h, i, intermediate) += act[std::size_t(i)] * dy[h];
            }
            double const up = pre.up[std::size_t(i)];
            double d_up = d_act * derivative(up), d_gate = 0;
            if (!gate_proj.empty()) {
                double const gate = pre.gate[std::size_t(i)];
                d_up = d_act * activation(gate);
                d_gate = d_act * up * derivative(gate);
                spread(gate_proj, gradient.gate_proj, gradient.gate_bias, i, d_gate, x, dx);
            }
            spread(up_proj, gradient.up_proj, gradient.up_bias, i, d_up, x, dx);
        }
    }
    /// The same shapes, all zero: a place for gradients.
    ReferenceExpert zeros() const {
        ReferenceExpert z = *this;
        for (Vector* v :
             {&z.gate_proj, &z.up_proj, &z.down_proj, &z.gate_bias, &z.up_bias, &z.down_bias})
            std::fill(v->begin(), v->end(), 0.0);
        return z;
    }

private:
    struct Pre {
        Vector gate, up;
    };
    static double& at(Vector& matrix, index_t r, index_t c, index_t cols) {
        return matrix[std::size_t(r * cols + c)];
    }
    static double at(Vector const& matrix, index_t r, index_t c, index_t cols) {
        return matrix[std::size_t(r * cols + c)];
    }
    Vector project(Vector const& w, Vector const& bias, double const* x) const {
        Vector y = bias.empty() ? Vector(std::size_t(intermediate)) : bias;
        for (index_t i = 0; i < intermediate; ++i)
            for (index_t h = 0; h < hidden; ++h) y[std::size_t(i)] += at(w, i, h, hidden) * x[h];
        return y;
    }
    std::pair<Vector, Pre> hidden_units(double const* x) const {
        Pre pre{{}, project(up_proj, up_bias, x)};
        Vector act = pre.up;
        if (gate_proj.empty()) {
            for (double& a : act) a = activation(a);
        } else {
            pre.gate = project(gate_proj, gate_bias, x);
            for (std::size_t i = 0; i < act.size(); ++i) act[i] *= activation(pre.gate[i]);
        }
        return {act, pre};
    }
    void spread(Vector const& w, Vector& dw, Vector& d_bias, index_t i, double d, double const* x,
                double* dx) const {
        if (!d_bias.empty()) d_bias[std::size_t(i)] += d;
        for (index_t h = 0; h < hidden; ++h) {
            at(dw, i, h, hidden) += d * x[h];
            dx[h] += d * at(w, i, h, hidden);
        }
    }
};

/// A gate as two functions. Selection may look at all tokens; weights look at one.
struct ReferenceGate {
    /// logits [T,E], mask [T] -> choices of each token, in order; -1 chooses nobody
    std::function<std::vector<std::vector<expert_id>>(Vector const& logits, index_t num_tokens,
                                                      index_t num_experts,
                                                      std::vector<char> const& mask)>
        select;
    /// logits of one token, its choices and its number -> their weights, normalised and scaled
    std::function<Vector(Vector const& logits, std::vector<expert_id> const& chosen, index_t token)>
        weights;
};

inline Vector reference_softmax(Vector logits) {
    double const top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double& z : logits) sum += z = std::exp(z - top);
    for (double& z : logits) z /= sum;
    return logits;
}
/// sigmoid(z) divided by its sum.
inline Vector reference_sigmoid_share(Vector logits) {
    double sum = 0;
    for (double& z : logits) sum += z = 1 / (1 + std::exp(-z));
    for (double& z : logits) z /= sum;
    return logits;
}
/// The K largest keys of every token, ties to the lower expert.
inline auto select_top_k(index_t k, std::function<double(double, expert_id)> key) {
    return [=](Vector const& logits, index_t num_tokens, index_t num_experts,
               std::vector<char> const& mask) {
        std::vector<std::vector<expert_id>> chosen(static_cast<std::size_t>(num_tokens));
        for (std::size_t t = 0; t < chosen.size(); ++t) {
            std::vector<expert_id> order(static_cast<std::size_t>(num_experts));
            std::iota(order.begin(), order.end(), 0);
            double const* z = logits.data() + t * order.size();
            std::stable_sort(order.begin(), order.end(),
                             [&](expert_id a, expert_id b) { return key(z[a], a) > key(z[b], b); });
            order.resize(std::size_t(k));
            if (!mask.empty() && !mask[t]) order.assign(std::size_t(k), -1);
            chosen[t] = order;
        }
        return chosen;
    };
}

/// Which choices survive a limited capacity. @see routing/capacity.hpp
struct ReferenceCapacity {
    double factor = 0; ///< 0: dropless
    index_t minimum = 1;
    bool by_probability = false;
};

struct ReferenceLayer {
    index_t hidden = 0, num_experts = 0;
    Vector router; // [E,H]
    ReferenceGate gate;
    std::vector<ReferenceExpert> experts;
    ReferenceExpert shared; // hidden == 0: none
    Vector shared_gate;     // [H], or empty: the shared expert counts in full
    ReferenceCapacity capacity;
    double aux_loss_weight = 0, z_loss_weight = 0, mutual_information_weight = 0;
    /// What the load-balance and the mutual-information loss take a token's probabilities from.
    std::function<Vector(Vector)> probabilities = reference_softmax;

    struct Result {
        Vector logits, y;                                 // [T,E], [T,H]
        std::vector<std::vector<expert_id>> chosen, kept; // per token; kept has -1 where dropped
        std::vector<Vector> weights;
        double aux_loss = 0, z_loss = 0, mutual_information = 0;
        index_t dropped = 0;
    };
    struct Gradients {
        Vector dx, router, shared_gate; // [T,H], [E,H], [H]
        std::vector<ReferenceExpert> experts;
        ReferenceExpert shared;
    };

    /// mask: empty, or 0 for padding.
    Result forward(Vector const& x, std::vector<char> const& mask = {}) const {
        index_t const tokens = index_t(x.size()) / std::max<index_t>(hidden, 1);
        Result r;
        r.logits.assign(std::size_t(tokens * num_experts), 0.0);
        for (index_t t = 0; t < tokens; ++t)
            for (index_t e = 0; e < num_experts; ++e)
                for (index_t h = 0; h < hidden; ++h)
                    r.logits[std::size_t(t * num_experts + e)] +=
                        x[std::size_t(t * hidden + h)] * router[std::size_t(e * hidden + h)];
        r.chosen = gate.select(r.logits, tokens, num_experts, mask);
        for (index_t t = 0; t < tokens; ++t)
            r.weights.push_back(gate.weights(row(r.logits, t), r.chosen[std::size_t(t)], t));
        r.kept = drop(r);
        r.y.assign(x.size(), 0.0);
        for (index_t t = 0; t < tokens; ++t) {
            if (!mask.empty() && !mask[std::size_t(t)]) continue;
            double* y = r.y.data() + t * hidden;
            double const* xt = x.data() + t * hidden;
            if (shared.hidden) {
                Vector const out = shared.forward(xt);
                for (index_t h = 0; h < hidden; ++h) y[h] += factor(xt) * out[std::size_t(h)];
            }
            auto const& kept = r.kept[std::size_t(t)];
            for (std::size_t k = 0; k < kept.size(); ++k) {
                if (kept[k] < 0) continue;
                Vector const out = experts[std::size_t(kept[k])].forward(xt);
                for (index_t h = 0; h < hidden; ++h)
                    y[h] += r.weights[std::size_t(t)][k] * out[std::size_t(h)];
            }
        }
        losses(r, mask);
        return r;
    }

    /// Gradients of sum(y * dy) and of the losses, each times its weight, the choice of experts
    /// held constant.
    Gradients backward(Vector const& x, Vector const& dy, Result const& r,
                       std::vector<char> const& mask = {}) const {
        index_t const tokens = index_t(r.chosen.size());
        Gradients g{Vector(x.size()), Vector(router.size()), Vector(shared_gate.size()), {}, {}};
        for (ReferenceExpert const& e : experts) g.experts.push_back(e.zeros());
        if (shared.hidden) g.shared = shared.zeros();
        Vector d_logits = loss_gradient(r, mask);
        for (index_t t = 0; t < tokens; ++t) {
            if (!mask.empty() && !mask[std::size_t(t)]) continue;
            double const* xt = x.data() + t * hidden;
            double const* dyt = dy.data() + t * hidden;
            double* dx = g.dx.data() + t * hidden;
            if (shared.hidden) backward_shared(xt, dyt, g, dx);
            auto const& kept = r.kept[std::size_t(t)];
            Vector d_weight(kept.size());
            for (std::size_t k = 0; k < kept.size(); ++k) {
                if (kept[k] < 0) continue;
                auto const e = std::size_t(kept[k]);
                Vector const out = experts[e].forward(xt);
                Vector d_out(static_cast<std::size_t>(hidden));
                for (index_t h = 0; h < hidden; ++h) {
                    d_weight[k] += dyt[h] * out[std::size_t(h)];
                    d_out[std::size_t(h)] = r.weights[std::size_t(t)][k] * dyt[h];
                }
                experts[e].backward(xt, d_out.data(), g.experts[e], dx);
            }
            add_weight_gradient(r, t, d_weight, d_logits);
            for (index_t e = 0; e < num_experts; ++e) {
                double const d = d_logits[std::size_t(t * num_experts + e)];
                for (index_t h = 0; h < hidden; ++h) {
                    g.router[std::size_t(e * hidden + h)] += d * xt[h];
                    dx[h] += d * router[std::size_t(e * hidden + h)];
                }
            }
        }
        return g;
    }

private:
    Vector row(Vector const& m, index_t t) const {
        return Vector(m.begin() + t * num_experts, m.begin() + (t + 1) * num_experts);
    }
    double factor(double const* x) const {
        if (shared_gate.empty()) return 1;
        return 1 / (1 + std::exp(-std::inner_product(x, x + hidden, shared_gate.begin(), 0.0)));
    }
    void backward_shared(double const* x, double const* dy, Gradients& g, double* dx) const {
        double const f = factor(x);
        Vector const out = shared.forward(x);
        Vector d_out(static_cast<std::size_t>(hidden));
        double d_factor = 0;
        for (index_t h = 0; h < hidden; ++h) {
            d_out[std::size_t(h)] = f * dy[h];
            d_factor += dy[h] * out[std::size_t(h)];
        }
        shared.backward(x, d_out.data(), g.shared, dx);
        for (index_t h = 0; h < hidden && !shared_gate.empty(); ++h) {
            g.shared_gate[std::size_t(h)] += d_factor * f * (1 - f) * x[h];
            dx[h] += d_factor * f * (1 - f) * shared_gate[std::size_t(h)];
        }
    }
    /// d weights / d logits by central differences with the choices held constant.
    void add_weight_gradient(Result const& r, index_t t, Vector const& d_weight,
                             Vector& d_logits) const {
        double const step = 1e-5;
        auto const& chosen = r.chosen[std::size_t(t)];
        for (index_t e = 0; e < num_experts; ++e) {
            Vector z = row(r.logits, t);
            z[std::size_t(e)] += step;
            Vector const above = gate.weights(z, chosen, t);
            z[std::size_t(e)] -= 2 * step;
            Vector const below = gate.weights(z, chosen, t);
            for (std::size_t k = 0; k < chosen.size(); ++k)
                d_logits[std::size_t(t * num_experts + e)] +=
                    d_weight[k] * (above[k] - below[k]) / (2 * step);
        }
    }
    std::vector<std::vector<expert_id>> drop(Result& r) const {
        auto kept = r.chosen;
        if (capacity.factor <= 0 || kept.empty()) return kept;
        double choices = 0;
        for (auto const& row : kept)
            choices +=
                double(std::count_if(row.begin(), row.end(), [](expert_id e) { return e >= 0; }));
        double const even = choices / double(num_experts);
        auto const limit =
            std::max<index_t>(capacity.minimum, index_t(std::ceil(even * capacity.factor - 1e-9)));
        for (expert_id e = 0; e < num_experts; ++e) {
            struct Place {
                std::size_t t, k;
                double weight;
            };
            std::vector<Place> places;
            for (std::size_t t = 0; t < kept.size(); ++t)
                for (std::size_t k = 0; k < kept[t].size(); ++k)
                    if (kept[t][k] == e) places.push_back({t, k, r.weights[t][k]});
            if (capacity.by_probability)
                std::stable_sort(places.begin(), places.end(), [](Place const& a, Place const& b) {
                    return a.weight > b.weight;
                });
            for (auto i = std::size_t(limit); i < places.size(); ++i) {
                kept[places[i].t][places[i].k] = -1;
                ++r.dropped;
            }
        }
        return kept;
    }
    /// f_e, the share of choices that expert e got, over unmasked tokens, before capacity.
    Vector shares(Result const& r) const {
        Vector f(static_cast<std::size_t>(num_experts));
        double total = 0;
        for (auto const& chosen : r.chosen)
            for (expert_id e : chosen)
                if (e >= 0) ++f[std::size_t(e)], ++total;
        for (double& v : f) v /= total > 0 ? total : 1;
        return f;
    }
    static double unmasked(Result const& r, std::vector<char> const& mask) {
        if (mask.empty()) return double(r.chosen.size());
        return double(std::count_if(mask.begin(), mask.end(), [](char m) { return m != 0; }));
    }
    static double log_sum_exp(Vector const& z) {
        double const top = *std::max_element(z.begin(), z.end());
        double sum = 0;
        for (double v : z) sum += std::exp(v - top);
        return top + std::log(sum);
    }
    /// One token's share of the load-balance loss, times the number of tokens.
    double balance(Vector const& z, Vector const& f) const {
        Vector const p = probabilities(z);
        return double(num_experts) * std::inner_product(p.begin(), p.end(), f.begin(), 0.0);
    }
    static double square_of_log_sum_exp(Vector const& z) {
        double const lse = log_sum_exp(z);
        return lse * lse;
    }
    /// The mean probabilities of the unmasked tokens.
    Vector mean_probabilities(Result const& r, std::vector<char> const& mask) const {
        Vector mean(static_cast<std::size_t>(num_experts));
        for (std::size_t t = 0; t < r.chosen.size(); ++t) {
            if (!mask.empty() && !mask[t]) continue;
            Vector const p = probabilities(row(r.logits, index_t(t)));
            for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += p[e] / unmasked(r, mask);
        }
        return mean;
    }
    static double negative_entropy(Vector const& p) {
        double sum = 0;
        for (double v : p) sum += v > 0 ? v * std::log(v) : 0;
        return sum;
    }
    void losses(Result& r, std::vector<char> const& mask) const {
        double const count = unmasked(r, mask);
        Vector const f = shares(r);
        r.mutual_information = negative_entropy(mean_probabilities(r, mask));
        for (std::size_t t = 0; t < r.chosen.size(); ++t) {
            if (!mask.empty() && !mask[t]) continue;
            Vector const z = row(r.logits, index_t(t));
            r.aux_loss += balance(z, f) / count;
            r.z_loss += square_of_log_sum_exp(z) / count;
            r.mutual_information -= negative_entropy(probabilities(z)) / count;
        }
    }
    /// By central differences, f held constant.
    Vector loss_gradient(Result const& r, std::vector<char> const& mask) const {
        Vector d(r.logits.size());
        if (aux_loss_weight == 0 && z_loss_weight == 0 && mutual_information_weight == 0) return d;
        double const count = unmasked(r, mask), step = 1e-5;
        Vector const f = shares(r), mean = mean_probabilities(r, mask);
        // Of one token whose logits were `from`, times the number of tokens.
        auto const loss = [&](Vector const& z, Vector const& from) {
            double sum = aux_loss_weight == 0 ? 0 : aux_loss_weight * balance(z, f);
            if (z_loss_weight != 0) sum += z_loss_weight * square_of_log_sum_exp(z);
            if (mutual_information_weight == 0) return sum;
            Vector const p = probabilities(z), before = probabilities(from);
            Vector moved = mean;
            for (std::size_t e = 0; e < p.size(); ++e) moved[e] += (p[e] - before[e]) / count;
            return sum + mutual_information_weight *
                             (count * negative_entropy(moved) - negative_entropy(p));
        };
        for (std::size_t t = 0; t < r.chosen.size(); ++t) {
            if (!mask.empty() && !mask[t]) continue;
            for (std::size_t e = 0; e < f.size(); ++e) {
                Vector const z = row(r.logits, index_t(t));
                Vector above = z, below = z;
                above[e] += step;
                below[e] -= step;
                d[t * f.size() + e] = (loss(above, z) - loss(below, z)) / (2 * step * count);
            }
        }
        return d;
    }
};

} // namespace semoe::testing
