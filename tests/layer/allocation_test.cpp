#include "semoe/expert/gated.hpp"
#include "semoe/gate/expert_choice.hpp"
#include "semoe/gate/switch.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/store/host.hpp"
#include "support/allocation_counter.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <numeric>

using namespace semoe;

namespace allocation_test {
namespace {

constexpr index_t H = 24, I = 20, E = 8, T = 37;
gate::TopK<gate::Softmax> const top{.num_experts = E, .top_k = 3};

struct Row {
    MoeConfig config = {};
    int threads = 2, ranks = 1;
    index_t chunks = 1, slots = 4;
};

/// Operator new's calls by all threads in steps that follow the first, backward and update apart
/// and in one.
/// @param meet  waits for all ranks
template <class L, class Meet>
long allocations_of(L& layer, Meet const& meet) {
    using Value = typename L::value_type;
    layer.initialize(3);
    optim::AdamW const optimizer{.lr = 1e-3};
    layer.prepare(optimizer);
    auto context = layer.make_context(T, Mode::training);
    auto x = test::random_values<Value>(1, T * H), dy = test::random_values<Value>(2, T * H);
    auto y = x, dx = x;
    auto const rows = [](auto& v) { return MatrixView<Value, HostSpace>{v.data(), T, H}; };
    long first = 0;
    for (int n = 0; n < 4; ++n) {
        if (n == 1) {
            meet();
            first = test::num_allocations;
            meet();
        }
        layer.zero_grad();
        layer.forward(rows(x), rows(y), context, {.step = std::uint64_t(n)});
        layer.backward(rows(dy), rows(dx), context);
        double const norm = layer.grad_norm_squared();
        train_step(layer, optimizer, UpdateStep{.step = n, .gradient_scale = 1 / (1 + norm)});
        layer.zero_grad();
        layer.forward(rows(x), rows(y), context, {.step = std::uint64_t(n)});
        layer.backward_and_update(rows(dy), rows(dx), context, optimizer, {.step = n});
    }
    meet();
    long const last = test::num_allocations;
    meet(); // nobody goes on before all have read
    return last - first;
}

/// The same of a layer over ranks, a cache and chunks; of all ranks.
template <class Value, class G>
long allocations_of(G const& gate, Row const& row) {
    std::atomic<long> sum{0};
    comm::ThreadWorld const world{row.ranks, {.timeout = std::chrono::seconds(60)}};
    CpuBackend const b{.threads = row.threads};
    world.run([&](comm::Threads rank) {
        MoeLayer layer{
            b,
            gate,
            expert::SwiGlu<Value>{.hidden = H, .intermediate = I},
            rank,
            tier::Cached<CpuBackend, tier::HostStore>{b, tier::HostStore{}, {.slots = row.slots}},
            schedule::Chunked{.chunks = row.chunks},
            row.config};
        std::vector<index_t> const sent(std::size_t(row.ranks));
        auto received = sent;
        sum += allocations_of(layer, [&] { rank.exchange_counts(sent, received); });
    });
    return sum;
}

} // namespace

TEST_CASE("layer/allocation: no training step allocates once it has run") {
    for (int const threads : {1, 2}) {
        MoeLayer layer{CpuBackend{.threads = threads}, top,
                       expert::SwiGlu<float>{.hidden = H, .intermediate = I},
                       MoeConfig{.capacity = {.factor = 1.0}, .aux_loss_weight = 0.1}};
        CHECK(allocations_of(layer, [] {}) == 0);
    }
}

TEST_CASE("layer/allocation: nor does one over ranks, a cache of few blocks and chunks") {
    MoeConfig const lossy{.capacity = {.factor = 1.0, .drop = Drop::probability},
                          .aux_loss_weight = 0.1,
                          .z_loss_weight = 0.01};
    MoeConfig const recomputed{.aux_loss_weight = 0.1, .recompute = true};
    for (Row const& row : {Row{}, Row{.config = lossy, .chunks = 3, .slots = 2},
                           Row{.config = recomputed, .threads = 1, .ranks = 2, .slots = E},
                           Row{.config = lossy, .ranks = 2, .chunks = 2, .slots = 1}}) {
        CAPTURE(row.ranks);
        CAPTURE(row.chunks);
        CHECK(allocations_of<bf16>(top, row) == 0);
        CHECK(allocations_of<float>(gate::Switch{.num_experts = E}, row) == 0);
        CHECK(allocations_of<float>(gate::ExpertChoice{.num_experts = E}, row) == 0);
    }
}

} // namespace allocation_test
