#include "semoe/layer/sequence.hpp"

#include "semoe/testing/check_tier.hpp"
#include "semoe/testing/delayed_backend.hpp"
#include "semoe/tier/cached.hpp"
#include "support/recording_tier.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <tuple>
#include <vector>

using namespace semoe;

namespace sequence_test {
namespace {

constexpr int num_experts = 2;
BlockKey key(int layer, int expert, BlockKind kind = BlockKind::weight) {
    return {layer, expert, kind};
}
using Use = std::pair<BlockKey, Access>;
using Keys = std::vector<BlockKey>;

/// One pass in which each layer reads the weights of its experts.
std::vector<Use> forward_pass(int layers) {
    std::vector<Use> uses;
    for (int l = 0; l < layers; ++l)
        for (int e = 0; e < num_experts; ++e) uses.push_back({key(l, e), Access::read});
    return uses;
}
/// Forward, backward with gradients, and an update of every block.
std::vector<Use> training_step(int layers) {
    auto uses = forward_pass(layers);
    for (int l = layers; l-- > 0;)
        for (int e = num_experts; e-- > 0;) {
            uses.push_back({key(l, e), Access::read});
            uses.push_back({key(l, e, BlockKind::gradient), Access::overwrite});
        }
    for (int l = 0; l < layers; ++l)
        for (int e = 0; e < num_experts; ++e) {
            uses.push_back({key(l, e), Access::write});
            uses.push_back({key(l, e, BlockKind::gradient), Access::read});
            uses.push_back({key(l, e, BlockKind::moments), Access::write});
        }
    return uses;
}
Sequence sequence_of(int layers) {
    Sequence sequence;
    sequence.reserve(std::size_t(layers * num_experts * num_block_kinds));
    return sequence;
}
Keys upcoming(Sequence const& sequence, bool this_layer = true, std::size_t most = 100) {
    Keys keys(most);
    keys.resize(sequence.upcoming(keys, this_layer));
    return keys;
}
/// What will be loaded after use i of a step that repeats.
Keys truth(std::vector<Use> const& step, std::size_t i, std::size_t n) {
    Keys keys;
    while (keys.size() < n) {
        auto const& [next, access] = step[++i % step.size()];
        if (access != Access::overwrite) keys.push_back(next);
    }
    return keys;
}

} // namespace

TEST_CASE(
    "layer/sequence: from the second pass on, the rest of the model is known, round the end") {
    auto sequence = sequence_of(3);
    auto const pass = forward_pass(3);
    for (int n = 0; n < 5; ++n)
        for (std::size_t i = 0; i < pass.size(); ++i) {
            bool const begins = sequence.acquired(pass[i].first, pass[i].second);
            CHECK(begins == (i % num_experts == 0));
            if (!begins) continue;
            Keys const next = upcoming(sequence);
            CAPTURE(n);
            CAPTURE(i);
            if (n == 0) CHECK(next.empty());
            if (n == 1) CHECK(next == truth(pass, i, 5)); // the pass before this one
            if (n >= 2) CHECK(next == truth(pass, i, 5));
        }
}

TEST_CASE("layer/sequence: a first backward is recognised as forward from its end") {
    auto sequence = sequence_of(4);
    for (auto const& [block, access] : forward_pass(4)) sequence.acquired(block, access);
    for (int e : {1, 0}) CHECK_FALSE(sequence.acquired(key(3, e), Access::read));
    for (int l : {2, 1}) {
        REQUIRE(sequence.acquired(key(l, 1), Access::read));
        Keys expected{key(l, 0)};
        for (int next = l; next-- > 0;)
            for (int e = 0; e < num_experts; ++e) expected.push_back(key(next, e));
        CHECK(upcoming(sequence) == expected);
        CHECK(upcoming(sequence, true, 2) == Keys(expected.begin(), expected.begin() + 2));
        CHECK(upcoming(sequence, false) == Keys(expected.begin() + 1, expected.end()));
        sequence.acquired(key(l, 0), Access::read);
    }
}

TEST_CASE("layer/sequence: forward, backward and update of a repeated step are told apart") {
    for (int layers : {2, 3, 5}) {
        auto sequence = sequence_of(layers);
        auto const step = training_step(layers);
        for (int n = 0; n < 6; ++n)
            for (std::size_t i = 0; i < step.size(); ++i) {
                bool const begins = sequence.acquired(step[i].first, step[i].second);
                if (!begins || n < 2) continue;
                Keys const next = upcoming(sequence);
                REQUIRE(next.size() >= 6);
                CAPTURE(layers);
                CAPTURE(i);
                CHECK(next == truth(step, i, next.size()));
            }
    }
}

TEST_CASE("layer/sequence: a pass with some other experts keeps its place") {
    auto sequence = sequence_of(4);
    auto const pass = [&](int layer, int a, int b) {
        sequence.acquired(key(layer, a), Access::read);
        Keys const told = upcoming(sequence);
        sequence.acquired(key(layer, b), Access::read);
        return told;
    };
    pass(0, 0, 1);
    pass(1, 2, 3);
    CHECK(pass(0, 1, 5) == Keys{key(0, 0), key(1, 2), key(1, 3)});
    CHECK(pass(1, 3, 6) == Keys{key(1, 2), key(0, 1), key(0, 5)});
    CHECK(pass(0, 7, 5) == Keys{key(0, 1), key(0, 5), key(1, 3), key(1, 6)});
}

TEST_CASE("layer/sequence: what mostly does not come true is not told, until it does") {
    auto sequence = sequence_of(8);
    int next = 0;
    auto const pass = [&](int layer, bool repeat) {
        if (!repeat) next += 4;
        Keys told;
        for (int e = 0; e < 4; ++e)
            if (sequence.acquired(key(layer, next + e), Access::read)) told = upcoming(sequence);
        return told;
    };
    for (int n = 0; n < 10; ++n)
        for (int layer : {0, 1, 2}) {
            Keys const told = pass(layer, false);
            if (n == 0) CHECK(told.empty());
            if (n >= 2) CHECK(told.empty());
        }
    for (int n = 0; n < 3; ++n)
        for (int layer : {0, 1, 2}) {
            Keys const told = pass(layer, true);
            if (n == 2) CHECK(told.size() == 11);
        }
}

/// A sequenced tier over three layers, read once, and what the tier under it is told.
struct ReadOnce {
    CpuBackend b;
    test::RecordingTier recording;
    Sequenced<test::RecordingTier> tier{recording};
    std::vector<Keys>& told = *recording.told;

    ReadOnce() {
        for (int l = 0; l < 3; ++l)
            for (int e = 0; e < num_experts; ++e)
                tier.declare(b, key(l, e), {8, LayoutId::row_major});
        for (auto const& [block, access] : forward_pass(3)) acquire(block);
    }
    void acquire(BlockKey block) { (void)tier.acquire(b, block, Access::read).bytes(); }
};

TEST_CASE("layer/sequence: a layer's own list comes first, then the following layers") {
    ReadOnce x;
    static_assert(MemoryTier<decltype(x.tier), CpuBackend>);
    CHECK(x.told.empty());
    x.acquire(key(0, 0));
    CHECK(x.told.back() == Keys{key(0, 1), key(1, 0), key(1, 1), key(2, 0)}); // twice the slots
    Keys const own{key(0, 1)};
    x.tier.prefetch(x.b, own);
    CHECK(x.told.back() == Keys{key(0, 1), key(1, 0), key(1, 1), key(2, 0), key(2, 1)});
    CHECK(x.told.size() == 2);
    x.acquire(key(0, 1));
    CHECK(x.told.size() == 2); // only when a layer begins
    x.tier.prefetch(x.b, Keys{});
    CHECK(x.told.back() == Keys{key(1, 0), key(1, 1), key(2, 0), key(2, 1)});
}

TEST_CASE("layer/sequence: blocks that the tier had before are told like others") {
    CpuBackend b;
    test::RecordingTier recording;
    Sequenced tier{recording};
    for (auto const& [block, access] : forward_pass(3))
        recording.declare(b, block, {8, LayoutId::row_major});
    (void)tier.acquire(b, key(0, 0), Access::read).bytes(); // nothing to remember it by yet
    for (auto const& [block, access] : forward_pass(3))
        tier.declare(b, block, {8, LayoutId::row_major});
    for (int n = 0; n < 2; ++n)
        for (auto const& [block, access] : forward_pass(3))
            (void)tier.acquire(b, block, access).bytes();
    CHECK(recording.told->back() == Keys{key(2, 1), key(0, 0), key(0, 1), key(1, 0)});
}

TEST_CASE("layer/sequence: a prediction ends with its layer, though that announces nothing") {
    ReadOnce x;
    x.acquire(key(0, 0));
    x.tier.predict(1, Keys{key(1, 1)});
    x.tier.prefetch(x.b, Keys{key(0, 1)});
    CHECK(x.told.back().at(1) == key(1, 1));
    x.acquire(key(1, 0));
    CHECK(x.told.back().at(0) == key(1, 1));
    x.acquire(key(2, 0));
    x.tier.prefetch(x.b, Keys{key(2, 1)});
    CHECK(x.told.back().at(0) == key(2, 1));
    CHECK(x.told.back().at(1) == key(0, 0));
}

TEST_CASE("layer/sequence: behind a layer's own list comes what it read after such blocks") {
    auto sequence = sequence_of(2);
    auto const backward = [&](int layer, int experts) {
        for (int e = 0; e < experts; ++e) {
            sequence.acquired(key(layer, e), Access::read);
            sequence.acquired(key(layer, e, BlockKind::gradient), Access::overwrite);
        }
        for (int e = 0; e < experts; ++e) // their norm
            sequence.acquired(key(layer, e, BlockKind::gradient), Access::read);
    };
    auto const behind = [&](Keys const& given) {
        Keys keys(20);
        keys.resize(sequence.behind(given, keys));
        return keys;
    };
    Keys const norm{key(0, 0, BlockKind::gradient), key(0, 1, BlockKind::gradient)};
    for (int n = 0; n < 2; ++n)
        for (int layer : {1, 0}) backward(layer, 2);
    backward(1, 2);
    sequence.acquired(key(0, 0), Access::read);
    CHECK(behind({key(0, 1)}) == norm);
    CHECK(behind({}).empty());
    CHECK(behind({key(1, 0)}).empty()); // another layer's
    sequence.acquired(key(0, 1), Access::read);
    CHECK(behind(norm).empty());
    CHECK(behind({key(0, 1)}) == norm); // more experts than the last time
}

TEST_CASE("layer/sequence: across layers every block of a repeated step is there in time") {
    CpuBackend b;
    auto const misses = [&](auto tier, int layers, auto const& step) {
        for (int l = 0; l < layers; ++l)
            for (int e = 0; e < num_experts; ++e)
                for (int kind = 0; kind < num_block_kinds; ++kind)
                    tier.declare(b, key(l, e, BlockKind(kind)), {64, LayoutId::row_major});
        TierCounters before;
        index_t overwritten = 0;
        for (int n = 0; n < 4; ++n) {
            before = tier.counters();
            overwritten = 0;
            for (auto const& [block, access] : step) {
                overwritten += access == Access::overwrite && !tier.resident(block);
                (void)tier.acquire(b, block, access).bytes();
            }
        }
        TierCounters const after = tier.counters();
        return after.acquires - before.acquires - (after.hits - before.hits) - overwritten;
    };
    tier::CachedOptions const options{.slots = 2};
    auto const cached = [&] { return tier::Cached{b, tier::HostStore{}, options}; };
    CHECK(misses(Sequenced{cached()}, 4, forward_pass(4)) == 0);
    CHECK(misses(cached(), 4, forward_pass(4)) == 8);
    CHECK(misses(Sequenced{cached()}, 3, training_step(3)) == 0);
    CHECK(misses(cached(), 3, training_step(3)) == 24);
}

TEST_CASE("layer/sequence: a long life of one layer, or of many runs, wraps its memory") {
    auto sequence = sequence_of(1);
    for (int i = 0; i < 10000; ++i) sequence.acquired(key(0, i % 2), Access::read);
    sequence.acquired(key(1, 0), Access::read);
    CHECK(upcoming(sequence).empty());
    auto const pass = forward_pass(5);
    for (std::size_t i = 0; i < 10000; ++i) {
        bool const begins = sequence.acquired(pass[i % pass.size()].first, Access::read);
        if (!begins || i < 30) continue;
        Keys const next = upcoming(sequence);
        REQUIRE(next.size() >= 4);
        REQUIRE(next == truth(pass, i % pass.size(), next.size()));
    }
}

TEST_CASE_TEMPLATE("layer/sequence: a sequenced tier keeps the promises of a tier", B, CpuBackend,
                   testing::DelayedBackend) {
    testing::check_tier(B{}, [](B& b) { return Sequenced{tier::Resident<B>{b}}; });
    testing::check_slots(B{}, [](B& b, testing::FaultyStore<B> store, index_t slots) {
        return Sequenced{tier::Cached{b, store, {.slots = slots}}};
    });
}

} // namespace sequence_test
