#include "semoe/expert/initialize.hpp"
#include "support/backends.hpp"
#include "support/memory.hpp"

#include <cmath>
#include <doctest/doctest.h>

namespace {

using namespace semoe;

BlockLayout example_layout() {
    BlockLayout layout;
    layout.add("up_proj", 40, 27).add("down_proj", 27, 40).add("up_bias", 1, 40);
    return layout;
}

template <class T, class B>
std::vector<T> drawn(B& b, BlockLayout const& layout, std::uint64_t seed, BlockKey key) {
    auto block = test::to_backend(b, std::vector<T>(std::size_t(layout.elements()), T(7.0f)));
    expert::initialize<T>(b, layout, seed, key, as_writable_bytes(block.view()));
    return test::to_host(b, block);
}
template <class T>
std::vector<T> slice_of(std::vector<T> const& block, Slice const& s) {
    return {block.begin() + s.offset, block.begin() + s.offset + s.elements};
}

TEST_CASE_TEMPLATE("expert/initialize: weights have deviation 1/sqrt(cols), biases are zero", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    BlockLayout const layout = example_layout();
    auto const block = drawn<float>(b, layout, 1, {0, 0});
    for (char const* name : {"up_proj", "down_proj"}) {
        Slice const& s = layout.slice(name);
        double const bound = std::sqrt(3.0 / double(s.cols));
        double sum = 0, squares = 0, most = 0;
        for (float const x : slice_of(block, s)) {
            sum += x;
            squares += x * x;
            most = std::max(most, std::abs(double(x)));
        }
        double const n = double(s.elements);
        CHECK(std::abs(sum / n) < 4 * bound / std::sqrt(3 * n));
        CHECK(std::sqrt(squares / n) ==
              doctest::Approx(1 / std::sqrt(double(s.cols))).epsilon(.05));
        CHECK(most <= bound * (1 + 1e-6));
        CHECK(most > 0.98 * bound);
    }
    for (float const x : slice_of(block, layout.slice("up_bias"))) CHECK(x == 0);
}

TEST_CASE_TEMPLATE("expert/initialize: seed, layer, expert and slice each draw other numbers", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    BlockLayout layout;
    layout.add("one", 5, 7).add("two", 5, 7);
    auto const block = drawn<float>(b, layout, 1, {2, 3});
    CHECK(block == drawn<float>(b, layout, 1, {2, 3}));
    CHECK(block == drawn<float>(b, layout, 1, {2, 3, BlockKind::master}));
    CHECK(block != drawn<float>(b, layout, 2, {2, 3}));
    CHECK(block != drawn<float>(b, layout, 1, {1, 3}));
    CHECK(block != drawn<float>(b, layout, 1, {2, 4}));
    CHECK(block != drawn<float>(b, layout, 1, {2, router_block}));
    CHECK(slice_of(block, layout[0]) != slice_of(block, layout[1]));
}

TEST_CASE_TEMPLATE("expert/initialize: every backend draws the numbers of a plain loop", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    BlockLayout const layout = example_layout();
    auto const block = drawn<float>(b, layout, 9, {4, 11});
    RngKey const key{9, (1ull << 63) + 11, 4};
    float const bound = float(std::sqrt(3.0 / 27));
    for (index_t i = 0; i < layout[0].elements; ++i)
        CHECK(block[std::size_t(i)] == (2 * random_uniform<float>(key, i, 0) - 1) * bound);
}

TEST_CASE_TEMPLATE("expert/initialize: all types draw one number, rounded", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    BlockLayout const layout = example_layout();
    auto const wide = drawn<double>(b, layout, 1, {0, 0});
    auto const single = drawn<float>(b, layout, 1, {0, 0});
    auto const half = drawn<f16>(b, layout, 1, {0, 0});
    auto const brain = drawn<bf16>(b, layout, 1, {0, 0});
    for (std::size_t i = 0; i < wide.size(); ++i) {
        CHECK(single[i] == doctest::Approx(wide[i]).epsilon(2e-7));
        CHECK(half[i].bits == f16(single[i]).bits);
        CHECK(brain[i].bits == bf16(single[i]).bits);
    }
}

TEST_CASE_TEMPLATE("expert/initialize: derived slices are left alone, short blocks refused", B,
                   SEMOE_TEST_BACKENDS) {
    B b{};
    BlockLayout layout;
    layout.add("up_proj", 3, 5);
    layout.add_derived("panels", 3, 5, 80);
    auto const block = drawn<float>(b, layout, 1, {0, 0});
    for (index_t i = 15; i < layout.elements(); ++i) CHECK(block[std::size_t(i)] == 7);

    Buffer<float, B> const small(b, 14);
    CHECK_THROWS_WITH_AS(
        expert::initialize<float>(b, layout, 1, {}, as_writable_bytes(small.view())),
        "expert::initialize: the block has 14 elements, its layout 15", precondition_error);
}

} // namespace
