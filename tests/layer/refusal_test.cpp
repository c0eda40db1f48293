#include "semoe/expert/ffn.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/quantize.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/adamw8.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <utility>

using namespace semoe;
using test::random_values;

namespace refusal_test {
namespace {

constexpr index_t H = 8, T = 6;
using TopK = gate::TopK<gate::Softmax>;
using Layer = MoeLayer<CpuBackend, TopK, expert::SwiGlu<float>>;
using Mat = MatrixView<float, HostSpace>;

Layer make_layer(MoeConfig config = {}, index_t intermediate = 6) {
    Layer layer{CpuBackend{.threads = 1}, TopK{.num_experts = 4, .top_k = 2},
                expert::SwiGlu<float>{.hidden = H, .intermediate = intermediate}, config};
    layer.initialize(3);
    return layer;
}

/// A gate of the user's that makes one wrong choice.
struct WrongGate : TopK {
    index_t token = 0;
    expert_id wrong = 0;
    index_t most = T; ///< rows of an expert, as it says
    float weight = 1; ///< of the wrong choice

    index_t max_rows_per_expert(index_t) const { return most; }
    template <class B, class Real>
    void forward(B& b, RouteInput<B, Real> const& in, Assignment<B, Real> out) const {
        TopK::forward(b, in, out);
        b.synchronize();
        out.topk_ids(token, 0) = wrong;
        out.topk_ids(token, 1) = 1;
        out.topk_weights(token, 0) = Real(weight);
    }
};

/// A score without d_weight.
struct Logit {
    static constexpr auto normalize = Normalize::none;
    float key(float logit, expert_id) const { return logit; }
    float weight(float logit, expert_id) const { return logit; }
};

WrongGate wrong_gate() {
    WrongGate gate;
    gate.num_experts = 4, gate.top_k = 2, gate.token = 4;
    return gate;
}
void forward_by(WrongGate const& gate, ForwardOptions<HostSpace> const& options = {},
                MoeConfig const& config = {}) {
    std::vector<float> rows(T * H);
    Mat const m{rows.data(), T, H};
    MoeLayer layer{CpuBackend{.threads = 1}, gate,
                   expert::SwiGlu<float>{.hidden = H, .intermediate = 6}, config};
    layer.initialize(3);
    auto context = layer.make_context(T);
    layer.forward(m, m, context, options);
}

/// A schedule of the user's of two chunks, counted from `first` on, of which it combines some.
struct WrongSchedule {
    index_t chunks = 2, first = 0, combined = 2;
    bool same_experts = false, late = false;

    template <class Stages>
    void run(Stages& stages) const {
        auto& q = stages.compute();
        for (index_t c = 0; c < chunks; ++c) {
            if (!late) stages.dispatch(q, first + c);
            stages.experts(q, same_experts ? 0 : first + c);
            if (late) stages.dispatch(q, first + c);
            if (c < combined) stages.combine(q, first + c);
        }
    }
};

} // namespace

TEST_CASE("layer/refusal: a loss weight that is not finite is named") {
    auto const refuses = [](double MoeConfig::*weight, char const* what) {
        for (double const number :
             {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
            MoeConfig config;
            config.*weight = number;
            CHECK_THROWS_WITH_AS(config.validate(), doctest::Contains(what), precondition_error);
        }
    };
    refuses(&MoeConfig::aux_loss_weight, "MoeConfig: aux_loss_weight is ");
    refuses(&MoeConfig::z_loss_weight, "MoeConfig: z_loss_weight is ");
    refuses(&MoeConfig::mutual_information_weight, "MoeConfig: mutual_information_weight is ");
}

TEST_CASE("layer/refusal: a number out of range changes nothing, and the layer goes on") {
    double const nan = std::numeric_limits<double>::quiet_NaN();
    auto layer = make_layer();
    auto context = layer.make_context(T, Mode::training);
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size()), dx(x.size());
    Mat const in{x.data(), T, H}, out{y.data(), T, H}, d_in{dx.data(), T, H};
    auto const weights = test::parameters_of(layer);
    layer.forward(in, out, context);

    auto const refuses = [&](auto const& optimizer, UpdateStep step, char const* what) {
        CHECK_THROWS_WITH_AS(layer.update(optimizer, step), doctest::Contains(what),
                             precondition_error);
        CHECK_THROWS_WITH_AS(layer.backward_and_update(out, d_in, context, optimizer, step),
                             doctest::Contains(what), precondition_error);
    };
    refuses(optim::AdamW{.lr = -1}, {}, "AdamW: lr is -1");
    refuses(optim::AdamW{.eps = 0}, {}, "AdamW: eps is 0");
    refuses(optim::AdamW{}, {.lr_factor = nan}, "AdamW: lr_factor is nan");
    refuses(optim::AdamW{}, {.lr_factor = -1}, "AdamW: lr_factor is -1");
    refuses(optim::AdamW8{}, {.step = -1}, "AdamW: step is -1");
    refuses(optim::Sgd{}, {.gradient_scale = nan}, "Sgd: gradient_scale is nan");
    CHECK_THROWS_WITH_AS(layer.backward(out, d_in, context, {.loss_scale = nan}),
                         doctest::Contains("loss_scale is nan"), precondition_error);
    CHECK(test::parameters_of(layer) == weights);
    layer.backward_and_update(out, d_in, context, optim::AdamW{}, {});
    CHECK(test::parameters_of(layer) != weights);
}
TEST_CASE("layer/refusal: backward through another layer than forward") {
    auto first = make_layer({.layer = 0}), second = make_layer({.layer = 1}),
         namesake = make_layer({.layer = 0});
    auto context = first.make_context(T, Mode::training);
    std::vector<float> rows(T * H);
    Mat const m{rows.data(), T, H};
    first.forward(m, m, context);
    CHECK_THROWS_WITH_AS(second.backward(m, m, context),
                         doctest::Contains("a forward of layer 0, this is layer 1"),
                         precondition_error);
    CHECK_THROWS_WITH_AS(namesake.backward(m, m, context),
                         doctest::Contains("layer 0, this is another of the number 0"),
                         precondition_error);
    auto moved = std::move(first);
    moved.backward(m, m, context);
}
TEST_CASE("layer/refusal: an expert that trains may call any member its activation") {
    struct UserExpert : expert::SwiGlu<float> {
        enum class Kind { silu } activation = Kind::silu;
    };
    UserExpert expert;
    expert.hidden = H;
    expert.intermediate = 6;
    MoeLayer layer{CpuBackend{.threads = 1}, TopK{.num_experts = 4, .top_k = 2}, expert};
    layer.initialize(3);
    auto same = make_layer();
    auto const gradients = [](auto& any) {
        auto context = any.make_context(T, Mode::training);
        auto x = random_values<float>(1, T * H);
        std::vector<float> y(x.size());
        Mat const in{x.data(), T, H}, out{y.data(), T, H};
        any.forward(in, out, context);
        any.backward(in, out, context);
        return test::parameters_of(any, BlockKind::gradient);
    };
    CHECK(gradients(layer) == gradients(same));
}
TEST_CASE("layer/refusal: initialize forgets gradients") {
    auto layer = make_layer();
    auto context = layer.make_context(T, Mode::training);
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size());
    Mat const in{x.data(), T, H}, out{y.data(), T, H};
    auto const norm = [&] {
        layer.initialize(3);
        layer.forward(in, out, context);
        layer.backward(in, out, context);
        return layer.grad_norm_squared();
    };
    double const once = norm();
    CHECK(norm() == once);
}
TEST_CASE("layer/refusal: initialize forgets moments") {
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size());
    Mat const in{x.data(), T, H}, out{y.data(), T, H};
    auto const trained = [&](auto& layer) {
        layer.initialize(3);
        auto own = layer.make_context(T, Mode::training);
        layer.forward(in, out, own);
        layer.backward(in, out, own);
        train_step(layer, optim::AdamW{}, {});
        return test::parameters_of(layer);
    };
    auto layer = make_layer();
    auto const once = trained(layer);
    CHECK(trained(layer) == once);

    // Those, too, that another layer has left in the tier.
    CpuBackend b{.threads = 1};
    tier::Resident resident{b};
    tier::Cached cached{b, tier::HostStore{}, {.slots = 1}};
    auto const train_over = [&](auto tier) {
        MoeLayer one{b, layer.gate(), layer.expert(), comm::Self{}, tier};
        return trained(one);
    };
    for (int n = 0; n < 2; ++n) {
        CHECK(train_over(resident) == once);
        CHECK(train_over(cached) == once);
    }
}
TEST_CASE("layer/refusal: a schedule of the user's that leaves work out, or names what is not "
          "there") {
    auto x = random_values<float>(1, T * H);
    std::vector<float> y(x.size());
    Mat const in{x.data(), T, H}, out{y.data(), T, H};
    auto const refused = [&](WrongSchedule schedule, char const* what) {
        MoeLayer layer{CpuBackend{.threads = 1},
                       TopK{.num_experts = 4, .top_k = 2},
                       expert::SwiGlu<float>{.hidden = H, .intermediate = 6},
                       comm::Self{},
                       tier::Resident<CpuBackend>{CpuBackend{.threads = 1}},
                       schedule};
        auto context = layer.make_context(T, Mode::training);
        CHECK_THROWS_WITH_AS(layer.forward(in, out, context), doctest::Contains(what),
                             precondition_error);
    };
    refused({.combined = 1}, "the schedule comes to the end when chunk 1 has run 2 of dispatch, "
                             "experts and combine");
    refused({.same_experts = true}, "the schedule comes to experts when chunk 0 has run 3 of");
    refused({.late = true}, "the schedule comes to experts when chunk 0 has run 0 of");
    refused({.first = 1}, "the schedule names chunk 2 of 2");
    refused({.first = -1}, "the schedule names chunk -1 of 2");
    for (index_t const chunks : {0, -2})
        CHECK_THROWS_WITH_AS(
            (MoeLayer{CpuBackend{.threads = 1}, TopK{.num_experts = 4, .top_k = 2},
                      expert::SwiGlu<float>{.hidden = H, .intermediate = 6}, comm::Self{},
                      tier::Resident<CpuBackend>{CpuBackend{.threads = 1}},
                      WrongSchedule{.chunks = chunks}}),
            message("MoeLayer: the schedule's chunks is {}, must be at least 1", chunks).c_str(),
            precondition_error);
}
TEST_CASE("layer/refusal: a store's weights of another type, or of other matrices") {
    CpuBackend b{.threads = 1};
    tier::HostStore store;
    auto const open = [&]<class X>(X const& expert) {
        return MoeLayer{b, TopK{.num_experts = 4, .top_k = 2}, expert, comm::Self{},
                        tier::Cached{b, store, {.slots = 2}}};
    };
    auto const refused = [&](auto const& expert) {
        CHECK_THROWS_WITH_AS(open(expert),
                             doctest::Contains("block (layer 0, expert 0, weight) exists with 576 "
                                               "bytes, row_major, too, but of other matrices"),
                             store_error);
    };
    open(expert::SwiGlu<bf16>{.hidden = H, .intermediate = 12});
    open(expert::SwiGlu<bf16>{.hidden = H, .intermediate = 12});
    refused(expert::SwiGlu<f16>{.hidden = H, .intermediate = 12});
    refused(expert::SwiGlu<float>{.hidden = H, .intermediate = 6});
    refused(expert::Ffn<bf16, ops::activation::Relu>{.hidden = H, .intermediate = 18});
}
TEST_CASE("layer/refusal: choices of a gate that are out of range or repeated") {
    for (auto const capacity :
         {Capacity{}, Capacity{.factor = 1}, Capacity{.factor = 1, .drop = Drop::probability}})
        for (expert_id const wrong : {1, 4, -2, 1 << 30}) {
            CAPTURE(wrong);
            WrongGate gate = wrong_gate();
            gate.wrong = wrong;
            CHECK_THROWS_WITH_AS(forward_by(gate, {}, {.capacity = capacity}),
                                 "MoeLayer: an expert number that is out of range, repeated or of "
                                 "a masked token, token 4 of rank 0",
                                 data_error);
        }
}
TEST_CASE("layer/refusal: choices of a gate for a token that the mask leaves out") {
    std::vector<std::uint8_t> mask = {1, 1, 1, 1, 0, 1};
    CHECK_THROWS_WITH_AS(forward_by(wrong_gate(), {.mask = {mask.data(), T}}),
                         doctest::Contains("of a masked token, token 4 of rank 0"), data_error);
    mask = {0, 1, 1, 1, 1, 1};
    forward_by(wrong_gate(), {.mask = {mask.data(), T}});
}
TEST_CASE("layer/refusal: a weight of the gate's that is not finite") {
    WrongGate gate = wrong_gate();
    gate.weight = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH_AS(forward_by(gate),
                         "MoeLayer: a routing weight that is not finite, token 4 of rank 0",
                         data_error);
}
TEST_CASE("layer/refusal: more rows than the gate says that an expert gets") {
    WrongGate gate = wrong_gate();
    gate.most = 1;
    CHECK_THROWS_WITH_AS(forward_by(gate),
                         doctest::Contains("rows, the gate's max_rows_per_expert allows 1"),
                         precondition_error);
}
TEST_CASE("layer/refusal: training by a gate whose score has no derivative") {
    MoeLayer layer{CpuBackend{.threads = 1}, gate::TopK<Logit>{.num_experts = 4, .top_k = 2},
                   expert::SwiGlu<float>{.hidden = H, .intermediate = 6}};
    CHECK(!decltype(layer)::trainable);
    (void)layer.make_context(T);
    CHECK_THROWS_WITH_AS((void)layer.make_context(T, Mode::training),
                         doctest::Contains("MoeLayer: the gate lacks backward or says that it does "
                                           "not train"),
                         precondition_error);
}
TEST_CASE("layer/refusal: more experts than ids can name") {
    TopK const gate{.num_experts = index_t(1) << 31, .top_k = 2};
    expert::SwiGlu<float> const expert{.hidden = H, .intermediate = 6};
    CHECK_THROWS_WITH_AS((Layer{CpuBackend{.threads = 1}, gate, expert}),
                         doctest::Contains("num_experts is 2147483648, must be below 2^31"),
                         precondition_error);
}
TEST_CASE("layer/refusal: rows without an address, and fewer than none") {
    auto layer = make_layer();
    auto context = layer.make_context(T, Mode::training);
    std::vector<float> rows(T * H), weights(T * 2, 0.5f);
    std::vector<expert_id> ids(T * 2, -1);
    Mat const m{rows.data(), T, H}, nowhere{nullptr, T, H}, negative{rows.data(), -1, H};
    MatrixView<expert_id const, HostSpace> const to{ids.data(), T, 2};
    auto const refused = [](auto const& call, char const* what) {
        CHECK_THROWS_WITH_AS(call(), doctest::Contains(what), precondition_error);
    };
    refused([&] { layer.forward(negative, negative, context); },
            "x has -1 rows, must not be negative");
    refused([&] { layer.forward(nowhere, m, context); }, "x is [6,8] without an address");
    refused([&] { layer.forward(m, nowhere, context); }, "y is [6,8] without an address");
    refused(
        [&] {
            layer.forward_routed(m, to, {weights.data(), T, 2}, nowhere, context);
        },
        "y is [6,8] without an address");
    refused(
        [&] {
            layer.forward_routed(m, to, {nullptr, T, 2}, m, context);
        },
        "topk_weights is [6,2] without an address");
    ForwardOptions<HostSpace> options;
    options.mask = {nullptr, T};
    refused([&] { layer.forward(m, m, context, options); }, "a mask of 6 without an address");
    options.mask = {};
    options.token_ids = {nullptr, T};
    refused([&] { layer.forward(m, m, context, options); }, "token_ids of 6 without an address");
    layer.forward({nullptr, 0, H}, {nullptr, 0, H}, context);
    layer.forward(m, m, context);
    refused([&] { layer.backward(nowhere, m, context); }, "dy is [6,8] without an address");
    refused([&] { layer.backward(m, nowhere, context); }, "dx is [6,8] without an address");
    layer.backward(m, m, context);
}
TEST_CASE("layer/refusal: quantising into a layer of another size") {
    auto from = make_layer({}, 16);
    MoeLayer to{
        CpuBackend{.threads = 1}, TopK{.num_experts = 4, .top_k = 2},
        expert::Quantized{quant::Int8{}, expert::SwiGlu<float>{.hidden = H, .intermediate = 6}}};
    auto const before = test::parameters_of(to);
    CHECK_THROWS_WITH_AS(quantize(from, to),
                         "quantize: an expert has gate_proj [16,8], up_proj [16,8], down_proj "
                         "[8,16], needed are gate_proj [6,8], up_proj [6,8], down_proj [8,6]",
                         precondition_error);
    CHECK(test::parameters_of(to) == before);
}
TEST_CASE("layer/refusal: ids of padding may be anything, those of tokens may not") {
    auto layer = make_layer();
    auto context = layer.make_context(T);
    std::vector<float> rows(T * H), weights(T * 2, 0.5f);
    std::vector<expert_id> ids(T * 2, -1);
    std::vector<std::uint8_t> mask(T, 1);
    Mat const m{rows.data(), T, H};
    auto const forward = [&](index_t ld) {
        layer.forward_routed(m, {ids.data(), T, 2, ld}, {weights.data(), T, 2}, m, context,
                             {.mask = {mask.data(), T}});
    };
    ids[2 * 3] = 99;
    CHECK_THROWS_WITH_AS(forward(2), doctest::Contains("token 3"), data_error);
    mask[3] = 0;
    forward(2);
    CHECK_THROWS_WITH_AS(forward(1), doctest::Contains("an ld of at least 2"), precondition_error);
}

} // namespace refusal_test
