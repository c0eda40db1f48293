#pragma once

#include "semoe/routing/statistics.hpp"

#include <type_traits>

/// Router losses, defined here once, over the M unmasked tokens t of one forward on all ranks; p_t
/// are the router's probabilities:
///
/// - aux_loss = E * sum_e f_e P_e, where f_e is the share of choices that fell on e and P_e is
///   the mean of p_te. 1 at perfect balance, for every K; f is constant in the gradient (Switch,
///   arXiv 2101.03961).
/// - z_loss = sum_t logsumexp(z_t)^2 / M (ST-MoE, arXiv 2202.08906).
/// - mutual_information = sum_e P_e ln P_e + entropy (DS-MoE, arXiv 2404.05567).
/// - entropy = - sum_t sum_e p_te ln p_te / M, a metric.
///
/// f counts what the gate chose, before capacity dropped any of it. All are sums over tokens, so a
/// rank makes the sums of its own tokens (router_statistics), ranks add them up, and value
/// (summarize_router) and gradient (add_router_gradient) follow from the result. Losses over less
/// or more than a forward are the same calls: statistics of one sequence's rows for a loss a
/// sequence, added statistics of several layers for one over a model.

namespace semoe {

/// What each loss is multiplied by in the gradient.
struct RouterLossWeights {
    double aux_loss = 0, z_loss = 0, mutual_information = 0;
};

namespace detail {

/// d[e] += p_e (g_e - mean of g + d_lse), where g_e = aux * counts[e] and the mean is over p.
template <class Real, class Sum>
struct AddLossGradient {
    LogSumExp<Real> all;
    Real const* z;
    index_t n;
    double aux;
    Sum const* counts;
    Real d_lse;
    Real* d;
    static constexpr index_t lanes = LogSumExp<Real>::lanes;

    SEMOE_HD SEMOE_INLINE void operator()() const {
        Real w[lanes], g[lanes], lane[lanes] = {};
        Real const scale = Real(1) / all.sum;
        Real mean = 0;
        for (bool const summed : {false, true}) {
            for (index_t c = 0; c < n; c += lanes) {
                terms(c, n - c, w, g);
                if (!summed) {
                    for (index_t j = 0; j < lanes; ++j) lane[j] += w[j] * g[j];
                    continue;
                }
                for (index_t j = 0; j < lanes; ++j) w[j] *= scale * (g[j] - mean + d_lse);
                if (n - c >= lanes)
                    for (index_t j = 0; j < lanes; ++j) d[c + j] += w[j];
                else
                    for (index_t j = 0; c + j < n; ++j) d[c + j] += w[j];
            }
            if (summed) continue;
            for (index_t j = 0; j < lanes; ++j) mean += lane[j];
            mean *= scale;
        }
    }
    /// w[j] = e^(z - largest) and g[j], sixteen experts from `first` on.
    SEMOE_HD SEMOE_INLINE void terms(index_t first, index_t left, Real (&w)[lanes],
                                     Real (&g)[lanes]) const {
        all.exponentials(z, first, left, w);
        Sum const* const count = counts + first;
        if (left >= lanes)
            for (index_t j = 0; j < lanes; ++j) g[j] = Real(aux * double(count[j]));
        else
            for (index_t j = 0; j < lanes; ++j)
                g[j] = j < left ? Real(aux * double(count[j])) : Real(0);
    }
};

template <class Real, class Sum, class Space>
struct AddRouterGradient {
    MatrixView<Real const, Space> logits;
    VectorView<std::uint8_t const, Space> mask;
    VectorView<Sum const, Space> statistics;
    RouterProbability rule;
    RouterLossWeights weights;
    MatrixView<Real, Space> d_logits;

    struct Scales {
        double tokens, aux, mutual;
    };
    SEMOE_HD Scales scales() const {
        RouterStatistics const at{logits.cols};
        double const tokens = double(statistics[at.tokens()]);
        double const choices = double(statistics[at.choices()]);
        return {tokens,
                choices > 0 ? weights.aux_loss * double(logits.cols) / (choices * tokens) : 0,
                weights.mutual_information / tokens};
    }
    /// d loss / d p_te, but for a constant a token, which leaves no trace in d loss / d z.
    SEMOE_HD Real slope(Scales const& s, RouterRow<Real> const& row, index_t e, Real z,
                        Real w) const {
        RouterStatistics const at{logits.cols};
        double g = s.aux * double(statistics[at.count(e)]);
        if (s.mutual != 0) {
            double const mean = double(statistics[at.probability(e)]) / s.tokens;
            if (mean > 0) g += s.mutual * (log(mean) - double(row.log_weight(z, w)));
        }
        return Real(g);
    }
    SEMOE_HD void operator()(index_t t) const {
        if (!mask.empty() && mask[t] == 0) return;
        if (rule == RouterProbability::softmax && weights.mutual_information == 0)
            add_softmax(logits.row(t), d_logits.row(t));
        else
            add_any(t);
    }
    SEMOE_HD void add_softmax(Real const* z, Real* d) const {
        Scales const s = scales();
        LogSumExp<Real> const all = log_sum_exp<Real>(z, logits.cols);
        Real const d_lse = weights.z_loss == 0
                               ? Real(0)
                               : Real(2 * weights.z_loss * double(all.value()) / s.tokens);
        Sum const* const counts = statistics.data + RouterStatistics{logits.cols}.count(0);
        ops::vectorised(AddLossGradient<Real, Sum>{all, z, logits.cols, s.aux, counts, d_lse, d});
    }
    SEMOE_HD void add_any(index_t t) const {
        index_t const n = logits.cols;
        Real const* const z = logits.row(t);
        RouterRow<Real> const row(rule, z, n);
        Scales const s = scales();
        Real sum = 0, dot = 0;
        for (index_t e = 0; e < n; ++e) {
            Real const w = row.weight(z[e]);
            sum += w;
            dot += w * slope(s, row, e, z[e], w);
        }
        LogSumExp<Real> all{row.largest, sum};
        bool const other = !row.softmax && weights.z_loss != 0; // z-loss is of the softmax always
        if (other) all = log_sum_exp<Real>(z, n);
        Real const d_lse = Real(2 * weights.z_loss * double(all.value()) / s.tokens);
        for (index_t e = 0; e < n; ++e) {
            Real const w = row.weight(z[e]);
            Real const g = slope(s, row, e, z[e], w) - dot / sum;
            d_logits(t, e) +=
                w / sum * row.slope(z[e]) * g + d_lse * (other ? all.probability(z[e]) : w / sum);
        }
    }
};

template <class Sum, class Bias, class Space>
struct StepBias {
    VectorView<Sum const, Space> statistics;
    Bias rate;
    VectorView<Bias, Space> bias;
    SEMOE_HD void operator()(index_t e) const {
        RouterStatistics const at{bias.size};
        double const excess =
            double(statistics[at.count(e)]) * double(bias.size) - double(statistics[at.choices()]);
        if (excess > 0) bias[e] -= rate;
        if (excess < 0) bias[e] += rate;
    }
};

} // namespace detail

/// d_logits += sum of weight * d loss / d logits, for this rank's tokens.
/// @param logits      [T,E], as in router_statistics; so are mask and rule
/// @param statistics  of the whole forward, all ranks added, backend memory
/// @param d_logits    [T,E], backend memory; rows of masked tokens are left alone
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost 2*T*E exponentials, no allocation
template <Backend B, class Real, class Sum>
void add_router_gradient(B& b, MatrixView<Real, space_of<B>> logits,
                         VectorView<std::uint8_t const, space_of<B>> mask,
                         VectorView<Sum, space_of<B>> statistics, RouterProbability rule,
                         RouterLossWeights const& weights,
                         MatrixView<std::remove_const_t<Real>, space_of<B>> d_logits) {
    using R = std::remove_const_t<Real>;
    expects(d_logits.rows == logits.rows && d_logits.cols == logits.cols &&
                (mask.empty() || mask.size == logits.rows),
            "add_router_gradient: logits are [{},{}], d_logits [{},{}], mask of {}", logits.rows,
            logits.cols, d_logits.rows, d_logits.cols, mask.size);
    detail::expects_statistics("add_router_gradient", statistics.size, logits.cols);
    b.parallel_for(logits.rows, detail::AddRouterGradient<R, std::remove_const_t<Sum>, space_of<B>>{
                                    logits, mask, statistics, rule, weights, d_logits});
}

/// Balancing without a loss: bias[e] rises by `rate` where an expert was chosen less often than
/// the mean, and falls where more often (arXiv 2408.15664). Once an update, after the forward's
/// statistics are added up.
/// @param bias  [E], backend memory, what gate::SigmoidBias adds to its keys
/// @sync enqueues
template <Backend B, class Sum, class Bias>
void update_balance_bias(B& b, VectorView<Sum, space_of<B>> statistics, double rate,
                         VectorView<Bias, space_of<B>> bias) {
    detail::expects_statistics("update_balance_bias", statistics.size, bias.size);
    b.parallel_for(bias.size, detail::StepBias<std::remove_const_t<Sum>, Bias, space_of<B>>{
                                  statistics, Bias(rate), bias});
}

} // namespace semoe
