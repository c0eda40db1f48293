#include "semoe/core/math.hpp"

#include "support/backends.hpp"
#include "support/memory.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <vector>

using namespace semoe;
using namespace semoe::test;

namespace {

enum class Function { exp, tanh, erf, cdf, sigmoid, softplus, silu, gelu, gelu_tanh };
constexpr Function all_functions[] = {Function::exp,  Function::tanh,    Function::erf,
                                      Function::cdf,  Function::sigmoid, Function::softplus,
                                      Function::silu, Function::gelu,    Function::gelu_tanh};

template <class T>
SEMOE_HD T apply(Function f, T x) {
    switch (f) {
    case Function::exp:
        return semoe::exp(x);
    case Function::tanh:
        return semoe::tanh(x);
    case Function::erf:
        return semoe::erf(x);
    case Function::cdf:
        return normal_cdf(x);
    case Function::sigmoid:
        return sigmoid(x);
    case Function::softplus:
        return softplus(x);
    case Function::silu:
        return silu(x);
    case Function::gelu:
        return gelu(x);
    case Function::gelu_tanh:
        return gelu_tanh(x);
    }
    return T(0);
}
template <class T>
T derivative(Function f, T x) {
    switch (f) {
    case Function::tanh:
        return tanh_derivative(x);
    case Function::sigmoid:
        return sigmoid_derivative(x);
    case Function::softplus:
        return softplus_derivative(x);
    case Function::silu:
        return silu_derivative(x);
    case Function::gelu:
        return gelu_derivative(x);
    case Function::gelu_tanh:
        return gelu_tanh_derivative(x);
    case Function::cdf:
        return normal_density(x);
    default:
        return semoe::exp(x);
    }
}
/// By the C library, in long double.
double reference(Function f, double at) {
    long double const x = at;
    switch (f) {
    case Function::exp:
        return double(expl(x));
    case Function::tanh:
        return double(tanhl(x));
    case Function::erf:
        return double(erfl(x));
    case Function::cdf:
        return double(erfcl(-x / sqrtl(2)) / 2);
    case Function::sigmoid:
        return double(1 / (1 + expl(-x)));
    case Function::softplus:
        return double(log1pl(expl(x)));
    case Function::silu:
        return double(x / (1 + expl(-x)));
    case Function::gelu:
        return double(x * erfcl(-x / sqrtl(2)) / 2);
    case Function::gelu_tanh:
        return double(x * (1 + tanhl(sqrtl(2 / acosl(-1)) * (x + 0.044715L * x * x * x))) / 2);
    }
    return 0;
}

struct ApplyAll {
    Function f;
    float const* x;
    float* y;
    SEMOE_HD void operator()(index_t i) const { y[i] = apply(f, x[i]); }
};

std::vector<float> sweep(float low, float high, int n) {
    std::vector<float> x;
    for (int i = 0; i <= n; ++i) x.push_back(low + (high - low) * float(i) / float(n));
    return x;
}
/// |got - exact| relative to the exact value, or to `floor` where that is smaller; the largest, or
/// NaN where there is one.
double worst(std::vector<float> const& x, std::vector<float> const& got, Function f, double floor) {
    double largest = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        double const exact = reference(f, double(x[i]));
        double const error = std::fabs(double(got[i]) - exact) / std::max(std::fabs(exact), floor);
        if (std::isnan(error)) return error;
        largest = std::max(largest, error);
    }
    return largest;
}
template <class B>
std::vector<float> on_backend(B& b, Function f, std::vector<float> const& x) {
    auto const in = to_backend(b, x);
    Buffer<float, B> out(b, index_t(x.size()));
    b.parallel_for(index_t(x.size()), ApplyAll{f, in.data(), out.data()});
    return to_host(b, out);
}

} // namespace

TEST_CASE_TEMPLATE("core/math: float functions keep their promise of accuracy", B,
                   SEMOE_TEST_BACKENDS) {
    B b;
    int const n = 4001;
    auto const wide = sweep(-87, 88.7f, n), near = sweep(-6, 6, n), tiny = sweep(-1e-3f, 1e-3f, n);
    CHECK(worst(wide, on_backend(b, Function::exp, wide), Function::exp, 0) < 2e-7);
    CHECK(worst(near, on_backend(b, Function::tanh, near), Function::tanh, 0) < 3e-7);
    CHECK(worst(tiny, on_backend(b, Function::tanh, tiny), Function::tanh, 1e-30) < 3e-7);
    CHECK(worst(near, on_backend(b, Function::erf, near), Function::erf, 0) < 3e-7);
    CHECK(worst(tiny, on_backend(b, Function::erf, tiny), Function::erf, 1e-30) < 3e-7);
    CHECK(worst(near, on_backend(b, Function::cdf, near), Function::cdf, 1e-2) < 1e-6);
    CHECK(worst(near, on_backend(b, Function::cdf, near), Function::cdf, 0) < 6e-6);
    CHECK(worst(near, on_backend(b, Function::sigmoid, near), Function::sigmoid, 0) < 3e-7);
    CHECK(worst(near, on_backend(b, Function::softplus, near), Function::softplus, 0) < 3e-7);
    CHECK(worst(near, on_backend(b, Function::silu, near), Function::silu, 1e-2) < 5e-7);
    CHECK(worst(near, on_backend(b, Function::gelu, near), Function::gelu, 1e-2) < 2e-6);
    CHECK(worst(near, on_backend(b, Function::gelu_tanh, near), Function::gelu_tanh, 1e-2) < 2e-6);
}

TEST_CASE("core/math: double functions are the library's") {
    for (Function f : all_functions)
        for (double x = -6; x <= 6; x += 0.173) {
            double const exact = reference(f, x);
            CHECK(std::fabs(apply(f, x) - exact) <= 4e-15 * std::max(std::fabs(exact), 1e-2));
        }
}

TEST_CASE("core/math: derivatives agree with central differences") {
    for (Function f : all_functions) {
        if (f == Function::erf) continue; // has none of its own
        for (double x = -5; x <= 5; x += 0.217) {
            double const h = 1e-5, slope = (apply(f, x + h) - apply(f, x - h)) / (2 * h);
            double const scale = std::max(1.0, std::fabs(slope));
            CHECK(std::fabs(derivative(f, x) - slope) < 1e-9 * scale);
            CHECK(std::fabs(double(derivative(f, float(x))) - slope) < 2e-6 * scale);
        }
    }
    for (double x : {-2.0, -0.1, 0.1, 3.0}) {
        CHECK(relu(x) == (x > 0 ? x : 0));
        CHECK(relu_derivative(x) == (x > 0 ? 1 : 0));
    }
    CHECK(relu_derivative(0.0f) == 0);
    CHECK(std::isnan(relu(std::numeric_limits<float>::quiet_NaN())));
    CHECK(relu_derivative(std::numeric_limits<float>::quiet_NaN()) == 1);
    CHECK(relu_derivative(std::numeric_limits<double>::quiet_NaN()) == 1);
    CHECK(std::isnan(gelu_tanh_derivative(std::numeric_limits<float>::quiet_NaN())));
    CHECK(std::isnan(gelu_tanh_derivative(std::numeric_limits<double>::quiet_NaN())));
    for (float const x : {1e10f, 1e30f, 3e38f}) {
        CHECK(gelu_tanh_derivative(x) == 1);
        CHECK(gelu_tanh_derivative(-x) == 0);
    }
}

TEST_CASE_TEMPLATE("core/math: values at the ends of the range", B, SEMOE_TEST_BACKENDS) {
    B b;
    float const inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    float const huge = std::numeric_limits<float>::max();
    std::vector<float> const x{0, -inf, inf, nan, -huge, huge, -103.0f, -88, 88.72f, 89};
    auto const y = on_backend(b, Function::exp, x);
    CHECK(y[0] == 1);
    CHECK(y[1] == 0);
    CHECK(y[2] == inf);
    CHECK(std::isnan(y[3]));
    CHECK(y[4] == 0);
    CHECK(y[5] == inf);
    // Below the smallest normal number precision fades, as it must.
    CHECK(std::fabs(y[6] - std::exp(-103.0f)) <= 2e-45f);
    CHECK(std::fabs(y[7] - std::exp(-88.0f)) <= 2e-45f);
    CHECK(std::fabs(y[8] / std::exp(88.72f) - 1) < 2e-7f);
    CHECK(y[9] == inf);

    std::vector<float> const ends{-inf, inf, nan, -100, 100, 0, -0.0f};
    auto const t = on_backend(b, Function::tanh, ends), e = on_backend(b, Function::erf, ends);
    for (auto const& v : {t, e}) {
        CHECK(v[0] == -1);
        CHECK(v[1] == 1);
        CHECK(std::isnan(v[2]));
        CHECK(v[3] == -1);
        CHECK(v[4] == 1);
        CHECK(v[5] == 0);
    }
    std::vector<float> const large{-1e30f, 1e30f, -40, 40, nan};
    for (Function f : {Function::silu, Function::gelu, Function::gelu_tanh}) {
        auto const v = on_backend(b, f, large);
        CHECK(std::fabs(v[0]) == 0);
        CHECK(v[1] == 1e30f);
        CHECK(std::fabs(v[2]) < 1e-14f);
        CHECK(v[3] == 40);
        CHECK(std::isnan(v[4]));
    }
    auto const s = on_backend(b, Function::softplus, {-1e30f, 1e30f, -90, 90});
    CHECK(s[0] == 0);
    CHECK(s[1] == 1e30f);
    CHECK(s[2] < 1e-38f);
    CHECK(s[3] == 90);
}

TEST_CASE("core/math: exp never falls where its argument rises") {
    float previous = 0;
    int falls = 0;
    for (float x = -104; x < 89; x += 1e-3f) {
        float const y = semoe::exp(x);
        falls += y < previous;
        previous = y;
    }
    CHECK(falls == 0);
}

TEST_CASE("core/math: finite, NaN, larger and smaller") {
    float const inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    CHECK(is_finite(0.0f));
    CHECK(is_finite(std::numeric_limits<double>::max()));
    CHECK(is_finite(std::numeric_limits<float>::denorm_min()));
    CHECK(!is_finite(inf));
    CHECK(!is_finite(-inf));
    CHECK(!is_finite(nan));
    CHECK(is_nan(nan));
    CHECK(!is_nan(inf));
    CHECK(semoe::max(2, 3) == 3);
    CHECK(semoe::min(2, 3) == 2);
    CHECK(semoe::max(nan, 1.0f) == 1.0f);
    CHECK(semoe::min(nan, 1.0f) == 1.0f);
    CHECK(semoe::abs(-2.5) == 2.5);
    CHECK(semoe::sqrt(9.0f) == 3.0f);
    CHECK(semoe::log(1.0) == 0.0);
}
