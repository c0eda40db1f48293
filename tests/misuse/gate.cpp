#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/gate/topk.hpp"

#include <string>

using semoe::expert_id;

struct Plain {
    static constexpr semoe::Normalize normalize = semoe::Normalize::none;
#if !defined(CASE_score_without_key)
    SEMOE_HD float key(float logit, expert_id) const { return logit; }
#else
// must print: gate::TopK: Score lacks `float key(float logit, expert_id) const`
#endif
    SEMOE_HD float weight(float logit, expert_id) const { return logit; }
};

#if defined(CASE_score_without_weight)
// must print: gate::TopK: Score lacks `float weight(float logit, expert_id) const`
struct Score {
    static constexpr semoe::Normalize normalize = semoe::Normalize::none;
    SEMOE_HD float key(float logit, expert_id) const { return logit; }
};
#elif defined(CASE_score_without_normalize)
// must print: gate::TopK: Score lacks `static constexpr Normalize normalize`
struct Score {
    SEMOE_HD float key(float logit, expert_id) const { return logit; }
    SEMOE_HD float weight(float logit, expert_id) const { return logit; }
};
#elif defined(CASE_score_that_owns_memory)
// must print: gate::TopK: Score must be trivially copyable, it travels into queues and kernels
struct Score : Plain {
    std::string name;
};
#else
using Score = Plain;
#endif

inline void use(semoe::CpuBackend b, semoe::RouteInput<semoe::CpuBackend> const& input,
                semoe::Assignment<semoe::CpuBackend> out) {
    semoe::gate::TopK<Score> const gate{.num_experts = 8, .top_k = 2};
    gate.forward(b, input, out);
#if defined(CASE_training_without_derivative)
    // must print: gate::TopK: training by Normalize::none or sum_topk needs `float d_weight(
    gate.backward(b, input, out, out.topk_weights, out.topk_weights);
#endif
}
