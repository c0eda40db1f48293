#include "semoe/optim/adamw8.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>

namespace adamw8_test {
namespace {

using namespace semoe;
using optim::AdamW, optim::AdamW8, optim::moments_size;

optim::AdamW const plain{.lr = 0.01, .beta1 = 0.9, .beta2 = 0.999};

/// A block of parameters in backend memory, and steps on it.
template <class B, class T = float>
class Block {
public:
    using Real = accumulate_t<T>;
    static constexpr bool has_master = needs_master<T>;

    template <class O>
    Block(B& b, O const&, std::vector<Real> const& start)
      : b_(b)
      , parameter_(test::to_backend(b, start))
      , weight_(test::to_backend(b, std::vector<T>(start.size())))
      , moments_(test::to_backend(
            b, std::vector<Real>(std::size_t(moments_size<O, Real>(index_t(start.size())))))) {}

    template <class O>
    void step(O const& optimizer, index_t step, std::vector<Real> const& gradient,
              double scale = 1) {
        auto g = test::to_backend(b_, gradient);
        ParameterBlock<T, space_of<B>> block;
        if constexpr (has_master) {
            block.weight = weight_.view();
            block.master = parameter_.view();
        } else {
            block.weight = parameter_.view();
        }
        block.gradient = g.view();
        block.moments = moments_.view();
        optimizer.update(b_, block, UpdateStep{.step = step, .gradient_scale = scale});
    }
    std::vector<Real> parameters() { return test::to_host(b_, parameter_); }
    std::vector<T> weights() { return test::to_host(b_, weight_); }
    std::vector<Real> moments() { return test::to_host(b_, moments_); }

private:
    B& b_;
    Buffer<Real, B> parameter_;
    Buffer<T, B> weight_;
    Buffer<Real, B> moments_;
};

/// Noisy gradients of 1/2 sum c (p - 1)^2, whose curvatures c span four decades.
std::vector<float> gradient_at(std::vector<float> const& p, index_t step) {
    auto const noise = test::random_values<float>(std::uint64_t(1000 + step), index_t(p.size()));
    std::vector<float> g(p.size());
    for (std::size_t i = 0; i < p.size(); ++i)
        g[i] = float(std::pow(10.0, -double(i % 5))) * (p[i] - 1 + 0.3f * noise[i]);
    return g;
}
double distance(std::vector<float> const& p) {
    double sum = 0;
    for (float x : p) sum += std::abs(double(x) - 1);
    return sum / double(p.size());
}

TEST_CASE("optim/adamw8: every code is its own nearest, zero is zero and the last the largest") {
    using optim::detail::MagnitudeCode;
    auto const check = [](auto code) {
        using Code = decltype(code);
        CHECK(Code::decode(0) == 0);
        CHECK(Code::decode(Code::last) == Code::largest);
        CHECK(Code::encode(Code::largest, Code::to_nearest) == Code::last);
        for (std::uint32_t c = 0; c <= Code::last; ++c)
            CHECK(Code::encode(Code::decode(c), Code::to_nearest) == c);
        for (float x = 1e-9f; x < Code::largest; x *= 1.01f) {
            float const y = Code::decode(Code::encode(x, Code::to_nearest));
            float const half = std::ldexp(x + Code::offset, -Code::mantissa - 1);
            CHECK(std::abs(y - x) <= half * 1.001f);
        }
    };
    check(MagnitudeCode<7>{});
    check(MagnitudeCode<8>{});
}

TEST_CASE_TEMPLATE("optim/adamw8: a first step is AdamW's", B, SEMOE_TEST_BACKENDS) {
    static_assert(Optimizer<AdamW8, B>);
    B b{};
    for (index_t const n : {0, 1, 7, 255, 256, 257, 4096, 4099}) {
        CAPTURE(n);
        auto const start = test::random_values<float>(1, n), g = test::random_values<float>(2, n);
        Block<B> wide(b, AdamW{}, start), narrow(b, AdamW8{}, start);
        wide.step(plain, 0, g);
        narrow.step(AdamW8{plain}, 0, g);
        auto const expected = wide.parameters(), got = narrow.parameters();
        for (std::size_t i = 0; i < got.size(); ++i)
            CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-6));
    }
}

TEST_CASE_TEMPLATE("optim/adamw8: after a step moments are within a code of AdamW's", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 611;
    auto const start = test::random_values<float>(1, n), g = test::random_values<float>(2, n);
    Block<B> wide(b, AdamW{}, start), narrow(b, AdamW8{}, start);
    wide.step(plain, 0, g);
    narrow.step(AdamW8{plain}, 0, g);
    auto const exact = wide.moments(), packed = narrow.moments();
    float const* const scales = packed.data();
    auto const* const codes = reinterpret_cast<std::uint8_t const*>(scales + 6);
    for (index_t i = 0; i < n; ++i) {
        float const m = exact[std::size_t(i)], r = std::sqrt(exact[std::size_t(n + i)]);
        using Mean = optim::detail::MagnitudeCode<7>;
        using Root = optim::detail::MagnitudeCode<8>;
        float const m8 = Mean::decode(codes[i] & 127u) * (codes[i] > 127 ? -1.f : 1.f);
        float const m_scale = scales[i / 256], r_scale = scales[3 + i / 256];
        CHECK(std::abs(m8 * m_scale - m) <= (std::abs(m) + m_scale * 0x1p-15f) / 15);
        CHECK(std::abs(Root::decode(codes[n + i]) * r_scale - r) <= (r + r_scale * 0x1p-15f) / 15);
        CHECK((codes[n + i] > 0) == (g[std::size_t(i)] != 0));
    }
}

TEST_CASE_TEMPLATE("optim/adamw8: a noisy quadratic is solved as well as by AdamW", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 1000;
    auto const start = test::random_values<float>(3, n);
    Block<B> wide(b, AdamW{}, start), narrow(b, AdamW8{}, start);
    double worst = 0;
    for (index_t step = 0; step < 400; ++step) {
        wide.step(plain, step, gradient_at(wide.parameters(), step));
        narrow.step(AdamW8{plain}, step, gradient_at(narrow.parameters(), step));
        worst =
            std::max(worst, std::abs(distance(wide.parameters()) - distance(narrow.parameters())));
    }
    CHECK(distance(narrow.parameters()) < 1.1 * distance(wide.parameters()));
    CHECK(worst < 0.02);
}

TEST_CASE_TEMPLATE("optim/adamw8: the second moment follows gradients that shrink", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 512;
    std::vector<float> const start(std::size_t(n), 0.f);
    Block<B> block(b, AdamW8{}, start);
    AdamW8 const optimizer{{.lr = 0, .beta1 = 0, .beta2 = 0.99}};
    // One element of each group stays large, so the scale does, and the others' codes must fall.
    for (index_t step = 0; step < 400; ++step) {
        std::vector<float> g(std::size_t(n), step < 20 ? 1.f : 0.1f);
        g[0] = g[256] = 1;
        block.step(optimizer, step, g);
    }
    auto const packed = block.moments();
    auto const* const codes = reinterpret_cast<std::uint8_t const*>(packed.data() + 4);
    double sum = 0;
    for (index_t i = 1; i < 256; ++i) {
        double const r =
            double(optim::detail::MagnitudeCode<8>::decode(codes[n + i])) * double(packed[2]);
        sum += r * r;
    }
    // In floats: 0.01 + (v20 - 0.01) 0.99^380 with v20 = 1 - 0.99^20, before the bias correction.
    double const exact =
        0.01 * (1 - std::pow(0.99, 380)) + (1 - std::pow(0.99, 20)) * std::pow(0.99, 380);
    CHECK(sum / 255 == doctest::Approx(exact).epsilon(0.1));
}

TEST_CASE_TEMPLATE("optim/adamw8: fifty steps have the same bits for any number of threads", B,
                   SEMOE_TEST_BACKENDS) {
    index_t const n = 9001;
    auto const start = test::random_values<float>(5, n);
    auto const run = [&](B b) {
        Block<B, bf16> block(b, AdamW8{}, start);
        for (index_t step = 0; step < 50; ++step)
            block.step(AdamW8{plain}, step, test::random_values<float>(std::uint64_t(step), n),
                       0.5);
        auto all = block.parameters();
        for (bf16 const w : block.weights()) all.push_back(float(w));
        for (float const x : block.moments()) all.push_back(x);
        return all;
    };
    auto const same = [](std::vector<float> const& a, std::vector<float> const& b) {
        return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
            return semoe::detail::bits_of<std::uint32_t>(x) ==
                   semoe::detail::bits_of<std::uint32_t>(y);
        });
    };
    auto const first = run(B{});
    CHECK(same(first, run(B{})));
    if constexpr (std::is_same_v<B, CpuBackend>)
        for (int const threads : {1, 3}) CHECK(same(first, run(CpuBackend{.threads = threads})));
}

TEST_CASE_TEMPLATE("optim/adamw8: zero gradients leave zeros as they are, and moments fade", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 300;
    auto const start = test::random_values<float>(1, n);
    std::vector<float> const zeros(std::size_t(n), 0.f);
    Block<B> block(b, AdamW8{}, start);
    for (index_t step = 0; step < 3; ++step) block.step(AdamW8{plain}, step, zeros);
    CHECK(block.parameters() == start);
    for (float const x : block.moments()) CHECK(semoe::detail::bits_of<std::uint32_t>(x) == 0);

    // A gradient far below float's smallest normal counts as zero, and nothing divides by it.
    block.step(AdamW8{plain}, 3, std::vector<float>(std::size_t(n), 1e-40f));
    for (float const x : block.parameters()) CHECK(std::isfinite(x));

    block.step(AdamW8{plain}, 4, test::random_values<float>(2, n));
    for (index_t step = 5; step < 400; ++step) {
        block.step(AdamW8{plain}, step, zeros);
        for (float const x : block.parameters()) REQUIRE(std::isfinite(x));
    }
    float const m_scale = block.moments()[0];
    CHECK(m_scale < 1e-12f);
}

TEST_CASE_TEMPLATE(
    "optim/adamw8: one gradient whose square is infinite leaves its neighbours at work", B,
    SEMOE_TEST_BACKENDS) {
    B b{};
    std::vector<float> const start(256, 0.5f);
    std::vector<float> g(256, 0.1f);
    for (std::size_t i = 0; i < 256; i += 2) g[i] = 0; // their second moments are zero
    g[7] = 1e25f;
    Block<B> block(b, AdamW8{}, start);
    block.step(AdamW8{plain}, 0, g);
    g[7] = 0.1f;
    for (index_t step = 1; step < 20; ++step) block.step(AdamW8{plain}, step, g);
    // Those with a gradient go on, at the pace of a first moment that its largest hides.
    auto const now = block.parameters();
    for (std::size_t i = 0; i < 256; ++i) {
        CHECK(std::isfinite(now[i]));
        if (i % 2 == 1 && i != 7) CHECK(0.5f - now[i] > 3 * float(plain.lr));
    }
}

TEST_CASE_TEMPLATE("optim/adamw8: steps stay bounded for gradients of any magnitude side by side",
                   B, SEMOE_TEST_BACKENDS) {
    B b{};
    index_t const n = 256;
    // From 1e-12 to 1e12 side by side: what is small beside its group's largest has few codes.
    std::vector<float> start(std::size_t(n), 0.f), g(start);
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = float(std::pow(10.0, double(i % 25) - 12));
    Block<B> block(b, AdamW8{}, start);
    auto before = start;
    for (index_t step = 0; step < 60; ++step) {
        for (float& x : g) x = -x;
        block.step(AdamW8{plain}, step, g);
        auto const now = block.parameters();
        for (std::size_t i = 0; i < now.size(); ++i)
            CHECK(std::abs(now[i] - before[i]) < 10 * float(plain.lr));
        before = now;
    }
}

TEST_CASE_TEMPLATE("optim/adamw8: sizes and constants that do not fit are named before any work", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    ParameterBlock<float, space_of<B>> const block{{nullptr, 3}, {}, {}, {nullptr, 6}};
    CHECK_THROWS_WITH_AS(AdamW8{}.update(b, block, {}),
                         "optimizer: moments has 6 elements, the weight's 3 need 4",
                         precondition_error);
    CHECK_THROWS_WITH_AS((AdamW8{{.lr = -1}}.update(b, block, {})),
                         doctest::Contains("AdamW: lr is -1"), precondition_error);
    static_assert(AdamW8::state_bytes(0) == 0 && AdamW8::state_bytes(257) == 2 * 257 + 16);
}

} // namespace

} // namespace adamw8_test
