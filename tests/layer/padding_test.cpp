#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/optim/adamw.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <limits>

using namespace semoe;
using test::random_values;

namespace padding_test {
namespace {

constexpr index_t H = 12, T = 9;
using SwiGlu = expert::SwiGlu<float>;
using Mat = MatrixView<float, HostSpace>;

SwiGlu const routed{.hidden = H, .intermediate = 6};
expert::WithShared const with_shared{routed, SwiGlu{.hidden = H, .intermediate = 5}, true};

template <class X>
auto make_layer(X expert) {
    MoeLayer layer{CpuBackend{.threads = 2},
                   gate::TopK<gate::TopKSoftmax>{.num_experts = 4, .top_k = 2}, expert,
                   MoeConfig{.aux_loss_weight = 0.1, .z_loss_weight = 0.1}};
    layer.initialize(3);
    return layer;
}
enum class Router { own, engine };
/// All that a masked step leaves, its padding rows of x as given.
struct Step {
    std::vector<float> y, dx;
    test::Named gradients;

    template <class X = decltype(with_shared)>
    Step(float padding, std::uint8_t mask_in_backward, X expert = with_shared,
         Router router = Router::own) {
        auto layer = make_layer(expert);
        auto x = random_values<float>(1, T * H), dy = random_values<float>(2, T * H);
        std::vector<std::uint8_t> mask(T, 1);
        for (index_t const t : {index_t(0), index_t(4), T - 1}) {
            mask[std::size_t(t)] = 0;
            for (index_t h = 0; h < H; ++h) x[std::size_t(t * H + h)] = padding;
        }
        y = dx = std::vector<float>(x.size(), 7);
        auto context = layer.make_context(T, Mode::training);
        Mat const in{x.data(), T, H}, out{y.data(), T, H};
        std::vector<expert_id> ids;
        for (index_t t = 0; t < T; ++t)
            ids.insert(ids.end(), {expert_id(t % 4), expert_id((t + 1) % 4)});
        std::vector<float> const weights(ids.size(), 0.5f);
        if (router == Router::own)
            layer.forward(in, out, context, {.mask = {mask.data(), T}});
        else
            layer.forward_routed(in, {ids.data(), T, 2}, {weights.data(), T, 2}, out, context,
                                 {.mask = {mask.data(), T}});
        std::fill(mask.begin(), mask.end(), mask_in_backward);
        layer.backward(Mat{dy.data(), T, H}, Mat{dx.data(), T, H}, context);
        gradients = test::parameters_of(layer, BlockKind::gradient);
    }
    bool operator==(Step const&) const = default;
};

} // namespace

TEST_CASE("layer/padding: what padding rows hold reaches nothing, not even as NaN") {
    Step const zeros(0, 1);
    for (index_t h = 0; h < H; ++h)
        CHECK((zeros.y[std::size_t(h)] == 0 && zeros.dx[std::size_t(h)] == 0));
    CHECK(Step(std::numeric_limits<float>::quiet_NaN(), 1) == zeros);
    CHECK(Step(-std::numeric_limits<float>::infinity(), 1) == zeros);
}
TEST_CASE("layer/padding: the mask is the caller's again after forward") {
    CHECK(Step(3, 0) == Step(3, 1));
}
TEST_CASE("layer/padding: an engine's routing, with and without a shared expert") {
    float const nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(Step(nan, 0, routed, Router::engine) == Step(0, 1, routed, Router::engine));
    CHECK(Step(nan, 0, with_shared, Router::engine) == Step(0, 1, with_shared, Router::engine));
}

} // namespace padding_test
