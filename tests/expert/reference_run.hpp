#pragma once

#include "semoe/expert/concept.hpp"
#include "semoe/ops/activation.hpp"
#include "semoe/testing/reference.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <cmath>
#include <doctest/doctest.h>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

namespace semoe::test {

/// Work that waits is checked with experts of double; the other types run on one backend.
using FirstBackend = std::tuple_element_t<0, std::tuple<SEMOE_TEST_BACKENDS>>;

using Doubles = std::vector<double>;

/// What three experts, one of them without rows, give in a forward and backward.
struct GroupResult {
    Doubles out, d_in;              ///< [R,H]
    std::vector<Doubles> gradients; ///< primary part of each expert's block
    friend bool operator==(GroupResult const&, GroupResult const&) = default;
};
inline std::vector<index_t> const group_rows{4, 0, 3};
inline constexpr index_t num_group_rows = 7;

/// The numbers that both sides start from: rounded to T, so that they are the same.
template <class T>
struct GroupInput {
    std::vector<T> x, dy;
    std::vector<std::vector<T>> weights;

    GroupInput(index_t hidden, index_t elements)
      : x(random_values<T>(1, num_group_rows * hidden))
      , dy(random_values<T>(2, num_group_rows * hidden)) {
        for (std::size_t e = 0; e < group_rows.size(); ++e)
            weights.push_back(random_values<T>(3 + e, elements, 0.5));
    }
};

template <class B, class X>
GroupResult run_group(B& b, X const& expert) {
    using T = typename X::value_type;
    using Real = accumulate_t<T>;
    index_t const R = num_group_rows, H = expert.hidden;
    BlockLayout const layout = expert.layout(b);
    GroupInput<T> input(H, layout.primary_elements());

    std::vector<Buffer<T, B>> blocks;
    std::vector<Buffer<Real, B>> gradient_blocks;
    ops::Group<std::byte const> group;
    ops::Group<std::byte> gradients;
    index_t first = 0;
    for (std::size_t e = 0; e < group_rows.size(); ++e) {
        input.weights[e].resize(std::size_t(layout.elements()));
        blocks.push_back(to_backend(b, input.weights[e]));
        expert.rebuild_derived(b, as_writable_bytes(blocks.back().view()));
        gradient_blocks.push_back(
            to_backend(b, std::vector<Real>(std::size_t(layout.primary_elements()))));
        group.add(first, group_rows[e], reinterpret_cast<std::byte const*>(blocks.back().data()));
        gradients.add(first, group_rows[e],
                      reinterpret_cast<std::byte*>(gradient_blocks.back().data()));
        first += group_rows[e];
    }
    index_t const A = expert.saved_columns(), F = expert.scratch_columns(),
                  W = expert.backward_scratch_columns();
    auto const in = to_backend(b, input.x), d_out = to_backend(b, input.dy);
    Buffer<T, B> const out(b, R * H), d_in(b, R * H), saved(b, R * A), scratch(b, R * F),
        wide(b, R * W);
    expert.forward_grouped(b, group,
                           ExpertRows<T, space_of<B>>{in.matrix(R, H), out.matrix(R, H),
                                                      saved.matrix(R, A), scratch.matrix(R, F)});
    expert.backward_grouped(
        b, group, gradients, 0,
        ExpertGradientRows<T, space_of<B>>{in.matrix(R, H), saved.matrix(R, A), d_out.matrix(R, H),
                                           d_in.matrix(R, H), wide.matrix(R, W)});
    auto const doubles = [&](auto const& buffer) {
        auto const values = to_host(b, buffer);
        return Doubles(values.begin(), values.end());
    };
    GroupResult result{doubles(out), doubles(d_in), {}};
    for (auto const& block : gradient_blocks) result.gradients.push_back(doubles(block));
    return result;
}

using Scalar = std::function<double(double)>;

/// The matrices of a block, by the names that expert and reference share.
inline void copy_slices(BlockLayout const& layout, Doubles& block, testing::ReferenceExpert& e,
                        bool to_block) {
    for (auto const& [name, values] :
         {std::pair{"gate_proj", &e.gate_proj}, std::pair{"up_proj", &e.up_proj},
          std::pair{"down_proj", &e.down_proj}, std::pair{"gate_bias", &e.gate_bias},
          std::pair{"up_bias", &e.up_bias}, std::pair{"down_bias", &e.down_bias}}) {
        if (!layout.contains(name)) continue;
        Slice const& s = layout.slice(name);
        auto const begin = block.begin() + s.offset;
        if (to_block)
            std::copy(values->begin(), values->end(), begin);
        else
            values->assign(begin, begin + s.elements);
    }
}
/// The same as plain loops in double.
inline GroupResult reference_group(BlockLayout const& layout, index_t hidden, index_t intermediate,
                                   Doubles const& x, Doubles const& dy,
                                   std::vector<Doubles> weights, Scalar const& activation,
                                   Scalar const& derivative) {
    GroupResult result;
    result.d_in.resize(x.size());
    index_t row = 0;
    for (std::size_t e = 0; e < group_rows.size(); ++e) {
        testing::ReferenceExpert expert;
        expert.hidden = hidden;
        expert.intermediate = intermediate;
        expert.activation = activation;
        expert.derivative = derivative;
        copy_slices(layout, weights[e], expert, false);
        auto gradient = expert.zeros();
        for (index_t const end = row + group_rows[e]; row < end; ++row) {
            auto const y = expert.forward(x.data() + row * hidden);
            result.out.insert(result.out.end(), y.begin(), y.end());
            expert.backward(x.data() + row * hidden, dy.data() + row * hidden, gradient,
                            result.d_in.data() + row * hidden);
        }
        result.gradients.emplace_back(weights[e].size());
        copy_slices(layout, result.gradients.back(), gradient, true);
    }
    return result;
}
inline void check_close(BlockLayout const& layout, GroupResult const& found,
                        GroupResult const& expected, double tolerance) {
    CHECK(relative_error(found.out, expected.out) < tolerance);
    CHECK(relative_error(found.d_in, expected.d_in) < tolerance);
    for (std::size_t e = 0; e < expected.gradients.size(); ++e)
        for (Slice const& s : layout) {
            CAPTURE(s.name);
            auto const part = [&](Doubles const& block) {
                auto const begin = block.begin() + s.offset;
                return Doubles(begin, begin + s.elements);
            };
            if (!s.derived)
                CHECK(relative_error(part(found.gradients[e]), part(expected.gradients[e])) <
                      tolerance);
        }
}
template <class B, class X>
void check_against_reference(B& b, X const& expert, Scalar const& activation,
                             Scalar const& derivative, double tolerance) {
    using T = typename X::value_type;
    BlockLayout const layout = expert.layout(b);
    GroupInput<T> const input(expert.hidden, layout.primary_elements());
    std::vector<Doubles> weights;
    for (auto const& w : input.weights) weights.emplace_back(w.begin(), w.end());
    check_close(layout, run_group(b, expert),
                reference_group(
                    layout, expert.hidden, expert.intermediate, {input.x.begin(), input.x.end()},
                    {input.dy.begin(), input.dy.end()}, std::move(weights), activation, derivative),
                tolerance);
}

inline constexpr double pi = 3.14159265358979323846;

/// Errors over one forward and backward: 16-bit activations are rounded between the products.
template <class T>
double expert_tolerance() {
    if (std::is_same_v<T, double>) return 1e-11;
    if (std::is_same_v<T, float>) return 1e-5;
    return std::is_same_v<T, f16> ? 4e-3 : 3e-2;
}

/// An activation chosen at run time, so that one instantiation serves all: the library's curves
/// and one that a user might add.
enum class Curve { relu, gelu, gelu_tanh, silu, softsign };
inline constexpr Curve all_curves[] = {Curve::relu, Curve::gelu, Curve::gelu_tanh, Curve::silu,
                                       Curve::softsign};
struct Selected {
    Curve curve = Curve::relu;

    template <class Real>
    SEMOE_HD Real operator()(Real x) const {
        switch (curve) {
        case Curve::relu:
            return ops::activation::Relu{}(x);
        case Curve::gelu:
            return ops::activation::Gelu{}(x);
        case Curve::gelu_tanh:
            return ops::activation::GeluTanh{}(x);
        case Curve::silu:
            return ops::activation::Silu{}(x);
        case Curve::softsign:
            break;
        }
        return x / (1 + (x < 0 ? -x : x));
    }
    template <class Real>
    SEMOE_HD Real derivative(Real x) const {
        switch (curve) {
        case Curve::relu:
            return ops::activation::Relu{}.derivative(x);
        case Curve::gelu:
            return ops::activation::Gelu{}.derivative(x);
        case Curve::gelu_tanh:
            return ops::activation::GeluTanh{}.derivative(x);
        case Curve::silu:
            return ops::activation::Silu{}.derivative(x);
        case Curve::softsign:
            break;
        }
        Real const d = 1 + (x < 0 ? -x : x);
        return 1 / (d * d);
    }
};

/// The same curves, written again.
inline double value_of(Curve curve, double x) {
    switch (curve) {
    case Curve::relu:
        return x > 0 ? x : 0;
    case Curve::gelu:
        return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Curve::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
    case Curve::silu:
        return x / (1 + std::exp(-x));
    case Curve::softsign:
        return x / (1 + std::abs(x));
    }
    return 0;
}
inline double slope_of(Curve curve, double x) {
    if (curve == Curve::relu) return x > 0 ? 1 : 0;
    double const h = 1e-3; // of an error in h^6: 1e-14 or so, below the rounding's 1e-13
    auto const f = [=](double u) { return value_of(curve, u); };
    return (45 * (f(x + h) - f(x - h)) - 9 * (f(x + 2 * h) - f(x - 2 * h)) + f(x + 3 * h) -
            f(x - 3 * h)) /
           (60 * h);
}

/// An expert of T with every curve, with bias and without, against the reference.
/// @tparam X  expert::Ffn or expert::Gated
template <template <class, class> class X, class T, class B>
void check_curves(B& b) {
    for (Curve const curve : all_curves)
        for (bool const bias : {false, true}) {
            CAPTURE(int(curve));
            CAPTURE(bias);
            check_against_reference(
                b, X<T, Selected>{11, 17, bias, {curve}},
                [=](double x) { return value_of(curve, x); },
                [=](double x) { return slope_of(curve, x); }, expert_tolerance<T>());
        }
}

} // namespace semoe::test
