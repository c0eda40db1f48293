#pragma once

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/gate/concept.hpp"
#include "semoe/testing/detail/gate_run.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace semoe::testing {

/// How a gate is to be checked.
struct GateCheck {
    index_t num_tokens = 13; ///< at least 4
    std::uint64_t seed = 1;
    /// Equal logits rank equally, so the lower id has to win; untrue where an expert has a bias.
    bool ranks_by_logit = true;
    /// Of the largest gradient, and of a logit. 0: 1e-6 and 1e-3 for a gate of double, 1e-3 and
    /// 1e-2 for one of float alone. One of double that computes in float needs the latter, too.
    double gradient_tolerance = 0;
    double difference_step = 0;
};

namespace detail {

template <class Real>
class GateSuite {
public:
    GateSuite(GateRun<Real>& gate, GateCheck const& check)
      : gate_(gate)
      , check_(check)
      , experts_(gate.num_experts) {
        bool const is_double = std::same_as<Real, double>;
        if (check_.gradient_tolerance <= 0) check_.gradient_tolerance = is_double ? 1e-6 : 1e-3;
        if (check_.difference_step <= 0) check_.difference_step = is_double ? 1e-3 : 1e-2;
    }

    /// @param differences  whether gradients are compared with difference quotients
    void run(bool differences) {
        repeated();
        ids_and_weights();
        nothing_at_all();
        ties();
        masked_rows();
        bad_logits();
        if (!gate_.global) split();
        if (!gate_.trains) return;
        gradient_of_masked_rows();
        if (differences) gradient();
    }

private:
    using Batch = GateBatch<Real>;

    Batch random_batch(std::uint64_t salt, bool masked = false) const {
        std::mt19937_64 engine(check_.seed * 1000 + salt);
        std::normal_distribution<double> normal;
        Batch batch{check_.num_tokens, experts_, {}, {}, 100, true};
        for (index_t i = 0; i < batch.num_tokens * experts_; ++i)
            batch.logits.push_back(Real(normal(engine)));
        for (index_t t = 0; masked && t < batch.num_tokens; ++t)
            batch.mask.push_back(t % 3 == 1 ? 0 : 1);
        return batch;
    }
    std::vector<Real> random_d_weights() const {
        std::mt19937_64 engine(check_.seed + 77);
        std::normal_distribution<double> normal;
        std::vector<Real> v(std::size_t(check_.num_tokens * gate_.slots));
        for (Real& x : v) x = Real(normal(engine));
        return v;
    }
    static std::string of_token(index_t t) { return " (token " + std::to_string(t) + ")"; }

    void valid_ids(GateAnswer<Real> const& a) const {
        for (index_t t = 0; t < index_t(a.ids.size()) / a.slots; ++t) {
            std::vector<expert_id> row(a.row(t), a.row(t) + a.slots);
            std::erase(row, dropped_expert);
            for (expert_id const id : row)
                require(id >= 0 && id < experts_, "Gate: ids are -1 or lie in [0, num_experts); " +
                                                      std::to_string(id) + of_token(t));
            std::sort(row.begin(), row.end());
            require(std::adjacent_find(row.begin(), row.end()) == row.end(),
                    "Gate: a token chooses an expert at most once" + of_token(t));
        }
    }
    void ids_and_weights() {
        auto const a = gate_.forward(random_batch(1));
        valid_ids(a);
        for (std::size_t i = 0; i < a.ids.size(); ++i) {
            require(std::isfinite(a.weights[i]), "Gate: finite logits give finite weights");
            require(a.ids[i] >= 0 || a.weights[i] == 0, "Gate: the weight of id -1 is 0");
        }
    }
    void nothing_at_all() {
        auto const none = random_batch(1).rows(0, 0);
        require(gate_.forward(none).ids.empty(), "Gate: a batch of no tokens is ordinary");
        if (gate_.trains) gate_.backward(none, {});
    }
    void ties() {
        if (!check_.ranks_by_logit) return;
        // A gate that does not look at logits has no ties.
        if (same(gate_.forward(random_batch(1)).ids, gate_.forward(random_batch(2)).ids)) return;
        Batch equal = random_batch(1);
        equal.training = false;
        std::fill(equal.logits.begin(), equal.logits.end(), Real(0.5));
        auto const a = gate_.forward(equal);
        std::vector<index_t> takers(std::size_t(experts_), 0);
        for (index_t t = 0; t < equal.num_tokens; ++t)
            for (index_t k = 0, chosen = 0; k < a.slots; ++k) {
                expert_id const id = a.row(t)[k];
                if (id >= 0) ++chosen;
                if (gate_.global) {
                    if (id >= 0)
                        require(takers[std::size_t(id)]++ == t,
                                "Gate: among equal logits an expert takes the lower token" +
                                    of_token(t));
                } else {
                    require((id < 0 && k > 0) || (id == k && chosen == k + 1),
                            "Gate: equal logits choose the lower ids, in order" + of_token(t));
                }
            }
    }
    void masked_rows() {
        Batch batch = random_batch(3, true);
        auto const a = gate_.forward(batch);
        for (index_t t = 0; t < batch.num_tokens; ++t) {
            if (batch.mask[std::size_t(t)]) continue;
            for (index_t k = 0; k < a.slots; ++k)
                require(a.row(t)[k] == -1 && a.weights[std::size_t(t * a.slots + k)] == 0,
                        "Gate: a masked token gets id -1 and weight 0 everywhere" + of_token(t));
            for (index_t e = 0; e < experts_; ++e)
                batch.logit(t, e) = std::numeric_limits<Real>::quiet_NaN();
        }
        require(same(a, gate_.forward(batch)),
                "Gate: what a masked row holds changes nothing, NaN included");
        std::fill(batch.mask.begin(), batch.mask.end(), std::uint8_t(0));
        for (expert_id const id : gate_.forward(batch).ids)
            require(id == -1, "Gate: a batch of masked tokens alone chooses nobody");
    }
    void repeated() {
        auto const batch = random_batch(4);
        require(same(gate_.forward(batch), gate_.forward(batch)),
                "Gate: the same input gives the same answer");
    }
    void bad_logits() {
        Batch batch = random_batch(5);
        auto const nan = std::numeric_limits<Real>::quiet_NaN();
        auto const infinity = std::numeric_limits<Real>::infinity();
        for (index_t e = 0; e < experts_; ++e) {
            batch.logit(0, e) = nan;
            if (e % 2) batch.logit(1, e) = nan;
            batch.logit(2, e) = e % 3 == 0 ? infinity : e % 3 == 1 ? -infinity : nan;
            batch.logit(3, e) = -infinity;
        }
        valid_ids(gate_.forward(batch));
    }
    /// The batch in three parts, one of them a single token.
    template <class Do>
    void in_parts(Batch const& batch, Do&& part) const {
        index_t const cuts[] = {0, batch.num_tokens / 2, batch.num_tokens / 2 + 1,
                                batch.num_tokens};
        for (int i = 0; i < 3; ++i) part(cuts[i], cuts[i + 1] - cuts[i]);
    }
    void split() {
        Batch const batch = random_batch(6, true);
        auto const whole = gate_.forward(batch);
        GateAnswer<Real> parts{whole.slots, {}, {}};
        in_parts(batch, [&](index_t first, index_t count) {
            auto const a = gate_.forward(batch.rows(first, count));
            parts.ids.insert(parts.ids.end(), a.ids.begin(), a.ids.end());
            parts.weights.insert(parts.weights.end(), a.weights.begin(), a.weights.end());
        });
        require(same(whole, parts), "Gate: a row's answer depends on its row, its token id and "
                                    "its global index alone; a gate that looks at other rows "
                                    "declares needs_global_batch");
        if (gate_.trains) {
            auto const dw = random_d_weights();
            std::vector<Real> d_logits;
            in_parts(batch, [&](index_t first, index_t count) {
                auto const begin = dw.begin() + first * whole.slots;
                auto const d =
                    gate_.backward(batch.rows(first, count), {begin, begin + count * whole.slots});
                d_logits.insert(d_logits.end(), d.begin(), d.end());
            });
            require(same(d_logits, gate_.backward(batch, dw)),
                    "Gate: a row's gradient does not depend on other rows");
        }
    }
    void gradient_of_masked_rows() {
        Batch batch = random_batch(7, true);
        for (index_t e = 0; e < experts_; ++e)
            batch.logit(1, e) = std::numeric_limits<Real>::quiet_NaN();
        auto const d = gate_.backward(batch, random_d_weights());
        for (index_t t = 0; t < batch.num_tokens; ++t)
            for (index_t e = 0; e < experts_; ++e) {
                Real const v = d[std::size_t(t * experts_ + e)];
                require(batch.mask[std::size_t(t)] ? std::isfinite(v) : v == 0,
                        "Gate: backward writes all of d_logits, 0 for masked tokens" + of_token(t));
            }
    }

    /// Fourth-order central differences of sum(d_weights * weights) by every logit; where one of
    /// the steps changes the choice there is nothing to compare.
    void gradient() {
        Batch batch = random_batch(8, true);
        auto const dw = random_d_weights();
        auto const exact = gate_.backward(batch, dw);
        auto const chosen = gate_.forward(batch);
        double largest = 1e-4, error = 0;
        index_t compared = 0;
        auto const compare = [&](index_t first, index_t count, index_t e) {
            static constexpr double at[4] = {1, -1, 2, -2}, factor[4] = {8, -8, -1, 1};
            std::vector<double> slope(std::size_t(count), 0.0);
            std::vector<bool> stable(std::size_t(count), true);
            for (int i = 0; i < 4; ++i) {
                Batch moved = batch;
                for (index_t t = first; t < first + count; ++t)
                    moved.logit(t, e) += Real(at[i] * check_.difference_step);
                auto const a = gate_.forward(moved);
                for (index_t t = 0; t < count; ++t) {
                    auto const [loss, steady] = loss_of(a, chosen, dw, first + t);
                    slope[std::size_t(t)] += factor[i] * loss / (12 * check_.difference_step);
                    if (!steady) stable[std::size_t(t)] = false;
                }
            }
            for (index_t t = 0; t < count; ++t) {
                double const d = exact[std::size_t((first + t) * experts_ + e)];
                double const difference = std::abs(d - slope[std::size_t(t)]);
                require(std::isfinite(difference),
                        "Gate: finite logits give finite weights and gradients" +
                            of_token(first + t));
                largest = std::max(largest, std::abs(d));
                if (!stable[std::size_t(t)]) continue;
                ++compared;
                error = std::max(error, difference);
            }
        };
        for (index_t e = 0; e < experts_; ++e) {
            if (gate_.global)
                for (index_t t = 0; t < batch.num_tokens; ++t) compare(t, 1, e);
            else
                compare(0, batch.num_tokens, e); // rows are independent: all at once
        }
        require(2 * compared >= index_t(batch.logits.size()),
                "Gate: small steps leave most choices as they are");
        require(error <= check_.gradient_tolerance * largest,
                "Gate: backward is the derivative of forward's weights; off by " +
                    std::to_string(error / largest) + " of the largest");
    }
    struct Loss {
        double value;
        bool steady;
    };
    /// The part of the loss that token t's logits change, and whether choices are as they were.
    Loss loss_of(GateAnswer<Real> const& a, GateAnswer<Real> const& chosen,
                 std::vector<Real> const& dw, index_t t) const {
        std::size_t const first = gate_.global ? 0 : std::size_t(t * a.slots);
        std::size_t const last = gate_.global ? a.ids.size() : first + std::size_t(a.slots);
        Loss loss{0, true};
        for (std::size_t i = first; i < last; ++i) {
            loss.value += dw[i] * a.weights[i];
            loss.steady = loss.steady && a.ids[i] == chosen.ids[i];
        }
        return loss;
    }

    GateRun<Real>& gate_;
    GateCheck check_;
    index_t experts_;
};

} // namespace detail

/// The contract of a gate: distinct ids in range, ties to the lower id, masked rows, independence
/// of other rows, gradients by central differences, in double where the gate knows it.
/// @param gate  of at most a dozen experts: every logit is moved
/// @throws contract_violation with the promise that is broken; precondition_error below 4 tokens
/// @sync waits
template <Backend B, class G>
void check_gate(B& b, G const& gate, GateCheck const& check = {}) {
    static_assert(HasNumExperts<G>, "check_gate: the gate lacks num_experts (gate/concept.hpp)");
    static_assert(HasSlotsPerToken<G>,
                  "check_gate: the gate lacks top_k or slots_per_token() (gate/concept.hpp)");
    static_assert(HasGateForward<G, B> || HasGateForward<G, B, double>,
                  "check_gate: the gate lacks void forward(B&, RouteInput<B, Real> const&, "
                  "Assignment<B, Real>) const (gate/concept.hpp)");
    validate_gate(gate);
    expects(check.num_tokens >= 4, "check_gate: num_tokens is {}, must be at least 4",
            check.num_tokens);
    auto const run = [&]<class Real>(Real) {
        if constexpr (Gate<G, B, Real>) {
            detail::GateRunOf<B, G, Real> of(b, gate);
            detail::GateSuite<Real>(of, check).run(std::same_as<Real, double> ||
                                                   !DifferentiableGate<G, B, double>);
        }
    };
    run(float{});
    run(double{});
}
/// The same on the CPU.
template <class G>
void check_gate(G const& gate, GateCheck const& check = {}) {
    CpuBackend b;
    check_gate(b, gate, check);
}

} // namespace semoe::testing
