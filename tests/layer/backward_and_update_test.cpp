#include "semoe/comm/threads.hpp"
#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/adamw8.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/grid.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <mutex>

using namespace semoe;

namespace backward_and_update_test {
namespace {

constexpr index_t H = 24, T = 11;
/// Counts how its gradients go, and may hand over those of few rows alone.
struct Swi : expert::SwiGlu<bf16> {
    static inline std::atomic<int> stored{0}, handed_over{0};
    static inline index_t most_rows = T;

    template <Backend B>
    bool hands_over_gradients(B const& b, index_t rows) const {
        return rows <= most_rows && expert::SwiGlu<bf16>::hands_over_gradients(b, rows);
    }

    template <Backend B, class To, class... More>
    void backward_grouped(B& b, ops::Group<std::byte const> const& weights, To const& to,
                          More const&... more) const {
        ++(ops::GradientTaker<To> ? handed_over : stored);
        expert::SwiGlu<bf16>::backward_grouped(b, weights, to, more...);
    }
};
using Rows = MatrixView<bf16, HostSpace>;

/// Counts what is asked for of gradients.
struct CountingStore : tier::HostStore {
    std::shared_ptr<std::atomic<index_t>> gradients = std::make_shared<std::atomic<index_t>>(0);

    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if (key.kind == BlockKind::gradient) ++*gradients;
        return tier::HostStore::load(b, key, dst);
    }
    template <Backend B>
    typename B::event_type store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        if (key.kind == BlockKind::gradient) ++*gradients;
        return tier::HostStore::store(b, key, src);
    }
};
/// Chunks overlapped, or one after the other from the last one on.
struct Order {
    index_t chunks = 1;
    bool falling = false;

    template <class Stages>
    void run(Stages& stages) const {
        if (!falling) return schedule::Chunked{.chunks = chunks}.run(stages);
        auto& queue = stages.compute();
        for (index_t c = chunks; c-- > 0;) {
            stages.dispatch(queue, c);
            stages.experts(queue, c);
            stages.combine(queue, c);
        }
    }
};
static_assert(Schedule<Order>);
using Tier = Sequenced<tier::Cached<CpuBackend, CountingStore>>;

struct Run {
    bool fused;
    index_t slots = 40, chunks = 1;
    int ranks = 1;
    bool skip_untouched = false, bias = false, falling = false;
};
struct Result {
    test::Named weights, masters, moments;
    std::vector<bf16> dx;
    index_t gradient_transfers = 0;

    bool operator==(Result const& other) const {
        return weights == other.weights && masters == other.masters && moments == other.moments &&
               dx == other.dx;
    }
};

/// Three steps of one layer. Seven experts: with few tokens some have no rows.
template <class Optimizer>
Result train(Run const& run, Optimizer const& optimizer) {
    Result all;
    auto const counts = test::deal(T, run.ranks);
    all.dx.resize(std::size_t(3 * T * H));
    std::mutex mutex;
    comm::ThreadWorld world{run.ranks, {.timeout = std::chrono::seconds(60)}};
    world.run([&](comm::Threads rank) {
        CpuBackend b{.threads = 2};
        CountingStore const store;
        MoeLayer layer{
            b,
            gate::TopK<gate::Softmax>{.num_experts = 7, .top_k = 2},
            expert::WithShared{Swi{{.hidden = H, .intermediate = 40, .bias = run.bias}},
                               expert::SwiGlu<bf16>{.hidden = H, .intermediate = 8}, true},
            rank,
            Tier{tier::Cached<CpuBackend, CountingStore>{b, store, {.slots = run.slots}}},
            Order{.chunks = run.chunks, .falling = run.falling},
            MoeConfig{.aux_loss_weight = 0.1, .skip_untouched = run.skip_untouched}};
        layer.initialize(11);
        auto context = layer.make_context(T, Mode::training);
        index_t first = 0;
        for (int r = 0; r < rank.rank(); ++r) first += counts[std::size_t(r)];
        index_t const tokens = counts[std::size_t(rank.rank())];
        for (index_t step = 0; step < 3; ++step) {
            auto x = test::random_values<bf16>(std::uint64_t(10 + step), T * H);
            auto dy = test::random_values<bf16>(std::uint64_t(20 + step), T * H);
            std::vector<bf16> y(x.size());
            auto const part = [&](std::vector<bf16>& v, index_t row) {
                return Rows{v.data() + row * H, tokens, H};
            };
            auto const dx = part(all.dx, step * T + first);
            layer.forward(part(x, first), part(y, first), context);
            UpdateStep const how{.step = step, .gradient_scale = 0.5, .zero_grad = true};
            if (run.fused) {
                layer.backward_and_update(part(dy, first), dx, context, optimizer, how);
            } else {
                layer.backward(part(dy, first), dx, context);
                layer.update(optimizer, how);
            }
            b.synchronize();
        }
        index_t const transfers = *store.gradients;
        auto const weights = test::parameters_of(layer);
        auto const masters = test::parameters_of(layer, BlockKind::master);
        auto const moments = test::parameters_of(layer, BlockKind::moments);
        std::lock_guard const lock(mutex);
        all.gradient_transfers += transfers;
        all.weights.insert(weights.begin(), weights.end());
        all.masters.insert(masters.begin(), masters.end());
        all.moments.insert(moments.begin(), moments.end());
    });
    return all;
}
optim::AdamW const adamw{.lr = 0.01, .weight_decay = 0.1};
} // namespace

TEST_CASE("layer/backward_and_update: has the bits of backward and update, over ranks, chunks and "
          "tiers") {
    for (int const ranks : {1, 3})
        for (bool const skip : {false, true})
            for (index_t const chunks : {1, 3}) {
                CAPTURE(ranks);
                CAPTURE(skip);
                CAPTURE(chunks);
                Result const apart = train({false, 40, chunks, ranks, skip}, adamw);
                for (index_t const slots : {1, 2, 40}) {
                    CAPTURE(slots);
                    CHECK(train({true, slots, chunks, ranks, skip}, adamw) == apart);
                }
            }
    bool const touches_all = train({.fused = false, .skip_untouched = true}, adamw) ==
                             train({.fused = false, .skip_untouched = false}, adamw);
    CHECK(!touches_all);
    optim::AdamW8 const packed{adamw};
    auto const fused = train({.fused = true, .slots = 2}, packed);
    CHECK(fused.weights == train({.fused = false}, packed).weights);
}

TEST_CASE("layer/backward_and_update: has them under a schedule that runs the last chunk first") {
    for (int const ranks : {1, 3})
        for (index_t const chunks : {2, 5}) {
            CAPTURE(ranks);
            CAPTURE(chunks);
            Run run{.fused = false, .chunks = chunks, .ranks = ranks, .falling = true};
            Result const apart = train(run, adamw);
            run.fused = true;
            CHECK(train(run, adamw) == apart);
        }
}

TEST_CASE("layer/backward_and_update: with two slots a kind no gradient reaches the store") {
    CHECK(train({.fused = false, .slots = 2}, adamw).gradient_transfers > 0);
    CHECK(train({.fused = true, .slots = 2}, adamw).gradient_transfers == 0);
    CHECK(train({.fused = true, .slots = 1}, adamw).gradient_transfers == 0);
}

TEST_CASE("layer/backward_and_update: an expert's gradient goes to memory only where it cannot be "
          "handed over, with the same bits") {
    for (bool const bias : {false, true})
        for (index_t const chunks : {1, 3}) {
            CAPTURE(bias);
            CAPTURE(chunks);
            Result const apart = train({.fused = false, .chunks = chunks, .bias = bias}, adamw);
            Swi::stored = Swi::handed_over = 0;
            CHECK(train({.fused = true, .chunks = chunks, .bias = bias}, adamw) == apart);
            bool const over = !bias && chunks == 1;
            CHECK((Swi::handed_over > 0) == over);
            CHECK((Swi::stored > 0) == !over);
        }
    Swi::most_rows = 3;
    Swi::stored = Swi::handed_over = 0;
    CHECK(train({.fused = true}, adamw) == train({.fused = false}, adamw));
    CHECK(Swi::handed_over > 0);
    CHECK(Swi::stored > 3);
    Swi::most_rows = T;
    Swi::handed_over = 0;
    optim::Sgd const sgd{.lr = 0.1, .momentum = 0.9, .nesterov = true};
    CHECK(train({.fused = true}, sgd) == train({.fused = false}, sgd));
    CHECK(Swi::handed_over > 0);
}

TEST_CASE("layer/backward_and_update: refuses to accumulate, by name, and loses nothing") {
    CpuBackend b{.threads = 1};
    MoeLayer layer{b, gate::TopK<gate::Softmax>{.num_experts = 3, .top_k = 1},
                   expert::SwiGlu<float>{.hidden = 4, .intermediate = 5}};
    layer.initialize(1);
    auto context = layer.make_context(2, Mode::training);
    std::vector<float> x(8, 1.0f), y(8), dx(8);
    MatrixView<float, HostSpace> const in{x.data(), 2, 4}, out{y.data(), 2, 4},
        d_in{dx.data(), 2, 4};
    layer.forward(in, out, context);
    layer.backward(out, d_in, context);
    auto const gradients = test::parameters_of(layer, BlockKind::gradient);
    layer.forward(in, out, context);
    CHECK_THROWS_WITH_AS(layer.backward_and_update(out, d_in, context, adamw, {}),
                         doctest::Contains("there is a gradient already in block (layer 0, router"),
                         precondition_error);
    CHECK(test::parameters_of(layer, BlockKind::gradient) == gradients);
    layer.zero_grad();
    layer.backward_and_update(out, d_in, context, adamw, {});
    CHECK(layer.grad_norm_squared() == 0);
}

} // namespace backward_and_update_test
