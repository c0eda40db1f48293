#include "semoe/expert/quantized.hpp"
#include "semoe/layer/quantize.hpp"
#include "semoe/semoe.hpp"

using namespace semoe;

// One policy of each kind that lacks something; what is complete stands for the others.

struct UserExpert {
    using value_type = float;
    index_t hidden = 16;
#if !defined(CASE_expert_without_layout)
    BlockLayout layout(CpuBackend const&) const { return BlockLayout{}; }
#else
// must print: MoeLayer: Expert lacks layout(backend), saved_columns() or scratch_columns()
#endif
    index_t saved_columns() const { return 0; }
    index_t scratch_columns() const { return 0; }
#if !defined(CASE_expert_without_forward)
    void forward_grouped(CpuBackend&, ops::Group<std::byte const> const&,
                         ExpertRows<float, HostSpace>) const {}
#else
// must print: MoeLayer: Expert lacks forward_grouped(backend, weights, rows)
#endif
};

struct UserGate {
#if !defined(CASE_gate_without_num_experts)
    index_t num_experts = 8;
#else
// must print: MoeLayer: Gate lacks the member num_experts (see gate/concept.hpp)
#endif
#if !defined(CASE_gate_without_top_k)
    index_t top_k = 2;
#else
// must print: MoeLayer: Gate lacks the member top_k or slots_per_token() (see gate/concept.hpp)
#endif
#if !defined(CASE_gate_without_forward)
    void forward(CpuBackend&, RouteInput<CpuBackend> const&, Assignment<CpuBackend>) const {}
#else
// must print: MoeLayer: Gate lacks forward(backend, RouteInput, Assignment) for the layer's type
#endif
};

#if defined(CASE_communicator_without_rows)
// must print: MoeLayer: Communicator lacks all_to_all_rows returning a Ticket
struct UserRanks {
    int rank() const { return 0; }
    int size() const { return 1; }
    CommTopology topology() const { return {}; }
    void exchange_counts(std::span<index_t const>, std::span<index_t>) {}
};
#elif defined(CASE_communicator_without_ranks)
// must print: MoeLayer: Communicator lacks rank/size/topology (see comm/concept.hpp)
struct UserRanks {};
#else
using UserRanks = comm::Self;
#endif

#if defined(CASE_tier_without_acquire)
// must print: MoeLayer: MemoryTier lacks acquire(backend, key, access) returning a Lease
struct UserTier {
    void declare(CpuBackend&, BlockKey, BlockInfo) {}
    bool contains(BlockKey) const { return true; }
    BlockInfo info(BlockKey) const { return {}; }
    bool resident(BlockKey) const { return true; }
    index_t max_pinned(BlockKind) const { return 1; }
    TierCounters counters() const { return {}; }
};
#elif defined(CASE_store_in_place_of_tier)
// must print: MoeLayer: MemoryTier lacks declare/contains/info/resident/max_pinned/counters
using UserTier = tier::HostStore;
#else
using UserTier = tier::Resident<CpuBackend>;
#endif

#if defined(CASE_schedule_without_run)
// must print: MoeLayer: Schedule lacks chunks or run(stages) const (see schedule/concept.hpp)
struct UserSchedule {
    index_t chunks = 1;
};
#else
using UserSchedule = schedule::Sequential;
#endif

struct NoUpdate {
    static constexpr int moments_per_element = 0;
};

using Layer = MoeLayer<CpuBackend, UserGate, UserExpert, UserRanks, UserTier, UserSchedule>;
using View = MatrixView<float, HostSpace>;

inline void use(Layer& layer, View x, View y) {
    auto context = layer.make_context(16);
    layer.forward(x, y, context);
#if defined(CASE_untrainable_backward)
    // must print: MoeLayer::backward: Gate lacks backward(backend, input, chosen, d_weights,
    // d_logits)
    layer.backward(x, y, context);
#elif defined(CASE_optimizer_without_update)
    // must print: MoeLayer::update: Optimizer lacks moments_per_element or update(backend
    layer.update(NoUpdate{}, {});
#elif defined(CASE_device_rows)
    // must print: DeviceSpace
    MatrixView<float, DeviceSpace> elsewhere;
    layer.forward(elsewhere, y, context);
#endif
}

#if defined(CASE_untrainable_expert)
// must print: MoeLayer::backward: Expert, or the shared expert beside it, lacks backward_grouped
inline void train(MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, UserExpert>& layer, View x,
                  View y) {
    auto context = layer.make_context(16);
    layer.backward(x, y, context);
}
#endif

#if defined(CASE_score_without_derivative)
struct Logit {
    static constexpr auto normalize = Normalize::none;
    SEMOE_HD float key(float logit, expert_id) const { return logit; }
    SEMOE_HD float weight(float logit, expert_id) const { return logit; }
};
// must print: MoeLayer::backward: Gate says that it does not train, by trainable; in gate::TopK
inline void train(MoeLayer<CpuBackend, gate::TopK<Logit>, expert::SwiGlu<float>>& layer, View x,
                  View y) {
    auto context = layer.make_context(16);
    layer.backward(x, y, context);
}
#endif

#if defined(CASE_quantized_backward) || defined(CASE_quantized_update)
using Quantized = MoeLayer<CpuBackend, gate::TopK<gate::Softmax>,
                           expert::Quantized<quant::Int8, expert::SwiGlu<float>>>;
inline void train(Quantized& layer, View x, View y) {
    auto context = layer.make_context(16);
#if defined(CASE_quantized_backward)
    // must print: MoeLayer::backward: quantised experts are for inference
    layer.backward(x, y, context);
#elif defined(CASE_quantized_update)
    // must print: MoeLayer::update: quantised experts are for inference
    layer.update(optim::Sgd{}, {});
#endif
}
#endif

#if defined(CASE_quantize_quantised) || defined(CASE_quantize_quantised_shared) ||                 \
    defined(CASE_quantize_without_shared)
using Swiglu = expert::SwiGlu<float>;
using Codes = expert::Quantized<quant::Int8, Swiglu>;
template <class X>
using LayerOf = MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, X>;
using Floats = LayerOf<expert::WithShared<Swiglu, Swiglu>>;
#if defined(CASE_quantize_quantised)
// must print: quantize: an expert of the first layer, routed or shared, is quantised already
inline void back(LayerOf<Codes>& from, LayerOf<Swiglu>& to) { quantize(from, to); }
#elif defined(CASE_quantize_quantised_shared)
// must print: quantize: an expert of the first layer, routed or shared, is quantised already
inline void back(LayerOf<expert::WithShared<Swiglu, Codes>>& from, Floats& to) {
    quantize(from, to);
}
#elif defined(CASE_quantize_without_shared)
// must print: quantize: one of the layers has a shared expert and the other has none
inline void lose(Floats& from, LayerOf<Codes>& to) { quantize(from, to); }
#endif
#endif

#if defined(CASE_activation_without_derivative)
struct Square {
    float operator()(float x) const { return x * x; }
};
using Squared = MoeLayer<CpuBackend, gate::TopK<gate::Softmax>, expert::Gated<float, Square>>;
inline void train(Squared& layer, View x, View y) {
    auto context = layer.make_context(16);
    // must print: MoeLayer::backward: the expert's activation lacks float derivative(float) const
    layer.backward(x, y, context);
}
#endif
