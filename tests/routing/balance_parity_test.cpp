#include "router_sums.hpp"
#include "semoe/checkpoint/safetensors.hpp"
#include "semoe/gate/topk.hpp"
#include "support/backends.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <string>

// Router losses and their gradients as PyTorch computes them in double: tests/data/losses.

using namespace semoe;
using Values = std::vector<double>;
using Mask = std::vector<std::uint8_t>;
using Ids = std::vector<expert_id>;

namespace balance_parity_test {
namespace {

constexpr index_t T = 42, E = 8, K = 2, sequences = 3, layers = 2;
constexpr double tolerance = 1e-10;

struct Fixture {
    checkpoint::SafetensorsFile file{SEMOE_TEST_DATA "/losses/losses.safetensors"};

    Values read(std::string const& name) const { return file.values<double>(name); }
    Mask mask() const {
        Mask mask;
        for (index_t m : file.values<index_t>("mask")) mask.push_back(std::uint8_t(m));
        return mask;
    }
    Values logits(index_t layer) const {
        Values const all = read("logits");
        return {all.begin() + layer * T * E, all.begin() + (layer + 1) * T * E};
    }
    /// Compares a loss with what the file calls NAME.
    void check(std::string const& name, double value, Values const& gradient) const {
        CAPTURE(name);
        double const expected = read(name + ".value")[0];
        CHECK(std::abs(value - expected) <= tolerance * std::abs(expected));
        CHECK(test::relative_error(gradient, read(name + ".grad")) <= tolerance);
    }
};

/// What the gate chooses: every row, as the file's f counts every row that its mask keeps.
template <class B>
Ids choose(B& b, Values const& logits, Mask const& mask, index_t k) {
    index_t const rows = index_t(logits.size()) / E;
    auto const z = test::to_backend(b, logits);
    auto const m = test::to_backend(b, mask);
    Buffer<expert_id, B> ids(b, rows * k);
    Buffer<double, B> weights(b, rows * k);
    RouteInput<B, double> input;
    input.logits = z.matrix(rows, E);
    input.mask = m.view();
    gate::TopK<gate::Softmax>{.num_experts = E, .top_k = k}.forward(
        b, input, Assignment<B, double>{ids.matrix(rows, k), weights.matrix(rows, k)});
    return test::to_host(b, ids);
}
template <class V>
V part(V const& v, index_t first, index_t count) {
    return {v.begin() + first, v.begin() + first + count};
}

} // namespace

TEST_CASE_TEMPLATE("routing/balance: losses of one layer agree with the reference", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Fixture const f;
    test::RouterSums<B, double> const sums(b, E, RouterProbability::softmax);
    for (index_t layer = 0; layer < layers; ++layer)
        for (bool masked : {false, true}) {
            std::string const end = (masked ? "_masked." : ".") + std::to_string(layer);
            Mask const mask = masked ? f.mask() : Mask{};
            Values const logits = f.logits(layer);
            auto const top1 = sums.statistics(logits, mask, choose(b, logits, mask, 1));
            f.check("switch_aux" + end, sums.summary(top1).aux_loss,
                    sums.gradient(logits, mask, top1, {.aux_loss = 1}));
            auto const topk = sums.statistics(logits, mask, choose(b, logits, mask, K));
            auto const values = sums.summary(topk);
            f.check("topk_aux" + end, values.aux_loss,
                    sums.gradient(logits, mask, topk, {.aux_loss = 1}));
            f.check("z_loss" + end, values.z_loss,
                    sums.gradient(logits, mask, topk, {.z_loss = 1}));
            f.check("mutual_information" + end, values.mutual_information,
                    sums.gradient(logits, mask, topk, {.mutual_information = 1}));
        }
}

TEST_CASE_TEMPLATE("routing/balance: a loss a sequence is the same calls on its rows", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Fixture const f;
    index_t const rows = T / sequences;
    for (auto const& [name, rule] : {std::pair{"sequence_aux_softmax", RouterProbability::softmax},
                                     std::pair{"sequence_aux_sigmoid", RouterProbability::sigmoid}})
        for (index_t layer = 0; layer < layers; ++layer) {
            test::RouterSums<B, double> const sums(b, E, rule);
            double value = 0;
            Values gradient;
            for (index_t s = 0; s < sequences; ++s) {
                Values const logits = part(f.logits(layer), s * rows * E, rows * E);
                auto const own = sums.statistics(logits, {}, choose(b, logits, {}, K));
                value += sums.summary(own).aux_loss / double(sequences);
                Values const d =
                    sums.gradient(logits, {}, own, {.aux_loss = 1.0 / double(sequences)});
                gradient.insert(gradient.end(), d.begin(), d.end());
            }
            f.check(std::string(name) + "." + std::to_string(layer), value, gradient);
        }
}

TEST_CASE_TEMPLATE("routing/balance: one loss over all layers is that of their added statistics", B,
                   SEMOE_TEST_BACKENDS) {
    // transformers' load_balancing_loss_func does not divide by K.
    B b;
    Fixture const f;
    test::RouterSums<B, double> const sums(b, E, RouterProbability::softmax);
    for (bool masked : {false, true}) {
        Mask const mask = masked ? f.mask() : Mask{};
        Values added(std::size_t(RouterStatistics{E}.size()), 0.0), gradient;
        for (index_t layer = 0; layer < layers; ++layer) {
            Values const logits = f.logits(layer);
            auto const own = sums.statistics(logits, mask, choose(b, logits, mask, K));
            for (std::size_t i = 0; i < own.size(); ++i) added[i] += own[i];
        }
        for (index_t layer = 0; layer < layers; ++layer) {
            Values const d = sums.gradient(f.logits(layer), mask, added, {.aux_loss = double(K)});
            gradient.insert(gradient.end(), d.begin(), d.end());
        }
        f.check(masked ? "mixtral_aux_masked" : "mixtral_aux",
                double(K) * sums.summary(added).aux_loss, gradient);
    }
}

TEST_CASE_TEMPLATE("routing/balance: the bias moves against the load as in the reference", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Fixture const f;
    test::RouterSums<B, double> const sums(b, E, RouterProbability::softmax);
    Values const logits = f.logits(0);
    auto const own = sums.statistics(logits, {}, choose(b, logits, {}, K));
    auto const counts = f.file.template values<index_t>("bias_update.counts");
    for (index_t e = 0; e < E; ++e)
        CHECK(own[std::size_t(RouterStatistics{E}.count(e))] == double(counts[std::size_t(e)]));
    auto const statistics = test::to_backend(b, own);
    auto const bias = test::to_backend(b, f.read("bias_update.before"));
    update_balance_bias(b, statistics.view(), 0.001, bias.view());
    CHECK(test::relative_error(test::to_host(b, bias), f.read("bias_update.after")) <= tolerance);
}

} // namespace balance_parity_test
