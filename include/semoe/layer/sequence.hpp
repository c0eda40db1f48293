#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/resident.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>
#include <vector>

namespace semoe {

/// Remembers in which order the layers of a model acquire their blocks, and says which come next.
///
/// The past is a list of runs: a run is a layer, with the blocks it acquired before another layer
/// began. When a layer begins, the past is searched for the moment most like this one: the same
/// layer, after the same layers did the same. What followed then will follow now. So a pass needs
/// no marks: its end leads into the start of the next, and forward, backward and update each find
/// their own place. A first backward is recognised as a known order that is read from its end.
///
/// Blocks that were overwritten are left out, since nothing has to be loaded for them. Where less
/// than half of what was told of a layer came true, as when single tokens choose among many
/// experts, nothing is told until it does again: loading the wrong blocks would delay the right.
class Sequence {
public:
    /// Makes room for a model of so many blocks, and forgets the past when it has to be moved.
    /// @cost amortised allocation; no other call allocates
    void reserve(std::size_t num_blocks) {
        if (uses_per_block * num_blocks <= keys_.size()) return;
        keys_.assign(2 * uses_per_block * num_blocks, {});
        runs_.resize(max_runs);
        num_keys_ = num_runs_ = first_run_ = 0;
        told_begin_ = told_end_ = came_true_ = 0;
        trusted_ = true;
        place_ = {};
    }

    /// The block has been acquired. @return whether another layer begins with it, as far as there
    ///         is room to remember
    /// @cost when a layer begins, one look at each run that is remembered
    bool acquired(BlockKey key, Access access) {
        if (keys_.empty()) return false;
        bool const begins = num_runs_ == 0 || run(num_runs_ - 1).layer != key.layer;
        if (begins) {
            first_run_ = std::max(first_run_, num_runs_ + 1 - max_runs);
            run(num_runs_++) = {key.layer, 0, num_keys_};
            place_ = find_place();
            first_ = key;
            judge();
        }
        Run& now = run(num_runs_ - 1);
        now.uses |= std::uint8_t(1 << (2 * int(key.kind) + (access != Access::read)));
        std::int64_t const room = std::int64_t(keys_.size());
        if (access != Access::overwrite) came_true_ += was_told(key);
        if (access != Access::overwrite && num_keys_ - now.begin < room / 2) {
            keys_[std::size_t(num_keys_++ % room)] = key;
            while (run(first_run_).begin + room < num_keys_) ++first_run_;
        }
        return begins;
    }

    /// Blocks that will be acquired from here on, in order, as far as the past tells.
    /// @param this_layer  whether to begin with what the layer that has just begun will acquire
    ///                    after its first block
    /// @param known       layers of which the caller knows better what they will acquire: as long
    ///                    as no other has come, their blocks are left out
    /// @return how many were written to `out`
    std::size_t upcoming(std::span<BlockKey> out, bool this_layer,
                         std::span<layer_id const> known = {}) const {
        std::size_t n = 0;
        if (place_.run < first_run_ || !trusted_) return n;
        bool leading = true;
        for (std::int64_t r = place_.run; r >= first_run_ && r < num_runs_ - 1;
             r += place_.direction) {
            bool const here = r == place_.run;
            if (here && !this_layer) continue;
            leading = leading && std::count(known.begin(), known.end(), run(r).layer) > 0;
            if (leading) continue;
            bool skip = here;
            for (std::int64_t k = run(r).begin; k < run(r + 1).begin && n < out.size(); ++k) {
                BlockKey const key = key_at(k);
                if (skip && key == first_)
                    skip = false;
                else
                    out[n++] = key;
            }
        }
        return n;
    }
    /// What the layer that has begun will acquire behind the blocks that it has given, as far as
    /// the past tells; nothing while another layer's run goes on. Blocks of the last one's kind
    /// need not be those of the past, so all that follow one another count as given.
    /// @return how many were written to `out`
    std::size_t behind(std::span<BlockKey const> given, std::span<BlockKey> out) const {
        std::int64_t const r = place_.run;
        if (given.empty() || r < first_run_ || !trusted_ || run(r).layer != given.front().layer)
            return 0;
        BlockKind const kind = given.back().kind;
        std::int64_t left = std::count_if(given.begin(), given.end(),
                                          [&](BlockKey key) { return key.kind == kind; });
        for (std::int64_t k = run(num_runs_ - 1).begin; k < num_keys_; ++k)
            left += key_at(k).kind == kind;
        std::int64_t k = run(r).begin, end = run(r + 1).begin;
        for (std::int64_t i = k; i < end && left > 0; ++i)
            if (key_at(i).kind == kind) --left, k = i + 1;
        while (k < end && key_at(k).kind == kind) ++k;
        std::size_t n = 0;
        for (; k < end && n < out.size(); ++k) out[n++] = key_at(k);
        return n;
    }

private:
    /// A training step uses a block twice on average; so the last one is there while the next runs.
    static constexpr std::size_t uses_per_block = 4;
    static constexpr std::int64_t max_runs = 1024, max_context = 8;

    struct Run {
        layer_id layer = 0;
        std::uint8_t uses = 0;  ///< for each kind a bit for reading and one for writing
        std::int64_t begin = 0; ///< of its keys; they end where the next run's begin

        friend bool operator==(Run const& a, Run const& b) {
            return a.layer == b.layer && a.uses == b.uses;
        }
    };
    /// A run of the past that is like the present one, and which way to read on from there.
    struct Place {
        std::int64_t run = -1;
        int direction = 1;
    };

    BlockKey key_at(std::int64_t k) const { return keys_[std::size_t(k) % keys_.size()]; }
    Run& run(std::int64_t r) { return runs_[std::size_t(r % max_runs)]; }
    Run const& run(std::int64_t r) const { return runs_[std::size_t(r % max_runs)]; }

    /// A layer has begun: was what was told of the last one true?
    void judge() {
        if (told_begin_ < told_end_) trusted_ = 2 * came_true_ >= told_end_ - told_begin_;
        bool const known = place_.run >= first_run_;
        told_begin_ = told_next_ = known ? run(place_.run).begin : 0;
        told_end_ = known ? run(place_.run + 1).begin : 0;
        came_true_ = 0;
    }
    /// Whether the run that is like this one has the block. @cost one look where the order is the
    /// same
    bool was_told(BlockKey key) {
        for (std::int64_t n = 0; n < told_end_ - told_begin_; ++n) {
            if (told_next_ == told_end_) told_next_ = told_begin_;
            if (keys_[std::size_t(told_next_++) % keys_.size()] == key) return true;
        }
        return false;
    }

    Place find_place() const {
        std::int64_t const now = num_runs_ - 1;
        Place ahead, back;
        std::int64_t like_ahead = 0, like_back = 0, candidates = 0, last = -1;
        for (std::int64_t r = now - 1; r >= first_run_; --r) {
            if (run(r).layer != run(now).layer) continue;
            last = candidates++ == 0 ? r : last;
            std::int64_t n = 0;
            while (n < max_context && r - 1 - n >= first_run_ && run(r - 1 - n) == run(now - 1 - n))
                ++n;
            if (n > like_ahead) like_ahead = n, ahead = {r, 1};
            n = 0;
            while (n < max_context && r + 1 + n <= now - 1 - n &&
                   run(r + 1 + n).layer == run(now - 1 - n).layer)
                ++n;
            if (n > like_back && r > first_run_) like_back = n, back = {r, -1};
        }
        if (like_ahead > 0) return ahead;
        if (like_back > 0) return back;
        return candidates == 1 ? Place{last, 1} : Place{};
    }

    std::vector<BlockKey> keys_; ///< a ring
    std::vector<Run> runs_;      ///< a ring
    std::int64_t num_keys_ = 0, num_runs_ = 0, first_run_ = 0;
    std::int64_t told_begin_ = 0, told_end_ = 0, told_next_ = 0; ///< keys of the run at place_
    std::int64_t came_true_ = 0; ///< how many of them the present run has acquired
    bool trusted_ = true;
    Place place_;    ///< of the present run
    BlockKey first_; ///< that it acquired
};

/// A tier that several layers share, told what comes next across the layers: the end of one layer's
/// blocks no longer means an idle copy queue. Wrap the tier once and give it to every layer:
///
///     Sequenced tier{tier::Cached{backend, store, {.slots = 3}}};
///     MoeLayer first{backend, gate, expert, comm::Self{}, tier, {.layer = 0}};
///     MoeLayer second{backend, gate, expert, comm::Self{}, tier, {.layer = 1}};
///
/// It is a tier itself, so no layer knows of it. Its Sequence learns from every acquire. When a
/// layer begins, the tier is told what this layer and the following acquired the last time; when
/// the layer itself announces the blocks of its experts that got tokens, these come first, then
/// what it acquired behind such blocks, then the following layers', the next one's as predicted if
/// somebody asked its gate early (MoeLayer::predict). Copies are the same tier; any thread may
/// call.
template <class Tier>
class Sequenced {
public:
    explicit Sequenced(Tier tier)
      : state_(std::make_shared<State>(std::move(tier))) {}

    /// The tier behind it.
    Tier& tier() const { return state_->tier; }

    template <class B>
    void declare(B& b, BlockKey key, BlockInfo info) {
        check<B>();
        std::lock_guard lock(state_->mutex);
        state_->tier.declare(b, key, info);
        if (state_->declared.insert(key).second)
            state_->grow(key); // the tier may have had it before
    }
    bool contains(BlockKey key) const { return tier().contains(key); }
    BlockInfo info(BlockKey key) const { return tier().info(key); }
    bool resident(BlockKey key) const { return tier().resident(key); }
    bool arrived(BlockKey key) const requires HasArrival<Tier> { return tier().arrived(key); }
    index_t max_pinned(BlockKind kind) const { return tier().max_pinned(kind); }
    TierCounters counters() const { return tier().counters(); }

    /// As the tier's own. @cost one look-up more, and one announcement when a layer begins
    template <class B>
    [[nodiscard]] auto acquire(B& b, BlockKey key, Access access) {
        check<B>();
        auto lease = tier().acquire(b, key, access);
        std::lock_guard lock(state_->mutex);
        if (state_->sequence.acquired(key, access)) state_->announce_from(b, key.layer);
        return lease;
    }
    /// As acquire, out of turn: the order does not count it. For who predicts.
    template <class B>
    [[nodiscard]] auto acquire_aside(B& b, BlockKey key, Access access) {
        check<B>();
        return tier().acquire(b, key, access);
    }
    /// The list first, then what was predicted for another layer, then what followed the last time.
    template <class B>
    void prefetch(B& b, std::span<BlockKey const> upcoming) noexcept {
        std::lock_guard lock(state_->mutex);
        state_->announce(b, upcoming);
    }
    /// What a layer will probably acquire; holds until it says so itself. Nothing is loaded yet.
    /// @param blocks  of that layer, in order
    /// @cost a copy of the list, no allocation
    void predict(layer_id layer, std::span<BlockKey const> blocks) noexcept {
        std::lock_guard lock(state_->mutex);
        auto& predicted = state_->predicted;
        predicted.assign(blocks.begin(),
                         blocks.begin() +
                             std::ptrdiff_t(std::min(blocks.size(), predicted.capacity())));
        state_->predicted_layer = layer;
        state_->predicted_begun = false;
    }
    void discard(BlockKey key) requires HasDiscard<Tier> { tier().discard(key); }
    template <class B>
    void flush(B& b) {
        tier().flush(b);
    }

private:
    struct State {
        explicit State(Tier t)
          : tier(std::move(t)) {}

        /// The window holds twice what fits into slots: beyond that nothing can be loaded, but what
        /// lies there must not be evicted as if it were unknown.
        void grow(BlockKey key) {
            ++num_blocks[std::size_t(key.kind)];
            std::size_t fitting = 0;
            for (int kind = 0; kind < num_block_kinds; ++kind)
                fitting += std::size_t(
                    std::min(num_blocks[kind], index_t(tier.max_pinned(BlockKind(kind)))));
            window = std::max(window, 2 * fitting);
            list.resize(list.size() + longest_list_per_block + 2);
            std::size_t const blocks = list.size() / (longest_list_per_block + 2);
            sequence.reserve(blocks);
            predicted.reserve(blocks);
        }
        /// The layer that has just begun, and what follows.
        template <class B>
        void announce_from(B& b, layer_id layer) noexcept {
            std::size_t n = 0;
            if (predicted_layer == layer) {
                n = append(0, predicted);
                predicted_begun = true;
            } else if (predicted_begun) { // it is over, and had nothing to announce
                predicted_layer.reset();
                predicted_begun = false;
            }
            n += sequence.upcoming(std::span(list).subspan(n, window), true,
                                   std::span(&layer, n > 0 ? 1 : 0));
            if (n > 0) tier.prefetch(b, std::span<BlockKey const>(list).first(n));
        }
        /// What a layer gives, and what follows.
        template <class B>
        void announce(B& b, std::span<BlockKey const> given) noexcept {
            std::size_t n = append(0, given), num_known = 0;
            layer_id known[2];
            if (!given.empty()) known[num_known++] = given.front().layer;
            n += sequence.behind(given, std::span(list).subspan(n, list.size() - window - n));
            if (num_known > 0 && predicted_layer == known[0]) predicted_layer.reset();
            if (predicted_layer) {
                n = append(n, predicted);
                known[num_known++] = *predicted_layer;
            }
            n += sequence.upcoming(std::span(list).subspan(n, window), false,
                                   std::span(known, num_known));
            tier.prefetch(b, std::span<BlockKey const>(list).first(n));
        }
        /// @return how many keys the list then has, of which `n` were there before
        std::size_t append(std::size_t n, std::span<BlockKey const> keys) noexcept {
            std::size_t const more = std::min(keys.size(), list.size() - window - n);
            std::copy_n(keys.begin(), more, list.begin() + std::ptrdiff_t(n));
            return n + more;
        }

        static constexpr std::size_t longest_list_per_block = 8;
        std::mutex mutex;
        Tier tier;
        Sequence sequence;
        std::unordered_set<BlockKey, tier::detail::BlockKeyHash> declared;
        index_t num_blocks[num_block_kinds] = {};
        std::size_t window = 0;
        std::vector<BlockKey> list; ///< window more than the longest list that a layer may give
        std::vector<BlockKey> predicted;
        std::optional<layer_id> predicted_layer;
        bool predicted_begun = false;
    };

    template <class B>
    static constexpr void check() {
        static_assert(HasBlocks<Tier, B>,
                      "Sequenced: MemoryTier lacks declare/contains/info/resident/max_pinned/"
                      "counters (see tier/concept.hpp)");
        static_assert(HasAcquire<Tier, B>, "Sequenced: MemoryTier lacks acquire(backend, key, "
                                           "access) that returns a Lease (see tier/concept.hpp)");
        static_assert(HasPrefetch<Tier, B>, "Sequenced: MemoryTier lacks prefetch(backend, "
                                            "upcoming) noexcept (see tier/concept.hpp)");
        static_assert(HasFlush<Tier, B>, "Sequenced: MemoryTier lacks flush(backend) "
                                         "(see tier/concept.hpp)");
    }

    std::shared_ptr<State> state_;
};

static_assert(MemoryTier<Sequenced<tier::Resident<CpuBackend>>, CpuBackend>);

} // namespace semoe
