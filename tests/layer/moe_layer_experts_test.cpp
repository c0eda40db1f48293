#include "layer/combinations.hpp"

// Every expert with one gate.

using namespace semoe;
namespace act = ops::activation;

namespace {
/// A user's own: x * |x|, smooth enough to train with.
struct SignedSquare {
    template <class Real>
    SEMOE_HD Real operator()(Real x) const {
        return x < 0 ? -x * x : x * x;
    }
    template <class Real>
    SEMOE_HD Real derivative(Real x) const {
        return x < 0 ? -2 * x : 2 * x;
    }
};
template <class Activation>
void check_ffn(std::uint64_t seed) {
    auto const n = test::draw(seed);
    test::check_expert<Activation>(seed, n,
                                   expert::Ffn<double, Activation>{.hidden = n.hidden,
                                                                   .intermediate = n.intermediate,
                                                                   .bias = seed % 2 == 1});
}
} // namespace

TEST_CASE("layer/moe_layer: two-matrix experts equal the dense reference") {
    for (std::uint64_t seed = 700; seed < 716; ++seed) {
        CAPTURE(seed);
        check_ffn<act::Relu>(seed);
        check_ffn<act::Gelu>(seed + 50);
    }
}
TEST_CASE("layer/moe_layer: an expert with the user's own activation equals the dense reference") {
    for (std::uint64_t seed = 800; seed < 812; ++seed) {
        CAPTURE(seed);
        check_ffn<SignedSquare>(seed);
    }
}
TEST_CASE("layer/moe_layer: GeGLU with biases equals the dense reference") {
    for (std::uint64_t seed = 900; seed < 912; ++seed) {
        CAPTURE(seed);
        auto const n = test::draw(seed);
        test::check_expert<act::Gelu>(seed, n,
                                      expert::GeGlu<double>{.hidden = n.hidden,
                                                            .intermediate = n.intermediate,
                                                            .bias = seed % 2 == 1});
    }
}
TEST_CASE("layer/moe_layer: a shared expert, with and without its gate, equals the dense "
          "reference") {
    using expert::SwiGlu;
    for (std::uint64_t seed = 1000; seed < 1016; ++seed) {
        CAPTURE(seed);
        auto n = test::draw(seed);
        n.shared_intermediate = n.intermediate + 2;
        test::check_expert<act::Silu>(
            seed, n,
            expert::WithShared{
                SwiGlu<double>{.hidden = n.hidden, .intermediate = n.intermediate},
                SwiGlu<double>{.hidden = n.hidden, .intermediate = n.shared_intermediate},
                seed % 2 == 0});
    }
}
