#include "semoe/expert/gated.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/moe_layer.hpp"
#include "semoe/layer/quantize.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/schedule/chunked.hpp"
#include "semoe/testing/delayed_backend.hpp"
#include "semoe/testing/faulty_store.hpp"
#include "semoe/tier/cached.hpp"
#include "support/layer.hpp"

#include <doctest/doctest.h>

#include <optional>

using namespace semoe;
using test::Named, test::random_values;

namespace failure_test {
namespace {

using Store = testing::FaultyStore<CpuBackend>;
using Tier = tier::Cached<CpuBackend, Store>;
using Rows = MatrixView<bf16, HostSpace>;
constexpr index_t H = 6, T = 5, num_experts = 3;
constexpr BlockKind parameters[] = {BlockKind::weight, BlockKind::master, BlockKind::moments};
/// Of a step, in order; the last takes the place of the two before it.
enum class Part { forward, backward, update, backward_and_update };

/// What the call says by an error of this type; empty if there was none.
template <class Error, class F>
std::string error_of(F const& call) {
    try {
        call();
    } catch (Error const& error) {
        return error.what();
    }
    return "";
}

/// A layer whose blocks lie in a store that fails, with states of an optimizer from the start.
struct Fixture {
    CpuBackend b{.threads = 1};
    Store store{b};
    optim::AdamW adamw{.lr = 0.01};
    MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, expert::SwiGlu<bf16>, comm::Self, Tier> layer;
    MoeContext<CpuBackend, bf16, comm::Self> context;
    std::vector<bf16> x{random_values<bf16>(1, T*H)}, dy{random_values<bf16>(2, T*H)}, y, dx;
    Named loaded[3];

    struct Result {
        std::vector<bf16> y, dx;
        Named parameters[3];
        bool operator==(Result const&) const = default;
    };

    /// @param states  exist from the start; else the first update makes them
    explicit Fixture(index_t slots, bool states = true)
      : layer{b,
              {.num_experts = num_experts, .top_k = 2},
              {.hidden = H, .intermediate = 5},
              {},
              Tier{b, store, {.slots = slots}}}
      , context(layer.make_context(T, Mode::training)) {
        y = dx = std::vector<bf16>(x.size());
        if (states) layer.prepare(adamw);
        layer.initialize(1);
        if (!states) return;
        for (int i = 0; i < 3; ++i) loaded[i] = test::parameters_of(layer, parameters[i]);
        load();
    }

    /// All parameters anew, most of them not yet written back, and no gradients.
    void load() {
        load_parameters();
        layer.zero_grad();
    }
    void load_parameters() {
        for (int i = 0; i < 3; ++i)
            layer.for_each_parameter(
                [&](std::string const& name, auto view, Shape) {
                    using Element = std::remove_cvref_t<decltype(*view.data)>;
                    auto const& from = loaded[i].at(name);
                    for (std::size_t n = 0; n < from.size(); ++n)
                        view.data[n] = Element(float(from[n]));
                },
                parameters[i], Access::write);
        y = dx = std::vector<bf16>(x.size());
    }
    static Rows rows(std::vector<bf16>& v) { return {v.data(), T, H}; }
    void run(Part part) {
        if (part == Part::forward) layer.forward(rows(x), rows(y), context);
        if (part == Part::backward) layer.backward(rows(dy), rows(dx), context);
        if (part == Part::update) layer.update(adamw, {.zero_grad = true});
        if (part == Part::backward_and_update)
            layer.backward_and_update(rows(dy), rows(dx), context, adamw, {});
    }
    /// The step from this part on.
    Result finish(Part first) {
        for (Part const part : {Part::forward, Part::backward, Part::update})
            if (part >= first) run(part);
        Result all{y, dx, {}};
        for (int i = 0; i < 3; ++i) all.parameters[i] = test::parameters_of(layer, parameters[i]);
        return all;
    }
    /// The block of the n-th request of a kind; none if there were fewer.
    std::optional<BlockKey> requested(bool stores, index_t n) {
        for (auto const& request : store.requests())
            if (request.store == stores && n-- == 0) return request.key;
        return {};
    }
};

/// Lets each load or store fail that a part of a step asks for. Where the part fails with it, calls
/// check(fixture, a step's result, number of the load or store, whether a block's new bytes are
/// lost); else the step goes on with the bits of one without a failure. @return how often it failed
template <class Check>
int fail_each(Part part, bool stores, Check const& check) {
    int failures = 0;
    for (index_t const slots : {1, 2})
        for (bool const late : {false, true}) {
            Fixture f(slots);
            Fixture::Result const expected = f.finish(Part::forward);
            for (index_t n = 0;; ++n) {
                CAPTURE(int(part));
                CAPTURE(stores);
                CAPTURE(slots);
                CAPTURE(late);
                CAPTURE(n);
                f.load();
                if (part != Part::forward) f.run(Part::forward);
                if (part == Part::update) f.run(Part::backward);
                f.store.reset(
                    {.fail_load = stores ? -1 : n, .fail_store = stores ? n : -1, .late = late});
                std::string const text = error_of<store_error>([&] { f.run(part); });
                auto const failed = f.requested(stores, n);
                f.store.reset();
                if (!failed) break;
                // What went wrong ahead of its use is told of here.
                std::string const afterwards =
                    error_of<store_error>([&] { f.layer.tier().flush(f.b); });
                std::string const& told = text.empty() ? afterwards : text;
                // A queue tells of a late failure to who waits first, maybe for another block.
                std::string const block = late ? "block (layer 0, " : to_string(*failed);
                if (!told.empty()) CHECK(told.find(block) != std::string::npos);
                failures += !text.empty();
                bool const lost = (text + afterwards).find(" lost") != std::string::npos;
                if (!text.empty())
                    check(f, expected, n, lost);
                else if (afterwards.empty()) // tried again
                    CHECK(f.finish(Part(int(part) + 1)) == expected);
            }
        }
    return failures;
}

} // namespace

TEST_CASE("layer/failure: a forward that fails names the block, and the next has the same bits") {
    for (bool const stores : {false, true})
        CHECK(fail_each(Part::forward, stores,
                        [](Fixture& f, auto const& expected, index_t, bool lost) {
                            CHECK_THROWS_WITH_AS(f.run(Part::backward),
                                                 "MoeLayer::backward: the context holds no forward",
                                                 precondition_error);
                            if (lost) f.load();
                            CHECK(f.finish(Part::forward) == expected);
                        }) > 0);
}

TEST_CASE("layer/failure: a backward or an update that fails names the block, and the layer is "
          "refused until it is loaded and told so") {
    for (Part const part : {Part::backward, Part::update, Part::backward_and_update})
        for (bool const stores : {false, true})
            CHECK(fail_each(part, stores, [](Fixture& f, auto const& expected, index_t n, bool) {
                      f.load_parameters();
                      for (Part const next :
                           {Part::forward, Part::backward, Part::update, Part::backward_and_update})
                          CHECK_THROWS_WITH_AS(f.run(next),
                                               doctest::Contains("reset_after_error()"),
                                               precondition_error);
                      if (n % 2 == 0)
                          f.layer.reset_after_error();
                      else
                          f.layer.initialize(1);
                      CHECK(f.finish(Part::forward) == expected);
                  }) > 0);
}

TEST_CASE("layer/failure: a layer whose masters could not follow its weights is refused") {
    int failures = 0;
    for (bool const stores : {false, true})
        for (index_t n = 0; n < 8; ++n) {
            CAPTURE(stores);
            CAPTURE(n);
            Fixture f(1);
            f.store.reset({.fail_load = stores ? -1 : n, .fail_store = stores ? n : -1});
            std::string const text = error_of<store_error>([&] { f.layer.weights_changed(); });
            f.store.reset();
            if (text.empty()) continue;
            ++failures;
            CHECK_THROWS_WITH_AS(f.run(Part::forward), doctest::Contains("reset_after_error()"),
                                 precondition_error);
            f.load();
            f.layer.weights_changed();
            f.run(Part::forward);
        }
    CHECK(failures > 3);
}

TEST_CASE("layer/failure: a layer that could not be initialised or quantised whole is refused") {
    int failures = 0;
    for (bool const stores : {false, true})
        for (index_t n = 0; n < 8; ++n) {
            CAPTURE(stores);
            CAPTURE(n);
            Fixture f(1);
            f.store.reset({.fail_load = stores ? -1 : n, .fail_store = stores ? n : -1});
            std::string const text = error_of<store_error>([&] { f.layer.initialize(2); });
            f.store.reset();
            if (text.empty()) continue;
            ++failures;
            for (Part const next : {Part::forward, Part::update})
                CHECK_THROWS_WITH_AS(f.run(next), doctest::Contains("reset_after_error()"),
                                     precondition_error);
            f.layer.initialize(2);
            f.run(Part::forward);
        }
    CHECK(failures > 3);

    Fixture f(2);
    MoeLayer codes{f.b, f.layer.gate(), expert::Quantized{quant::Int8{}, f.layer.expert()}};
    codes.initialize(3);
    f.layer.tier().flush(f.b);
    f.store.reset({.fail_load = 1});
    CHECK_THROWS_AS(quantize(f.layer, codes), store_error);
    f.store.reset();
    auto context = codes.make_context(T);
    auto const forward = [&] { codes.forward(Fixture::rows(f.x), Fixture::rows(f.y), context); };
    CHECK_THROWS_WITH_AS(forward(), doctest::Contains("reset_after_error()"), precondition_error);
    quantize(f.layer, codes);
    forward();
}

TEST_CASE("layer/failure: masters that could not be made are made by the next update") {
    auto const step = [](Fixture& f) {
        f.run(Part::forward);
        f.run(Part::backward);
    };
    Fixture whole(1, false);
    step(whole);
    auto const expected = whole.finish(Part::update);
    int failures = 0;
    for (bool const stores : {false, true})
        for (index_t n = 0; n < 4; ++n) {
            CAPTURE(stores);
            CAPTURE(n);
            Fixture f(1, false);
            step(f);
            f.store.reset({.fail_load = stores ? -1 : n, .fail_store = stores ? n : -1});
            std::string const error = error_of<store_error>([&] { f.run(Part::update); });
            bool const before = f.layer.moments_per_element() == 0;
            f.store.reset();
            if (error.empty() || !before) continue;
            ++failures;
            CHECK(f.finish(Part::update) == expected);
        }
    CHECK(failures > 3);
}

TEST_CASE("layer/failure: once the norm of gradients has thrown, nothing writes to the layer") {
    using Delayed = testing::DelayedBackend;
    int failures = 0;
    for (index_t n = 0; n < 4; ++n) {
        Delayed b{.seed = 0};
        testing::FaultyStore<Delayed> store{b};
        {
            MoeLayer layer{b, gate::TopK<gate::Softmax>{.num_experts = num_experts, .top_k = 2},
                           expert::SwiGlu<float>{.hidden = H, .intermediate = 5}, comm::Self{},
                           tier::Cached{b, store, {.slots = 1}}};
            layer.initialize(1);
            layer.for_each_parameter([](auto const&...) {}, BlockKind::gradient, Access::write);
            store.reset({.fail_load = n});
            failures += !error_of<store_error>([&] { layer.grad_norm_squared(); }).empty();
            auto const end = b.record();
            CHECK(end.line->done == end.ticket);
            store.reset();
        }
        b.synchronize(); // what is left would write to memory that the layer has freed
    }
    CHECK(failures > 1);
}

TEST_CASE("layer/failure: once forward or backward has thrown, nothing works on its matrices") {
    using Delayed = testing::DelayedBackend;
    int failures[2] = {};
    for (std::uint64_t seed = 1; seed <= 12; ++seed)
        for (index_t n = 0; n < 14; ++n) {
            CAPTURE(seed);
            CAPTURE(n);
            Delayed b{.seed = seed};
            testing::FaultyStore<Delayed> store{b};
            MoeLayer layer{b,
                           gate::TopK<gate::Softmax>{.num_experts = num_experts, .top_k = 2},
                           expert::SwiGlu<float>{.hidden = H, .intermediate = 5},
                           comm::Self{},
                           tier::Cached{b, store, {.slots = 1}},
                           schedule::Chunked{.chunks = 2}};
            layer.initialize(1);
            auto x = random_values<float>(seed, T * H);
            auto y = x, dx = x;
            auto const rows = [](std::vector<float>& v) {
                return MatrixView<float, HostSpace>{v.data(), T, H};
            };
            bool backward = false;
            std::vector<float> const after(x.size(), 7);
            {
                auto context = layer.make_context(T, Mode::training);
                store.reset({.fail_load = n});
                std::string const text = error_of<store_error>([&] {
                    layer.forward(rows(x), rows(y), context);
                    backward = true;
                    layer.backward(rows(y), rows(dx), context);
                });
                store.reset();
                if (text.empty()) break;
                ++failures[backward];
                x = y = dx = after; // as memory that others use now
            }
            b.synchronize();
            CHECK(x == after);
            CHECK(y == after);
            CHECK(dx == after);
        }
    CHECK(failures[0] > 12);
    CHECK(failures[1] > 12);
}

} // namespace failure_test
