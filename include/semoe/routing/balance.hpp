#pragma once

#include "semoe/core/message.hpp"
#include "semoe/routing/detail/choice_blocks.hpp"
#include "semoe/routing/log_sum_exp.hpp"

#include <span>
#include <type_traits>

/// Router losses, defined here once. Over the unmasked tokens t of one forward on all ranks, M of
/// them, with p_t the router's probabilities:
///
///   aux_loss            E * sum_e f_e P_e,  f_e = choices of e / all choices,  P_e = sum_t p_te /
///   M
///                       1 at perfect balance, for every K; f is constant in the gradient
///                       (Switch, arXiv 2101.03961)
///   z_loss              sum_t logsumexp(z_t)^2 / M                       (ST-MoE, arXiv
///   2202.08906) mutual_information  sum_e P_e ln P_e - sum_t sum_e p_te ln p_te / M  (DS-MoE,
///   arXiv 2404.05567) entropy             - sum_t sum_e p_te ln p_te / M, a metric
///
/// f counts what the gate chose, before capacity dropped any of it. All are sums over tokens, so a
/// rank makes the sums of its own tokens (router_statistics), ranks add them up, and value and
/// gradient follow from the result. Losses over less or more than a forward are the same calls:
/// statistics of one sequence's rows for a loss a sequence, added statistics of several layers for
/// one over a model.

namespace semoe {

/// What p_t is.
enum class RouterProbability {
    softmax, ///< softmax(z_t)
    sigmoid, ///< sigmoid(z_t) divided by its sum (DeepSeek-V3, arXiv 2412.19437)
};

/// The probabilities that a gate's losses are of: G::router_probability, or softmax.
template <class G>
constexpr RouterProbability router_probability() {
    if constexpr (requires { G::router_probability; })
        return G::router_probability;
    else
        return RouterProbability::softmax;
}

/// Where the sums lie in a vector of router statistics.
struct RouterStatistics {
    index_t num_experts;

    SEMOE_HD constexpr index_t probability(index_t e) const { return e; }
    SEMOE_HD constexpr index_t count(index_t e) const { return num_experts + e; }
    SEMOE_HD constexpr index_t choices() const { return 2 * num_experts; }
    SEMOE_HD constexpr index_t tokens() const { return 2 * num_experts + 1; }
    SEMOE_HD constexpr index_t lse_squared() const { return 2 * num_experts + 2; }
    SEMOE_HD constexpr index_t entropy() const { return 2 * num_experts + 3; }
    SEMOE_HD constexpr index_t size() const { return 2 * num_experts + 4; }
};

/// Values of one forward; 0 where no token is unmasked.
struct RouterSummary {
    double aux_loss = 0, z_loss = 0, mutual_information = 0;
    double entropy = 0;
    index_t num_tokens = 0, num_choices = 0;
};
/// What each loss is multiplied by in the gradient.
struct RouterLossWeights {
    double aux_loss = 0, z_loss = 0, mutual_information = 0;
};

namespace detail {

/// Probabilities of one token, relative to the largest: no row is too small or too large for them.
template <class Real>
struct RouterRow {
    bool softmax;
    Real largest;   ///< logit
    Real shift;     ///< sigmoid: 0, or the largest logit if that is negative
    Real numerator; ///< sigmoid: e^shift + e^(shift - largest)

    SEMOE_HD RouterRow(RouterProbability rule, Real const* z, index_t n)
      : softmax(rule == RouterProbability::softmax)
      , largest(z[0])
      , shift(0)
      , numerator(1) {
        for (index_t e = 1; e < n; ++e) largest = max(z[e], largest);
        if (softmax) return;
        shift = min(largest, Real(0));
        numerator = exp(shift) + exp(shift - largest);
    }
    /// e^(z - largest), or sigmoid(z) / sigmoid(largest) with both expanded by e^shift.
    SEMOE_HD Real weight(Real z) const {
        return softmax ? exp(z - largest) : numerator / (exp(shift) + exp(shift - z));
    }
    SEMOE_HD Real log_weight(Real z, Real weight) const {
        if (softmax) return z - largest;
        return weight > 0 ? log(weight) : Real(0); // nothing is lost: it is multiplied by weight
    }
    /// d log(weight) / d z
    SEMOE_HD Real slope(Real z) const { return softmax ? Real(1) : sigmoid(-z); }
};

inline constexpr index_t statistics_block = 64;
constexpr index_t statistics_blocks(index_t num_tokens) {
    return (num_tokens + statistics_block - 1) / statistics_block;
}

/// sums[e] += p_e, and returns the sum of w_e ln(w_e) for w_e = e^(z_e - largest).
template <class Real>
struct AddProbabilities {
    LogSumExp<Real> all;
    Real const* z;
    index_t n;
    double* sums;

    SEMOE_HD SEMOE_INLINE Real operator()() const {
        constexpr index_t lanes = LogSumExp<Real>::lanes;
        double const scale = 1 / double(all.sum);
        Real w[lanes], shifted[lanes], lane[lanes] = {};
        for (index_t c = 0; c < n; c += lanes) {
            index_t const left = min(n - c, lanes);
            for (index_t j = 0; j < lanes; ++j)
                shifted[j] = j < left ? z[c + j] - all.largest : Real(0);
            all.exponentials(z, c, left, w);
            for (index_t j = 0; j < lanes; ++j) lane[j] += w[j] * shifted[j];
            double* const to = sums + c;
            if (left == lanes)
                for (index_t j = 0; j < lanes; ++j) to[j] += double(w[j]) * scale;
            else
                for (index_t j = 0; j < left; ++j) to[j] += double(w[j]) * scale;
        }
        Real sum_log = 0;
        for (index_t j = 0; j < lanes; ++j) sum_log += lane[j];
        return sum_log;
    }
};
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

template <class Real, class Space>
struct StatisticsOfBlock {
    MatrixView<Real const, Space> logits;
    VectorView<std::uint8_t const, Space> mask;
    MatrixView<expert_id const, Space> ids;
    RouterProbability rule;
    MatrixView<double, Space> sums; // [blocks, size of the statistics + E]

    SEMOE_HD void operator()(index_t i) const {
        double* const s = sums.row(i);
        RouterStatistics const at{logits.cols};
        for (index_t j = 0; j < at.size(); ++j) s[j] = 0;
        index_t const end = min((i + 1) * statistics_block, logits.rows);
        for (index_t t = i * statistics_block; t < end; ++t) {
            if (!mask.empty() && mask[t] == 0) continue;
            if (rule == RouterProbability::softmax)
                add_softmax(logits.row(t), at, s);
            else
                add_sigmoid(logits.row(t), at, s, s + at.size());
            for (index_t k = 0; k < ids.cols; ++k) {
                expert_id const e = ids(t, k);
                if (e < 0 || e >= logits.cols) continue;
                s[at.count(e)] += 1;
                s[at.choices()] += 1;
            }
            s[at.tokens()] += 1;
        }
    }
    SEMOE_HD void add_softmax(Real const* z, RouterStatistics at, double* s) const {
        index_t const n = logits.cols;
        LogSumExp<Real> const all = log_sum_exp<Real>(z, n);
        Real const sum_log =
            ops::vectorised(AddProbabilities<Real>{all, z, n, s + at.probability(0)});
        Real const log_sum = log(all.sum);
        s[at.entropy()] += double(log_sum - sum_log / all.sum);
        add_square(s[at.lse_squared()], all.largest + log_sum);
    }
    SEMOE_HD void add_sigmoid(Real const* z, RouterStatistics at, double* s,
                              double* weights) const {
        index_t const n = logits.cols;
        RouterRow<Real> const row(rule, z, n);
        Real sum = 0, sum_log = 0;
        for (index_t e = 0; e < n; ++e) {
            Real const w = row.weight(z[e]);
            weights[e] = double(w);
            sum += w;
            sum_log += w * row.log_weight(z[e], w);
        }
        for (index_t e = 0; e < n; ++e) s[at.probability(e)] += weights[e] / double(sum);
        s[at.entropy()] += double(log(sum) - sum_log / sum);
        add_square(s[at.lse_squared()], log_sum_exp<Real>(z, n).value());
    }
    SEMOE_HD static void add_square(double& sum, Real x) { sum += double(x) * double(x); }
};
template <class Sum, class Space>
struct SumStatistics {
    MatrixView<double const, Space> sums;
    VectorView<Sum, Space> out;
    SEMOE_HD void operator()(index_t j) const {
        double sum = 0;
        for (index_t i = 0; i < sums.rows; ++i) sum += sums(i, j);
        out[j] = Sum(sum);
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

inline void expects_statistics(char const* who, index_t size, index_t num_experts) {
    expects(size == RouterStatistics{num_experts}.size(), [&] {
        return message("{}: statistics of {} elements, {} experts need {}", who, size, num_experts,
                       RouterStatistics{num_experts}.size());
    });
}

} // namespace detail

/// Scratch that router_statistics needs, never more for fewer tokens.
constexpr index_t router_statistics_scratch_bytes(index_t num_tokens, index_t num_experts) {
    return detail::statistics_blocks(num_tokens) *
           (RouterStatistics{num_experts}.size() + num_experts) * index_t(sizeof(double));
}

/// Sums over this rank's tokens; adding up the vectors of all ranks gives those of the forward.
/// @param logits      [T,E], backend memory
/// @param mask        [T] or empty; masked tokens count for nothing
/// @param ids         [T,K], the gate's own choices, -1 is nobody
/// @param statistics  [RouterStatistics{E}.size()] of float or double, backend memory, overwritten.
///                    Sums are made in double and rounded once.
/// @param scratch     router_statistics_scratch_bytes(T, E) bytes of backend memory
/// @throws precondition_error naming the shapes that do not fit
/// @sync enqueues
/// @cost T*E exponentials, no allocation
template <Backend B, class Real, class Sum>
void router_statistics(B& b, MatrixView<Real, space_of<B>> logits,
                       VectorView<std::uint8_t const, space_of<B>> mask,
                       MatrixView<expert_id const, space_of<B>> ids, RouterProbability rule,
                       VectorView<Sum, space_of<B>> statistics, Bytes<space_of<B>> scratch) {
    using S = space_of<B>;
    using R = std::remove_const_t<Real>;
    index_t const T = logits.rows, E = logits.cols;
    expects(ids.rows == T && (mask.empty() || mask.size == T),
            "router_statistics: logits of {} tokens, ids of {}, mask of {}", T, ids.rows,
            mask.size);
    detail::expects_statistics("router_statistics", statistics.size, E);
    detail::expects_scratch("router_statistics", scratch, router_statistics_scratch_bytes(T, E));
    index_t const blocks = detail::statistics_blocks(T);
    MatrixView<double, S> const sums(view_as<double>(scratch).data, blocks, statistics.size + E);
    b.parallel_for(blocks, detail::StatisticsOfBlock<R, S>{logits, mask, ids, rule, sums});
    b.parallel_for(statistics.size, detail::SumStatistics<Sum, S>{sums, statistics});
}

/// Losses and metrics from a host copy of the forward's statistics.
/// @throws precondition_error when the size is not that of E experts
template <class Sum>
RouterSummary summarize_router(std::span<Sum const> statistics, index_t num_experts) {
    detail::expects_statistics("summarize_router", index_t(statistics.size()), num_experts);
    RouterStatistics const at{num_experts};
    auto const sum = [&](index_t i) { return double(statistics[std::size_t(i)]); };
    double const tokens = sum(at.tokens()), choices = sum(at.choices());
    RouterSummary s;
    s.num_tokens = index_t(tokens);
    s.num_choices = index_t(choices);
    if (tokens == 0) return s;
    s.z_loss = sum(at.lse_squared()) / tokens;
    s.entropy = sum(at.entropy()) / tokens;
    s.mutual_information = s.entropy;
    for (index_t e = 0; e < num_experts; ++e) {
        double const mean = sum(at.probability(e)) / tokens;
        if (choices > 0) s.aux_loss += double(num_experts) * sum(at.count(e)) / choices * mean;
        if (mean > 0) s.mutual_information += mean * log(mean);
    }
    return s;
}

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
