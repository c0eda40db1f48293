#include "semoe/expert/gated.hpp"
#include "semoe/expert/with_shared.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/sequence.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/parallel/sliced_store.hpp"
#include "semoe/tier/cached.hpp"
#include "semoe/tier/ring.hpp"
#include "semoe/tier/split.hpp"
#include "support/backends.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <iterator>
#include <list>
#include <string>

/// A stack of layers whose dense blocks are slices over ranks, and whose experts come through a
/// tier of their own.

using namespace semoe;
using namespace semoe::test;
using parallel::SlicedStore;

namespace dense_slices_test {
namespace {

constexpr index_t hidden = 64, max_tokens = 9, num_experts = 7;
constexpr int num_layers = 4, dense_blocks = 2; // of a kind in a layer

/// What a rank did, in the order of its program.
struct Note {
    enum What { gather, begin, end } what;
    int layer;
    friend bool operator==(Note const&, Note const&) = default;
};
using Notes = std::vector<Note>;

/// A store that notes its loads of weights.
template <class Store>
struct Noting {
    static constexpr bool fails_late = semoe::fails_late<Store>;
    Store inner;
    std::shared_ptr<Notes> notes;

    void declare(BlockKey key, BlockInfo info) { inner.declare(key, info); }
    bool contains(BlockKey key) const { return inner.contains(key); }
    BlockInfo info(BlockKey key) const { return inner.info(key); }
    template <Backend B>
    auto load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        if (key.kind == BlockKind::weight) notes->push_back({Note::gather, key.layer});
        return inner.load(b, key, dst);
    }
    template <Backend B>
    auto store(B& b, BlockKey key, ConstBytes<space_of<B>> src) {
        return inner.store(b, key, src);
    }
};
template <class Store>
Noting(Store, std::shared_ptr<Notes>) -> Noting<Store>;

/// What all tiers must agree on.
struct Trained {
    std::vector<std::vector<float>> y, dx; // of each rank and step
    std::vector<Named> gradients, weights; // of each rank and layer
    friend bool operator==(Trained const&, Trained const&) = default;
};

/// One rank's layers over one tier.
template <class B, class Tier>
class Model {
    static auto make(B b, comm::Threads rank, Tier tier, int layer) {
        using Swi = expert::SwiGlu<float>;
        return MoeLayer{b,
                        gate::TopK<gate::Softmax>{.num_experts = num_experts, .top_k = 2},
                        expert::WithShared<Swi, Swi>{{.hidden = hidden, .intermediate = 24},
                                                     {.hidden = hidden, .intermediate = 40},
                                                     true},
                        rank,
                        tier,
                        {.layer = layer, .aux_loss_weight = 0.02}};
    }
    using Layer =
        decltype(make(std::declval<B>(), std::declval<comm::Threads>(), std::declval<Tier>(), 0));

public:
    Model(B b, comm::Threads rank, Tier tier)
      : b_(b)
      , tier_(tier)
      , tokens_(rank.rank() == 1 ? 0 : max_tokens - rank.rank()) {
        for (int l = 0; l < num_layers; ++l) {
            layers_.push_back(make(b, rank, tier, l));
            layers_.back().initialize(11);
            contexts_.push_back(layers_.back().make_context(max_tokens, Mode::training));
            layers_.back().prepare(optim::AdamW{});
        }
        for (int l = 0; l <= num_layers; ++l)
            rows_.push_back(to_backend(
                b, random_values<float>(std::uint64_t(1 + rank.rank()), max_tokens * hidden)));
    }

    /// f(layer) before and after each.
    template <class Begin, class End>
    void forward(Begin const& begin, End const& end) {
        auto context = contexts_.begin();
        int l = 0;
        for (Layer& layer : layers_) {
            begin(l);
            layer.forward(rows(l), rows(l + 1), *context++);
            end(l++);
        }
    }
    void forward() {
        forward([](int) {}, [](int) {});
    }
    /// Asks the next layer's gate before each layer but the last. @return what comes out
    std::vector<float> forward_with_prediction() {
        auto context = contexts_.begin();
        auto layer = layers_.begin();
        for (int l = 0; l < num_layers; ++l, ++layer, ++context) {
            if (l + 1 < num_layers) std::next(layer)->predict(rows(l), *std::next(context));
            layer->forward(rows(l), rows(l + 1), *context);
        }
        return outputs();
    }
    std::vector<float> outputs() { return to_host(b_, rows_.back()); }
    void step(int number, Trained& to) {
        for (Layer& layer : layers_) layer.zero_grad();
        forward();
        to.y.push_back(outputs());
        auto gradient = to_backend(b_, random_values<float>(77, max_tokens * hidden));
        auto dy = gradient.matrix(tokens_, hidden);
        auto context = contexts_.end();
        for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
            layer->backward(dy, dy, *--context);
        to.dx.push_back(to_host(b_, gradient));
        for (Layer& layer : layers_) {
            to.gradients.push_back(parameters_of(layer, BlockKind::gradient));
            layer.update(optim::AdamW{.lr = 1e-2}, {.step = number});
        }
    }
    void finish(Trained& to) {
        tier_.flush(b_);
        for (Layer& layer : layers_) to.weights.push_back(parameters_of(layer));
    }

private:
    auto rows(int l) { return rows_[std::size_t(l)].matrix(tokens_, hidden); }

    B b_;
    Tier tier_;
    index_t tokens_;
    std::list<Layer> layers_;
    std::list<typename Layer::Context> contexts_;
    std::vector<Buffer<float, B>> rows_;
};

/// Three steps on every rank.
template <class B, class MakeTier>
std::vector<Trained> train(int ranks, MakeTier const& make_tier) {
    std::vector<Trained> all(static_cast<std::size_t>(ranks));
    comm::ThreadWorld{ranks}.run([&](comm::Threads rank) {
        B b{};
        Model model{b, rank, make_tier(b, rank)};
        Trained& mine = all[std::size_t(rank.rank())];
        for (int n = 0; n < 3; ++n) model.step(n, mine);
        model.finish(mine);
    });
    return all;
}

template <class B>
auto experts_tier(B& b) {
    return tier::Ring{b, tier::HostStore{}, {.slots = 2}};
}
/// Dense blocks of so many layers are whole.
template <class B, class Store>
auto dense_ring(B& b, Store store, index_t layers = 2) {
    return tier::Ring{b, store, {.slots = layers, .pin_dense = false}};
}

} // namespace

TEST_CASE_TEMPLATE("parallel/dense_slices: training has the same bits as with all blocks in "
                   "memory, on 1 to 4 ranks",
                   B, SEMOE_TEST_BACKENDS) {
    for (int ranks : {1, 2, 3, 4}) {
        CAPTURE(ranks);
        auto const expected =
            train<B>(ranks, [](B& b, comm::Threads) { return tier::Resident<B>{b}; });
        for (index_t layers : {1, 2, 3}) {
            CAPTURE(layers);
            CHECK(expected == train<B>(ranks, [&](B& b, comm::Threads rank) {
                      return tier::Split{dense_ring(b, SlicedStore{rank}, layers), experts_tier(b)};
                  }));
        }
        for (index_t slots : {1, 3}) {
            CAPTURE(slots);
            CHECK(expected == train<B>(ranks, [&](B& b, comm::Threads rank) {
                      tier::CachedOptions const options{.slots = slots, .pin_dense = false};
                      return tier::Split{Sequenced{tier::Cached{b, SlicedStore{rank}, options}},
                                         experts_tier(b)};
                  }));
        }
    }
}

TEST_CASE("parallel/dense_slices: a rank keeps its part of weights, gradients and states alone") {
    int const ranks = 4;
    comm::ThreadWorld{ranks}.run([&](comm::Threads rank) {
        CpuBackend b{.threads = 2};
        SlicedStore store{rank};
        Model model{b, rank, tier::Split{dense_ring(b, store), experts_tier(b)}};
        Trained trained;
        model.step(0, trained);
        // Floats need no master: weight, gradient and two moments of each parameter.
        index_t const router = (num_experts + 1) * hidden, shared = 3 * hidden * 40;
        index_t const bytes = num_layers * 4 * (router + shared) * index_t(sizeof(float));
        auto const counters = store.counters();
        CHECK(counters.blocks == num_layers * dense_blocks * 3);
        CHECK(counters.bytes_kept >= bytes / ranks);
        CHECK(counters.bytes_kept < bytes / ranks + counters.blocks * ranks * store.granule);
    });
}

TEST_CASE("parallel/dense_slices: dense blocks are gathered while an earlier layer computes, and "
          "those of two layers are there at most") {
    int const ranks = 3;
    std::vector<Notes> all(ranks);
    comm::ThreadWorld{ranks}.run([&](comm::Threads rank) {
        CpuBackend b{.threads = 2};
        auto notes = std::make_shared<Notes>();
        auto const dense = dense_ring(b, Noting{SlicedStore{rank}, notes});
        Model model{b, rank, tier::Split{dense, experts_tier(b)}};
        auto const note = [&](Note::What what, int layer) {
            notes->push_back({what, layer});
            index_t resident = 0;
            for (int l = 0; l < num_layers; ++l)
                for (expert_id id : {router_block, shared_block})
                    resident += dense.resident({l, id});
            CHECK(resident <= 2 * dense_blocks);
        };
        model.forward();
        model.forward();
        notes->clear();
        TierCounters const before = dense.counters();
        model.forward([&](int l) { note(Note::begin, l); }, [&](int l) { note(Note::end, l); });
        CHECK(dense.counters().acquires - before.acquires == dense.counters().hits - before.hits);
        all[std::size_t(rank.rank())] = *notes;
    });
    // As soon as a layer's blocks have been used, those of the second after it take their place.
    Notes expected;
    for (int l = 0; l < num_layers; ++l) {
        int const ahead = (l + 2) % num_layers;
        for (Note n :
             {Note{Note::begin, l}, {Note::gather, ahead}, {Note::gather, ahead}, {Note::end, l}})
            expected.push_back(n);
    }
    for (Notes const& notes : all) CHECK(notes == expected);
}

TEST_CASE("parallel/dense_slices: a gate that is asked ahead gathers nothing more and changes "
          "nothing") {
    comm::ThreadWorld{3}.run([&](comm::Threads rank) {
        CpuBackend b{.threads = 2};
        auto const dense = dense_ring(b, SlicedStore{rank});
        Model model{
            b, rank,
            tier::Split{dense, Sequenced{tier::Cached{b, tier::HostStore{}, {.slots = 2}}}}};
        model.forward();
        auto const loads = [&] {
            auto const before = dense.counters().loads;
            model.forward();
            return dense.counters().loads - before;
        };
        auto const once = loads();
        auto const before = dense.counters().loads;
        auto const y = model.forward_with_prediction();
        CHECK(dense.counters().loads - before == once);
        CHECK(model.forward_with_prediction() == y);
        model.forward();
        CHECK(model.outputs() == y);
    });
}

TEST_CASE("parallel/dense_slices: a rank that fails ends the step of every rank") {
    std::vector<std::string> texts(3);
    auto const run = [&] {
        comm::ThreadWorld{3}.run([&](comm::Threads rank) {
            CpuBackend b{.threads = 2};
            Model model{b, rank, tier::Split{dense_ring(b, SlicedStore{rank}), experts_tier(b)}};
            try {
                model.forward(
                    [&](int l) {
                        if (rank.rank() == 1 && l == 2) throw std::runtime_error("out of luck");
                    },
                    [](int) {});
            } catch (std::exception const& error) {
                texts[std::size_t(rank.rank())] = error.what();
                throw;
            }
        });
    };
    CHECK_THROWS(run());
    for (auto const& text : texts) CHECK(text.find("out of luck") != std::string::npos);
}

} // namespace dense_slices_test
