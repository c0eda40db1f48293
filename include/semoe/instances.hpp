#pragma once

#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/comm/self.hpp"
#include "semoe/core/config.hpp"
#include "semoe/expert/initialize.hpp"
#include "semoe/gate/topk.hpp"
#include "semoe/layer/context.hpp"
#include "semoe/ops/cpu/instances.hpp"
#include "semoe/ops/reduce.hpp"
#include "semoe/ops/vectorised.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/sgd.hpp"
#include "semoe/routing/balance.hpp"
#include "semoe/routing/check_logits.hpp"
#include "semoe/routing/log_sum_exp.hpp"
#include "semoe/routing/statistics.hpp"

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
/// And the contexts of layers on one rank, in namespace detail.
#define SEMOE_CONTEXTS(how)                                                                        \
    SEMOE_CONTEXT(how, float)                                                                      \
    SEMOE_CONTEXT(how, bf16)
#define SEMOE_CONTEXT(how, T)                                                                      \
    how struct ContextViews<CpuBackend, T>;                                                        \
    how struct ContextState<CpuBackend, T, comm::Self>;
// NOLINTEND(bugprone-macro-parentheses)

#if defined(SEMOE_EXTERN_KERNELS)
#if !SEMOE_DEVICE_CODE // a device calls nothing of another unit
namespace ops {
SEMOE_LOOPS(extern template)
}
#endif
namespace detail {
SEMOE_CONTEXTS(extern template)
}
#endif

} // namespace semoe
