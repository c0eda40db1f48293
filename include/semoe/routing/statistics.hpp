#pragma once

#include "semoe/core/message.hpp"
#include "semoe/routing/detail/choice_blocks.hpp"
#include "semoe/routing/log_sum_exp.hpp"

#include <span>
#include <type_traits>

/// What a router did, as sums over tokens: losses (routing/balance.hpp defines them), their
/// gradient and metrics follow from them.

namespace semoe {

/// What a router's probabilities of a token are, from its logits z.
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
            if (logits.data && rule == RouterProbability::softmax)
                add_softmax(logits.row(t), at, s);
            else if (logits.data)
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
/// @param logits      [T,E], backend memory; null: choices and tokens are counted, all else is 0
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

} // namespace semoe
