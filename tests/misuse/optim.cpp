#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/optim/elementwise.hpp"

struct Rule {
#if !defined(CASE_rule_without_moments)
    static constexpr int moments_per_element = 1;
#else
// must print: update_elements: the rule needs moments_per_element (0, 1 or 2) and a const
#endif
#if defined(CASE_rule_with_too_few_operands)
    // must print: update_elements: the rule needs moments_per_element (0, 1 or 2) and a const
    SEMOE_HD void operator()(float& p, float g) const { p -= g; }
#else
    SEMOE_HD void operator()(float& p, float g, float& m) const { p -= m = g; }
#endif
};

inline void use(semoe::CpuBackend b, semoe::ParameterBlock<float, semoe::HostSpace> block) {
    semoe::optim::update_elements(b, block, 1.0, Rule{});
}
