#pragma once

#include "baselines/baseline.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/semoe.hpp"
#include "support/machine.hpp"
#include "support/measure.hpp"
#include "support/routing.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace bench {

/// Whatever holds the memory of one shape and element type. There is one at a time.
struct AnyStage {
    virtual ~AnyStage() = default;
};

struct DoesNotFit : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Layers of one shape, filled with numbers, and the baselines with the same weights.
///
/// Inference goes round as many layers as it takes to outgrow the last-level cache four times.
/// Training has one: with its gradients that is more than the cache as well. Where the baselines
/// do not fit, and beside an optimizer's states, there are none.
/// @tparam X  the expert: SwiGlu, or a quantised one, which has no baselines
template <class X>
class Stage final : public AnyStage {
public:
    using T = typename X::value_type;
    using Layer = semoe::MoeLayer<semoe::CpuBackend, semoe::gate::TopK<semoe::gate::Softmax>, X>;
    static constexpr bool trains = !semoe::has_own_weights<X>;

    /// @throws DoesNotFit naming the bytes
    Stage(Shape const& shape, bool training, bool states, index_t max_tokens, int threads)
      : shape_(shape)
      , backend_{.threads = threads} {
        X const expert = expert_of(shape);
        double const logical = double(shape.num_experts) * shape.expert_elements();
        double const element = weight_bytes();
        int const layers =
            training ? 1 : int(4 * last_level_cache_bytes() / (logical * element)) + 1;
        double const packed = logical * element;
        double bytes = layers * packed + 500e6;
        if (training) bytes += logical * 4;
        if (states) bytes += logical * (element < 4 ? 12 : 8);
        double const available = 0.93 * available_memory_bytes();
        if (bytes > available)
            throw DoesNotFit("needs " + std::to_string(int(bytes / 1e9)) + " GB of memory");

        for (int i = 0; i < layers; ++i) {
            layers_.push_back(std::make_unique<Layer>(
                backend_,
                semoe::gate::TopK<semoe::gate::Softmax>{.num_experts = int(shape.num_experts),
                                                        .top_k = int(shape.top_k)},
                expert, semoe::MoeConfig{.layer = i}));
            if constexpr (trains)
                fill(*layers_.back(), i);
            else
                fill_with_codes(*layers_.back());
        }
        BaselineOptions const options{threads, max_tokens, training};
        if (trains && !states &&
            bytes + baseline_bytes(shape, layers, element, options) < available) {
            std::vector<LayerWeights<T>> weights;
            for (auto& layer : layers_) weights.push_back(weights_of<T>(*layer));
            baselines_ = make_baselines<T>(shape, weights, options);
        }
        if constexpr (trains)
            if (states) layers_[0]->prepare(semoe::optim::AdamW{});
    }

    Shape const& shape() const { return shape_; }
    /// Of one weight, its part of scales included.
    double weight_bytes() const {
        double const elements = double(expert_of(shape_).layout(backend_).elements());
        return elements * double(sizeof(semoe::weight_t<X>)) / shape_.expert_elements();
    }
    semoe::CpuBackend& backend() { return backend_; }
    index_t num_layers() const { return index_t(layers_.size()); }
    Layer& layer(index_t call) { return *layers_[std::size_t(call % num_layers())]; }
    std::vector<std::unique_ptr<Baseline<T>>>& baselines() { return baselines_; }

    /// Views of every expert's matrices, or of their gradients.
    template <class Element>
    LayerWeights<Element> weights_of(Layer& layer,
                                     semoe::BlockKind kind = semoe::BlockKind::weight) const {
        LayerWeights<Element> all(std::size_t(shape_.num_experts));
        auto const visit = [&](std::string const& name, auto view, semoe::Shape) {
            if constexpr (std::is_same_v<std::remove_cvref_t<decltype(*view.data)>, Element>) {
                std::string_view const prefix = "experts.";
                if (!name.starts_with(prefix)) return;
                auto& expert = all[std::stoul(name.substr(prefix.size()))];
                if (name.ends_with("gate_proj")) expert.gate = view;
                if (name.ends_with("up_proj")) expert.up = view;
                if (name.ends_with("down_proj")) expert.down = view;
            }
        };
        layer.for_each_parameter(visit, kind);
        return all;
    }

private:
    static X expert_of(Shape const& s) {
        semoe::expert::SwiGlu<T> const swiglu{.hidden = s.hidden, .intermediate = s.intermediate};
        if constexpr (trains)
            return swiglu;
        else
            return X{{}, swiglu};
    }
    /// Every expert has the same codes: what they are plays no part in how long they take.
    void fill_with_codes(Layer& layer) {
        X const& expert = layer.expert();
        auto const layout = expert.layout(backend_);
        semoe::Buffer<std::uint8_t, semoe::CpuBackend> block(backend_, layout.elements());
        expert.initialize(backend_, 1, {}, semoe::as_writable_bytes(block.view()));
        layer.for_each_parameter(
            [&](std::string const& name, auto view, semoe::Shape) {
                if constexpr (sizeof(*view.data) == 1) {
                    std::string const slice = name.substr(name.rfind('.') + 1);
                    backend_.copy(view.data, block.data() + layout.slice(slice).offset,
                                  std::size_t(view.rows * view.cols));
                }
            },
            semoe::BlockKind::weight, semoe::Access::write);
    }

    static constexpr std::size_t pool_size = 1 << 20;

    /// Uniform numbers with standard deviation 1 / sqrt(columns), from a pool: drawing each of them
    /// would take longer than timing does.
    void fill(Layer& layer, int number) {
        std::vector<float> pool(2 * pool_size);
        for (std::size_t i = 0; i < pool.size(); ++i)
            pool[i] = 2 * semoe::random_uniform({.seed = std::uint64_t(number)}, index_t(i), 0) - 1;
        index_t row_number = 0;
        layer.for_each_parameter(
            [&](std::string const&, auto view, semoe::Shape) {
                using Element = std::remove_cvref_t<decltype(*view.data)>;
                float const bound = std::sqrt(3.0f / float(view.cols));
                backend_.parallel_for(view.rows, [&, view](index_t r) {
                    std::size_t const row = std::size_t(row_number + r);
                    float const* const from = &pool[row * 7919 % (2 * pool_size - 16384)];
                    for (index_t c = 0; c < view.cols; ++c) view(r, c) = Element(from[c] * bound);
                });
                row_number += view.rows;
            },
            semoe::BlockKind::weight, semoe::Access::write);
        layer.weights_changed();
    }
    Shape shape_;
    semoe::CpuBackend backend_;
    std::vector<std::unique_ptr<Layer>> layers_;
    std::vector<std::unique_ptr<Baseline<T>>> baselines_;
};

} // namespace bench
