#include "semoe/testing/check_gate.hpp"

#include "semoe/gate/topk.hpp"

#include <cmath>
#include <concepts>
#include <doctest/doctest.h>
#include <string>

using semoe::testing::check_gate;
namespace check_gate_test {
namespace gate = semoe::gate;

TEST_CASE("testing/check_gate: without a backend it runs on the CPU") {
    check_gate(gate::TopK<gate::Softmax>{.num_experts = 6, .top_k = 2});
    CHECK_THROWS_WITH_AS(
        check_gate(gate::TopK<gate::Softmax>{.num_experts = 6, .top_k = 2}, {.num_tokens = 3}),
        "check_gate: num_tokens is 3, must be at least 4", semoe::precondition_error);
}

namespace {

/// As TopK over softmax, but no more experts than make up half of the probability.
struct Nucleus {
    semoe::index_t num_experts = 5;

    semoe::index_t slots_per_token() const { return num_experts; }
    template <class B, class Real>
    void forward(B& b, semoe::RouteInput<B, Real> const& in, semoe::Assignment<B, Real> out) const {
        gate::TopK<gate::Softmax>{.num_experts = num_experts, .top_k = num_experts}.forward(b, in,
                                                                                            out);
        b.synchronize();
        for (semoe::index_t t = 0; t < in.logits.rows; ++t) {
            Real sum = 0;
            for (semoe::index_t k = 0; k < num_experts; ++k) {
                Real& weight = out.topk_weights(t, k);
                bool const taken = sum < Real(0.5) && out.topk_ids(t, k) >= 0;
                sum += weight;
                if (!taken) out.topk_ids(t, k) = -1, weight = 0;
            }
        }
    }
};

TEST_CASE("testing/check_gate: a gate may choose fewer experts than it has places for") {
    check_gate(Nucleus{});
}

/// What a gate over one type, correct otherwise, may break.
enum class Fault {
    none,
    repeats_id,
    out_of_range,
    higher_id_wins,
    ignores_mask,
    reads_neighbour,
    counts_calls,
    wrong_gradient,
    nan_gradient, // of the first token, where the second's logits are numbers
    adds_gradient,
    writes_padding,
};
template <class Real>
struct Faulty {
    semoe::index_t num_experts = 6;
    semoe::index_t top_k = 2;
    Fault fault = Fault::none;
    int* calls = nullptr;

    using Inner = gate::TopK<gate::Softmax>;
    Inner inner() const { return {.num_experts = num_experts, .top_k = top_k}; }

    void forward(semoe::CpuBackend& b, semoe::RouteInput<semoe::CpuBackend, Real> const& in,
                 semoe::Assignment<semoe::CpuBackend, Real> out) const {
        auto input = in;
        if (fault == Fault::ignores_mask) input.mask = {};
        inner().forward(b, input, out);
        ++*calls;
        for (semoe::index_t t = 0; t < in.logits.rows; ++t) {
            if (input.masked(t)) continue;
            if (fault == Fault::repeats_id) out.topk_ids(t, 1) = out.topk_ids(t, 0);
            if (fault == Fault::out_of_range) out.topk_ids(t, 1) = 6;
            if (fault == Fault::higher_id_wins && in.logits(t, 0) == in.logits(t, 1))
                out.topk_ids(t, 0) = 5;
            if (fault == Fault::reads_neighbour && t > 0) out.topk_weights(t, 0) *= Real(0.5);
            if (fault == Fault::counts_calls) out.topk_weights(t, 0) += Real(*calls);
            if (fault == Fault::writes_padding) out.topk_ids.row(t)[top_k] = 0;
        }
    }
    void backward(semoe::CpuBackend& b, semoe::RouteInput<semoe::CpuBackend, Real> const& in,
                  semoe::Assignment<semoe::CpuBackend, Real> chosen,
                  semoe::MatrixView<Real const, semoe::HostSpace> d_weights,
                  semoe::MatrixView<Real, semoe::HostSpace> d_logits) const {
        Real const before = in.logits.rows ? d_logits(0, 0) : 0;
        inner().backward(b, in, chosen, d_weights, d_logits);
        if (in.logits.rows == 0) return;
        if (fault == Fault::adds_gradient) d_logits(0, 0) += before;
        if (fault == Fault::wrong_gradient)
            for (semoe::index_t t = 0; t < in.logits.rows; ++t)
                d_logits(t, 0) *= Real(std::same_as<Real, double> ? 1.00001 : 1.01);
        bool const first = in.first_token == 100 && in.logits.rows > 1;
        if (fault == Fault::nan_gradient && first && in.logits(1, 0) == in.logits(1, 0))
            d_logits(0, 1) = Real(NAN);
    }
};

template <class Real = double>
std::string violation(Fault fault) {
    int calls = 0;
    try {
        semoe::CpuBackend b;
        check_gate(b, Faulty<Real>{.fault = fault, .calls = &calls});
    } catch (semoe::testing::contract_violation const& v) {
        return v.what();
    }
    return "";
}

} // namespace

TEST_CASE("testing/check_gate: each broken promise is found and named") {
    CHECK(violation(Fault::none) == "");
    CHECK(violation<float>(Fault::none) == "");
    auto const names = [](Fault fault, char const* part) {
        for (std::string const& text : {violation(fault), violation<float>(fault)}) {
            INFO("found: ", text);
            CHECK(text.find(part) != std::string::npos);
        }
    };
    names(Fault::repeats_id, "an expert at most once");
    names(Fault::out_of_range, "lie in [0, num_experts); 6");
    names(Fault::higher_id_wins, "equal logits choose the lower ids");
    names(Fault::ignores_mask, "a masked token gets id -1");
    names(Fault::reads_neighbour, "depends on its row");
    names(Fault::counts_calls, "the same");
    names(Fault::wrong_gradient, "the derivative of forward's weights");
    names(Fault::nan_gradient, "finite logits give finite weights and gradients (token 0)");
    names(Fault::adds_gradient, "Gate:");
    names(Fault::writes_padding, "past its last column");
}

} // namespace check_gate_test
