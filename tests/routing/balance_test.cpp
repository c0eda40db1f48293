#include "semoe/routing/balance.hpp"

#include "choices.hpp"
#include "router_sums.hpp"
#include "support/backends.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>

using namespace semoe;
using test::random_choices;
using Values = std::vector<double>;
using Mask = std::vector<std::uint8_t>;
using Ids = std::vector<expert_id>;
template <class B>
using Sums = test::RouterSums<B, double>;

namespace {

constexpr RouterProbability rules[] = {RouterProbability::softmax, RouterProbability::sigmoid};

/// Every token chooses K neighbours, all experts equally often.
Ids even_choices(index_t T, index_t K, index_t E) {
    Ids ids;
    for (index_t t = 0; t < T; ++t)
        for (index_t k = 0; k < K; ++k) ids.push_back(expert_id((t + k) % E));
    return ids;
}

} // namespace

TEST_CASE_TEMPLATE("routing/balance: aux_loss is 1 at perfect balance for every K", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (RouterProbability rule : rules)
        for (index_t K : {1, 2, 6}) {
            Sums<B> const sums(b, 6, rule);
            // Even choices, any probabilities; and even probabilities, any choices.
            auto const even = sums.summary(sums.statistics(test::random_values<double>(1, 60 * 6),
                                                           {}, even_choices(60, K, 6)));
            CHECK(even.aux_loss == doctest::Approx(1).epsilon(1e-12));
            auto const flat = sums.summary(
                sums.statistics(Values(60 * 6, 0.3), {}, random_choices(2, 60, K, 6, 0, .1)));
            CHECK(flat.aux_loss == doctest::Approx(1).epsilon(1e-12));
            CHECK(flat.entropy == doctest::Approx(std::log(6.0)).epsilon(1e-12));
            CHECK(flat.mutual_information == doctest::Approx(0).epsilon(1e-12));
            CHECK(flat.z_loss == doctest::Approx(std::pow(0.3 + std::log(6.0), 2)).epsilon(1e-12));
            CHECK(flat.num_tokens == 60);
            CHECK(flat.num_choices == 60 * K);
        }
    // One expert takes all: E, the worst there is.
    Sums<B> const sums(b, 5, RouterProbability::softmax);
    Values certain(7 * 5, -100.0);
    for (std::size_t t = 0; t < 7; ++t) certain[t * 5 + 3] = 100;
    auto const worst = sums.summary(sums.statistics(certain, {}, Ids(7, 3)));
    CHECK(worst.aux_loss == doctest::Approx(5));
    CHECK(worst.entropy == doctest::Approx(0));
}

TEST_CASE_TEMPLATE("routing/balance: masked tokens change no value and no gradient", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 130, E = 5, K = 2;
    Values const logits = test::random_values<double>(3, T * E);
    Ids const ids = random_choices(4, T, K, E);
    RouterLossWeights const weights{.aux_loss = 0.3, .z_loss = 0.2, .mutual_information = 0.1};
    Values padded;
    Ids padded_ids;
    Mask mask;
    for (index_t t = 0; t < T; ++t) {
        padded.insert(padded.end(), E, std::numeric_limits<double>::quiet_NaN());
        padded.insert(padded.end(), logits.begin() + t * E, logits.begin() + (t + 1) * E);
        padded_ids.insert(padded_ids.end(), {1, 2}); // whatever a masked row holds
        padded_ids.insert(padded_ids.end(), ids.begin() + t * K, ids.begin() + (t + 1) * K);
        mask.insert(mask.end(), {0, 1});
    }
    for (RouterProbability rule : rules) {
        Sums<B> const sums(b, E, rule);
        auto const plain = sums.statistics(logits, {}, ids);
        auto const with = sums.statistics(padded, mask, padded_ids);
        CHECK(test::relative_error(with, plain) <= 1e-14);
        Values const d = sums.gradient(logits, {}, plain, weights);
        Values const e = sums.gradient(padded, mask, plain, weights, Values(padded.size(), 5.0));
        for (index_t t = 0; t < T; ++t)
            for (index_t c = 0; c < E; ++c) {
                REQUIRE(e[std::size_t(2 * t * E + c)] == 5); // left alone
                REQUIRE(e[std::size_t((2 * t + 1) * E + c)] == 5 + d[std::size_t(t * E + c)]);
            }
    }
}

TEST_CASE_TEMPLATE("routing/balance: gradients are central differences of the values", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 9, E = 4, K = 2;
    double const h = 1e-3;
    Values const logits = test::random_values<double>(5, T * E);
    Mask const mask{1, 0, 1, 1, 1, 1, 1, 0, 1};
    Ids const ids = random_choices(6, T, K, E, 0.1);
    for (RouterProbability rule : rules)
        for (int which = 0; which < 3; ++which) {
            RouterLossWeights const weights{.aux_loss = which == 0 ? 0.7 : 0,
                                            .z_loss = which == 1 ? 0.7 : 0,
                                            .mutual_information = which == 2 ? 0.7 : 0};
            Sums<B> const sums(b, E, rule);
            auto const loss = [&](Values const& z) {
                auto const s = sums.summary(sums.statistics(z, mask, ids));
                return 0.7 * (which == 0   ? s.aux_loss
                              : which == 1 ? s.z_loss
                                           : s.mutual_information);
            };
            Values numeric;
            for (std::size_t i = 0; i < logits.size(); ++i) {
                auto const at = [&](double step) {
                    Values z = logits;
                    z[i] += step * h;
                    return loss(z);
                };
                numeric.push_back((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h));
            }
            auto const exact =
                sums.gradient(logits, mask, sums.statistics(logits, mask, ids), weights);
            CAPTURE(which);
            CHECK(test::relative_error(exact, numeric) <= 1e-6);
        }
}

TEST_CASE_TEMPLATE("routing/balance: statistics of parts add up to those of the whole", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    index_t const T = 200, E = 7, K = 3;
    Values const logits = test::random_values<double>(8, T * E);
    Ids const ids = random_choices(9, T, K, E);
    Sums<B> const sums(b, E, RouterProbability::softmax);
    auto const whole = sums.statistics(logits, {}, ids);
    for (index_t cut : {0, 1, 64, 199, 200}) {
        auto const low = sums.statistics({logits.begin(), logits.begin() + cut * E}, {},
                                         {ids.begin(), ids.begin() + cut * K});
        auto added = sums.statistics({logits.begin() + cut * E, logits.end()}, {},
                                     {ids.begin() + cut * K, ids.end()});
        for (std::size_t i = 0; i < added.size(); ++i) added[i] += low[i];
        CHECK(test::relative_error(added, whole) <= 1e-13);
    }
}

TEST_CASE_TEMPLATE("routing/balance: no tokens, or masked ones alone, give zeros", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    for (RouterProbability rule : rules) {
        Sums<B> const sums(b, 3, rule);
        for (auto const& statistics :
             {sums.statistics({}, {}, {}), sums.statistics(Values(6), Mask{0, 0}, Ids{-1, -1})}) {
            CHECK(statistics == Values(statistics.size(), 0.0));
            auto const s = sums.summary(statistics);
            CHECK(s.aux_loss == 0);
            CHECK(s.z_loss == 0);
            CHECK(s.mutual_information == 0);
            CHECK(s.entropy == 0);
            CHECK(sums.gradient(Values(6), Mask{0, 0}, statistics, {1, 1, 1}) == Values(6));
        }
        // Tokens that choose nobody have a z-loss and no load.
        auto const lonely = sums.statistics(Values(6, 1.0), {}, Ids{-1, -1});
        CHECK(sums.summary(lonely).aux_loss == 0);
        CHECK(sums.summary(lonely).z_loss > 0);
        for (double d : sums.gradient(Values(6, 1.0), {}, lonely, {1, 1, 1}))
            CHECK(std::isfinite(d));
    }
}

TEST_CASE_TEMPLATE("routing/balance: extreme logits and floats stay finite", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    std::vector<float> logits{300, -300, 0, -1000, -1000, -1000, 80, 80, -80};
    for (RouterProbability rule : rules) {
        test::RouterSums<B, float> const sums(b, 3, rule);
        auto const statistics = sums.statistics(logits, {}, Ids{0, 1, 2});
        auto const s = sums.summary(statistics);
        CHECK(std::isfinite(s.aux_loss + s.z_loss + s.mutual_information + s.entropy));
        CHECK(s.entropy >= 0);
        for (float d : sums.gradient(logits, {}, statistics, {1, 1, 1})) CHECK(std::isfinite(d));
    }
    // Floats agree with doubles to rounding.
    auto const wide = test::random_values<float>(12, 90 * 6);
    Ids const ids = random_choices(13, 90, 2, 6);
    test::RouterSums<B, float> const narrow(b, 6, RouterProbability::softmax);
    Sums<B> const exact(b, 6, RouterProbability::softmax);
    Values const same(wide.begin(), wide.end());
    auto const a = narrow.statistics(wide, {}, ids), c = exact.statistics(same, {}, ids);
    CHECK(test::relative_error(a, c) <= 1e-6);
    CHECK(test::relative_error(narrow.gradient(wide, {}, a, {1, 1, 1}),
                               exact.gradient(same, {}, c, {1, 1, 1})) <= 1e-5);
}

TEST_CASE_TEMPLATE("routing/balance: the bias falls where load is high, stays at the mean", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    Sums<B> const sums(b, 3, RouterProbability::sigmoid);
    auto const statistics =
        test::to_backend(b, sums.statistics(Values(12), {}, Ids{0, 1, 0, 1, 0, 2, 2, 0}));
    auto const bias = test::to_backend(b, std::vector<float>{1, 2, 3});
    // Counts 4, 2, 2; mean 8/3.
    update_balance_bias(b, statistics.view(), 0.5, bias.view());
    CHECK(test::to_host(b, bias) == std::vector<float>{0.5f, 2.5f, 3.5f});
    auto const even = test::to_backend(b, sums.statistics(Values(9), {}, Ids{0, 1, 2}));
    update_balance_bias(b, even.view(), 0.5, bias.view());
    CHECK(test::to_host(b, bias) == std::vector<float>{0.5f, 2.5f, 3.5f});
}

TEST_CASE_TEMPLATE("routing/balance: sizes that do not fit are named", B, SEMOE_TEST_BACKENDS) {
    CHECK_THROWS_WITH_AS(summarize_router(std::span<double const>(), 4),
                         "summarize_router: statistics of 0 elements, 4 experts need 12",
                         precondition_error);
    B b;
    auto const z = test::to_backend(b, Values(8));
    auto const s = test::to_backend(b, Values(12));
    auto const ids = test::to_backend(b, Ids(2));
    Buffer<std::byte, B> none;
    CHECK_THROWS_WITH_AS(router_statistics<B>(b, z.matrix(2, 4), {}, ids.matrix(2, 1), rules[0],
                                              s.view(), none.view()),
                         "router_statistics: scratch has 0 bytes, 128 needed", precondition_error);
    CHECK_THROWS_AS(
        add_router_gradient(b, z.matrix(2, 4), {}, s.view(), rules[0], {}, z.matrix(1, 4)),
        precondition_error);
}
