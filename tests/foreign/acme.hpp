#pragma once

// Policies as a user writes them: in a namespace of their own, with public headers only. One of
// each kind, small enough to copy.

#include <semoe/backend/concept.hpp>
#include <semoe/comm/self.hpp>
#include <semoe/core/rng.hpp>
#include <semoe/expert/concept.hpp>
#include <semoe/gate/concept.hpp>
#include <semoe/optim/concept.hpp>
#include <semoe/schedule/concept.hpp>
#include <semoe/tier/concept.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace acme {

using semoe::index_t;

/// A score: experts are ranked and weighed by the square of their logit.
struct Square {
    static constexpr semoe::Normalize normalize = semoe::Normalize::none;
    SEMOE_HD double key(double logit, semoe::expert_id) const { return logit * logit; }
    SEMOE_HD double weight(double logit, semoe::expert_id) const { return logit * logit; }
    SEMOE_HD double d_weight(double logit, semoe::expert_id) const { return 2 * logit; }
};

/// A gate that reads no logits: token t goes to expert t mod E, whatever it says.
struct RoundRobin {
    index_t num_experts = 1;
    static constexpr index_t top_k = 1;

    template <class B, class Real>
    struct Deal {
        semoe::RouteInput<B, Real> input;
        semoe::Assignment<B, Real> out;
        index_t num_experts;
        SEMOE_HD void operator()(index_t t) const {
            bool const chooses = !input.masked(t);
            index_t const expert = (input.first_token + t) % num_experts;
            out.topk_ids(t, 0) = chooses ? semoe::expert_id(expert) : semoe::dropped_expert;
            out.topk_weights(t, 0) = chooses ? Real(1) : Real(0);
        }
    };
    template <class B, class Real>
    struct Zero {
        semoe::MatrixView<Real, semoe::space_of<B>> out;
        SEMOE_HD void operator()(index_t t) const {
            for (index_t e = 0; e < out.cols; ++e) out(t, e) = 0;
        }
    };

    template <semoe::Backend B, class Real>
    void forward(B& b, semoe::RouteInput<B, Real> const& input,
                 semoe::Assignment<B, Real> out) const {
        b.parallel_for(out.topk_ids.rows, Deal<B, Real>{input, out, num_experts});
    }
    template <semoe::Backend B, class Real>
    void
    backward(B& b, semoe::RouteInput<B, Real> const&, semoe::Assignment<B, Real>,
             semoe::MatrixView<std::type_identity_t<Real> const, semoe::space_of<B>>,
             semoe::MatrixView<std::type_identity_t<Real>, semoe::space_of<B>> d_logits) const {
        b.parallel_for(d_logits.rows, Zero<B, Real>{d_logits});
    }
};

/// An expert with one weight a column: out = in * scale.
template <class T>
struct Scale {
    using value_type = T;
    using Real = semoe::accumulate_t<T>;
    index_t hidden = 1;

    template <class Space>
    struct Multiply {
        semoe::ops::Group<std::byte const> weights;
        semoe::MatrixView<T const, Space> in;
        semoe::MatrixView<T, Space> out;
        SEMOE_HD void operator()(index_t n) const {
            auto const place = weights.place(n);
            T const* const scale = reinterpret_cast<T const*>(weights.block[place.expert]);
            for (index_t c = 0; c < in.cols; ++c)
                out(place.row, c) = T(Real(in(place.row, c)) * Real(scale[c]));
        }
    };
    template <class Space>
    struct Gradient {
        semoe::ops::Group<std::byte> gradients;
        semoe::ops::GroupMask accumulate;
        semoe::MatrixView<T const, Space> in, d_out;
        SEMOE_HD void operator()(index_t n) const {
            int const i = int(n / in.cols);
            index_t const c = n % in.cols, first = gradients.first_row[i];
            if (gradients.rows[i] == 0) return;
            Real sum = 0;
            for (index_t r = first; r < first + gradients.rows[i]; ++r)
                sum += Real(in(r, c)) * Real(d_out(r, c));
            Real& out = reinterpret_cast<Real*>(gradients.block[i])[c];
            out = (accumulate >> i & 1u) != 0 ? out + sum : sum;
        }
    };

    template <semoe::Backend B>
    semoe::BlockLayout layout(B const&) const {
        return semoe::BlockLayout{}.add("scale", 1, hidden);
    }
    index_t saved_columns() const { return 0; }
    index_t scratch_columns() const { return 0; }
    index_t backward_scratch_columns() const { return 0; }

    template <semoe::Backend B>
    void forward_grouped(B& b, semoe::ops::Group<std::byte const> const& weights,
                         semoe::ExpertRows<T, semoe::space_of<B>> rows) const {
        b.parallel_for(weights.total_rows(),
                       Multiply<semoe::space_of<B>>{weights, rows.in, rows.out});
    }
    template <semoe::Backend B>
    void backward_grouped(B& b, semoe::ops::Group<std::byte const> const& weights,
                          semoe::ops::Group<std::byte> const& gradients,
                          semoe::ops::GroupMask accumulate,
                          semoe::ExpertGradientRows<T, semoe::space_of<B>> rows) const {
        using Space = semoe::space_of<B>;
        b.parallel_for(weights.total_rows(), Multiply<Space>{weights, rows.d_out, rows.d_in});
        b.parallel_for(gradients.size * hidden,
                       Gradient<Space>{gradients, accumulate, rows.in, rows.d_out});
    }
};

/// An optimizer that looks at the gradient's sign alone.
struct SignDescent {
    static constexpr int moments_per_element = 0;
    double lr = 1e-2;

    template <class T, class Space>
    struct Step {
        semoe::ParameterBlock<T, Space> block;
        semoe::accumulate_t<T> rate;
        SEMOE_HD void operator()(index_t i) const {
            if (block.gradient.empty()) return;
            auto const g = block.gradient[i];
            auto const step = g > 0 ? rate : g < 0 ? -rate : 0;
            if (block.master.empty()) {
                block.weight[i] = T(block.weight[i] - step);
            } else {
                block.master[i] -= step;
                block.weight[i] = T(block.master[i]);
            }
        }
    };
    template <semoe::Backend B, class T>
    void update(B& b, semoe::ParameterBlock<T, semoe::space_of<B>> const& block,
                semoe::UpdateStep step) const {
        using Real = semoe::accumulate_t<T>;
        b.parallel_for(block.weight.size,
                       Step<T, semoe::space_of<B>>{block, Real(lr * step.lr_factor)});
    }
};

/// A store over a map. Copies are the same store.
class MapStore {
public:
    void declare(semoe::BlockKey key, semoe::BlockInfo info) {
        std::lock_guard lock(state_->mutex);
        auto const [place, is_new] = state_->blocks.try_emplace(key);
        if (is_new)
            place->second = {info, std::vector<std::byte>(std::size_t(info.bytes))};
        else if (!(place->second.info == info))
            throw semoe::store_error("MapStore: " + to_string(key) + " is " +
                                     to_string(place->second.info) + ", not " + to_string(info));
    }
    bool contains(semoe::BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        return state_->blocks.contains(key);
    }
    semoe::BlockInfo info(semoe::BlockKey key) const { return find(key).info; }

    template <semoe::Backend B>
    typename B::event_type load(B& b, semoe::BlockKey key,
                                semoe::Bytes<semoe::space_of<B>> dst) const {
        b.copy(dst.data, checked(key, dst.size).data(), std::size_t(dst.size));
        return b.record();
    }
    template <semoe::Backend B>
    typename B::event_type store(B& b, semoe::BlockKey key,
                                 semoe::ConstBytes<semoe::space_of<B>> src) const {
        b.copy(checked(key, src.size).data(), src.data, std::size_t(src.size));
        return b.record();
    }

private:
    struct Block {
        semoe::BlockInfo info;
        std::vector<std::byte> bytes;
    };
    struct State {
        std::mutex mutex;
        std::map<semoe::BlockKey, Block> blocks;
    };

    Block& find(semoe::BlockKey key) const {
        std::lock_guard lock(state_->mutex);
        auto const place = state_->blocks.find(key);
        if (place == state_->blocks.end())
            throw semoe::store_error("MapStore: no " + to_string(key));
        return place->second;
    }
    std::vector<std::byte>& checked(semoe::BlockKey key, index_t size) const {
        Block& block = find(key);
        semoe::expects(size == block.info.bytes, [&] {
            return "MapStore: " + to_string(key) + " is " + to_string(block.info) + ", not " +
                   std::to_string(size) + " bytes";
        });
        return block.bytes;
    }

    std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// A schedule that takes the chunks from the last to the first, on one queue.
struct Backwards {
    index_t chunks = 2;

    template <class Stages>
    void run(Stages& stages) const {
        for (index_t c = chunks; c-- > 0;) {
            stages.dispatch(stages.compute(), c);
            stages.experts(stages.compute(), c);
            stages.combine(stages.compute(), c);
        }
    }
};

/// A communicator that forwards to another and counts the rows.
template <class Ranks = semoe::comm::Self>
class CountingRanks {
public:
    explicit CountingRanks(Ranks ranks = {})
      : ranks_(std::move(ranks)) {}

    int rank() const { return ranks_.rank(); }
    int size() const { return ranks_.size(); }
    semoe::CommTopology topology() const { return ranks_.topology(); }
    semoe::CommCounters counters() const { return ranks_.counters(); }
    void exchange_counts(std::span<index_t const> send, std::span<index_t> recv) {
        ranks_.exchange_counts(send, recv);
    }
    template <semoe::Backend B>
    auto all_to_all_rows(B& b, semoe::ConstBytes<semoe::space_of<B>> send,
                         std::span<index_t const> send_counts,
                         semoe::Bytes<semoe::space_of<B>> recv,
                         std::span<index_t const> recv_counts, std::size_t row_bytes) {
        for (index_t n : send_counts) *rows_ += n;
        return ranks_.all_to_all_rows(b, send, send_counts, recv, recv_counts, row_bytes);
    }
    template <semoe::Backend B>
    void all_gather(B& b, semoe::ConstBytes<semoe::space_of<B>> part,
                    semoe::Bytes<semoe::space_of<B>> whole) {
        ranks_.all_gather(b, part, whole);
    }
    template <semoe::Backend B, class Real>
    void all_reduce_sum(B& b, semoe::VectorView<Real, semoe::space_of<B>> v) {
        ranks_.all_reduce_sum(b, v);
    }
    template <semoe::Backend B, class Real>
    void reduce_scatter_sum(B& b, semoe::VectorView<Real const, semoe::space_of<B>> v,
                            semoe::VectorView<Real, semoe::space_of<B>> out) {
        ranks_.reduce_scatter_sum(b, v, out);
    }
    CountingRanks split(int color, int key) { return CountingRanks(ranks_.split(color, key)); }

    index_t rows_sent() const { return *rows_; }

private:
    Ranks ranks_;
    std::shared_ptr<index_t> rows_ = std::make_shared<index_t>(0);
};

} // namespace acme
