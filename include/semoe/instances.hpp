#pragma once

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/comm/self.hpp"
#include "semoe/core/config.hpp"
#include "semoe/expert/initialize.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/context.hpp"
#include "semoe/layer/route.hpp"
#include "semoe/ops/cpu/instances.hpp"
#include "semoe/ops/reduce.hpp"
#include "semoe/ops/vectorised.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/routing/balance.hpp"
#include "semoe/routing/check_choices.hpp"
#include "semoe/routing/check_logits.hpp"
#include "semoe/routing/log_sum_exp.hpp"
#include "semoe/routing/statistics.hpp"
#include "semoe/tier/resident.hpp"

namespace semoe {

// NOLINTBEGIN(bugprone-macro-parentheses): what is passed stands before a declaration.

/// Besides SEMOE_KERNELS, with `how` before each as there: the shipped policies' loops over `float`
/// and `bf16`, which are compiled for every instruction set, in namespace ops.
#define SEMOE_LOOPS(how)                                                                           \
    SEMOE_LOOP(how, semoe::detail::AddLossGradient<float, double>)                                 \
    SEMOE_LOOP(how, semoe::detail::AddProbabilities<float>)                                        \
    SEMOE_LOOP(how, semoe::detail::FirstBadLogit<float, HostSpace>)                                \
    SEMOE_LOOP(how, semoe::detail::Probabilities<float>)                                           \
    SEMOE_LOOP(how, semoe::detail::SumExponentials<float, float const*>)                           \
    SEMOE_LOOP(how, gate::detail::PullThroughSoftmax<float, float const*>)                         \
    SEMOE_LOOP(how, ops::detail::FewBest<float>)                                                   \
    SEMOE_LOOP(how, ops::detail::EvaluateKeys<ops::RowKey<float>, float>)                          \
    SEMOE_SCORE_LOOP(how, gate::Softmax)                                                           \
    SEMOE_SCORE_LOOP(how, gate::TopKSoftmax)                                                       \
    SEMOE_SCORE_LOOP(how, gate::Sigmoid)                                                           \
    SEMOE_SCORE_LOOP(how, gate::NormalizedSigmoid)                                                 \
    SEMOE_SCORE_LOOP(how, gate::SigmoidBias)                                                       \
    SEMOE_WEIGHT_LOOPS(how, float)                                                                 \
    SEMOE_WEIGHT_LOOPS(how, bf16)

#define SEMOE_LOOP(how, ...)                                                                       \
    how std::invoke_result_t<__VA_ARGS__ const&> vectorised(__VA_ARGS__ const&);
#define SEMOE_SCORE_LOOP(how, Score)                                                               \
    SEMOE_LOOP(how, ops::detail::EvaluateKeys<gate::detail::KeyOf<float, Score>, float>)
#define SEMOE_WEIGHT_LOOPS(how, T)                                                                 \
    SEMOE_LOOP(how, expert::detail::DrawWeight<T>::Block)                                          \
    SEMOE_LOOP(how, ops::detail::SumSquaresBlock<T, HostSpace>::Range)                             \
    SEMOE_RULE_LOOP(how, T, optim::AdamWRule<float>)                                               \
    SEMOE_RULE_LOOP(how, T, optim::SgdRule<float>)
#define SEMOE_RULE_LOOP(how, T, Rule)                                                              \
    SEMOE_LOOP(                                                                                    \
        how, optim::detail::UpdateElements<T, HostSpace, Rule, optim::detail::host_lanes>::Range)
/// And what layers on one rank consist of whatever their gate and their experts are, in namespace
/// semoe.
#define SEMOE_PARTS(how)                                                                           \
    how class tier::Resident<CpuBackend>;                                                          \
    SEMOE_ROUTER(how)                                                                              \
    SEMOE_PARTS_OF(how, float)                                                                     \
    SEMOE_PARTS_OF(how, bf16)
#define SEMOE_PARTS_OF(how, T)                                                                     \
    SEMOE_CONTEXT(how, T)                                                                          \
    SEMOE_ROUTE(how, T)                                                                            \
    SEMOE_DISPATCH(how, T)
#define SEMOE_ROUTER(how)                                                                          \
    how void check_logits(CpuBackend&, MatrixView<float, HostSpace>,                               \
                          VectorView<std::uint8_t const, HostSpace>,                               \
                          VectorView<index_t, HostSpace>, Bytes<HostSpace>);                       \
    how void check_choices(CpuBackend&, MatrixView<expert_id const, HostSpace>,                    \
                           MatrixView<float const, HostSpace>, index_t,                            \
                           VectorView<index_t, HostSpace>, Bytes<HostSpace>,                       \
                           VectorView<std::uint8_t const, HostSpace>, Masked);                     \
    how void router_statistics(CpuBackend&, MatrixView<float const, HostSpace>,                    \
                               VectorView<std::uint8_t const, HostSpace>,                          \
                               MatrixView<expert_id const, HostSpace>, RouterProbability,          \
                               VectorView<double, HostSpace>, Bytes<HostSpace>);                   \
    how void add_router_gradient(CpuBackend&, MatrixView<float, HostSpace>,                        \
                                 VectorView<std::uint8_t const, HostSpace>,                        \
                                 VectorView<double, HostSpace>, RouterProbability,                 \
                                 RouterLossWeights const&, MatrixView<float, HostSpace>);          \
    how void ops::gemm_nn(CpuBackend&, MatrixView<float, HostSpace>, MatrixView<float, HostSpace>, \
                          MatrixView<float, HostSpace>, ops::Accumulate);
#define SEMOE_CONTEXT(how, T)                                                                      \
    how struct detail::ContextViews<CpuBackend, T>;                                                \
    how struct detail::ContextState<CpuBackend, T, comm::Self>;
#define SEMOE_ROUTE(how, T)                                                                        \
    how void ops::gemm_tn(CpuBackend&, MatrixView<float, HostSpace>,                               \
                          MatrixView<T const, HostSpace>, MatrixView<float, HostSpace>,            \
                          ops::Accumulate);                                                        \
    how void detail::keep_masked(CpuBackend&, detail::ContextState<CpuBackend, T, comm::Self>&);   \
    how void detail::limit_capacity(CpuBackend&, comm::Self&, MoeConfig const&,                    \
                                    detail::ContextState<CpuBackend, T, comm::Self>&);             \
    how void detail::make_plans(CpuBackend&, detail::ContextState<CpuBackend, T, comm::Self>&);    \
    how void detail::split_gradient(CpuBackend&, MatrixView<T const, HostSpace>,                   \
                                    detail::ContextState<CpuBackend, T, comm::Self>&);
#define SEMOE_DISPATCH(how, T)                                                                     \
    how void Exchange<CpuBackend, comm::Self>::to_experts(                                         \
        CpuBackend&, MatrixView<T, HostSpace>, MatrixView<T, HostSpace>, Bytes<HostSpace>);        \
    how void Exchange<CpuBackend, comm::Self>::to_tokens(                                          \
        CpuBackend&, MatrixView<T, HostSpace>, MatrixView<T, HostSpace>, Bytes<HostSpace>);        \
    how void combine<CpuBackend, T, float>(                                                        \
        CpuBackend&, MatrixView<T const, HostSpace>, MatrixView<index_t const, HostSpace>,         \
        MatrixView<float const, HostSpace>, TokenBase<float, HostSpace>,                           \
        VectorView<std::uint8_t const, HostSpace>, MatrixView<T, HostSpace>);                      \
    how void dispatch_backward<CpuBackend, T, float>(                                              \
        CpuBackend&, MatrixView<T const, HostSpace>, MatrixView<index_t const, HostSpace>,         \
        TokenBase<float, HostSpace>, MatrixView<T, HostSpace>);
// NOLINTEND(bugprone-macro-parentheses)

#if defined(SEMOE_EXTERN_KERNELS)
#if !SEMOE_DEVICE_CODE // a device calls nothing of another unit
namespace ops {
SEMOE_LOOPS(extern template)
}
#endif
SEMOE_PARTS(extern template)
#endif

} // namespace semoe
