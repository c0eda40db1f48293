#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/math.hpp"
#include "semoe/ops/vectorised.hpp"
#include "semoe/optim/concept.hpp"
#include "semoe/optim/detail/expects_sizes.hpp"
#include "semoe/optim/detail/update_cost.hpp"

#include <concepts>
#include <type_traits>

namespace semoe::optim {

/// What an elementwise optimizer does to one element: parameter p and its moments are updated in
/// place by gradient g. Rules are trivially copyable and callable from device code; SEMOE_INLINE
/// makes them vector code of the host's instruction set, whatever the user's flags.
template <class R, class Real>
concept ElementRule = std::is_trivially_copyable_v<R> &&
    ((R::moments_per_element == 0 && requires(R const& rule, Real& p, Real g) { rule(p, g); }) ||
     (R::moments_per_element == 1 &&
      requires(R const& rule, Real& p, Real g, Real& m) { rule(p, g, m); }) ||
     (R::moments_per_element == 2 &&
      requires(R const& rule, Real& p, Real g, Real& m, Real& v) { rule(p, g, m, v); }));

namespace detail {

inline constexpr int host_lanes = 16;

/// Runs a rule over a range of elements, `lanes` at a time: a loop of constant length becomes
/// vector code of the host's instruction set. The last, shorter run is padded and goes through the
/// same instructions, so an element's bits do not depend on where ranges end.
template <class T, class Space, class Rule, int lanes>
struct UpdateElements {
    using Real = accumulate_t<T>;
    static constexpr int moments = Rule::moments_per_element;

    ParameterBlock<T, Space> block;
    Rule rule;
    Real gradient_scale;
    index_t elements_per_call;

    SEMOE_HD void operator()(index_t call) const {
        index_t const first = call * elements_per_call;
        auto const& g = block.gradient;
        update(first, semoe::min(elements_per_call, block.weight.size - first),
               g.empty() ? nullptr : g.data + first);
    }
    /// @param gradient  of `count` elements from `first` on; null: zeros
    SEMOE_HD void update(index_t first, index_t count, Real const* gradient) const {
        ops::vectorised(Range{*this, first, count, gradient});
    }
    Cost cost() const { return update_cost(block); }

private:
    struct Range {
        UpdateElements const& all;
        index_t first, count;
        Real const* gradient;
        SEMOE_HD SEMOE_INLINE void operator()() const {
            Real const zeros[lanes] = {};
            Rule const copy = all.rule; // what `all` refers to might change with every store
            index_t n = 0;
            for (; n + lanes <= count; n += lanes) {
                index_t const i = first + n;
                apply(copy, all.gradient_scale, all.parameter() + i,
                      gradient ? gradient + n : zeros, all.moment(0, i), all.moment(1, i));
                if (!all.block.master.empty())
                    round(all.block.master.data + i, all.block.weight.data + i);
            }
            if (n < count)
                all.update_tail(first + n, int(count - n), gradient ? gradient + n : nullptr);
        }
    };

    SEMOE_HD SEMOE_INLINE Real* parameter() const {
        if constexpr (!needs_master<T>)
            if (block.master.empty()) return block.weight.data;
        return block.master.data;
    }
    SEMOE_HD SEMOE_INLINE Real* moment(int j, index_t i) const {
        return j < moments ? block.moments.data + j * block.weight.size + i : nullptr;
    }
    SEMOE_HD SEMOE_INLINE static void apply(Rule const& rule, Real scale, Real* p, Real const* g,
                                            Real* m, Real* v) {
        SEMOE_INDEPENDENT
        for (int k = 0; k < lanes; ++k) {
            Real const scaled = g[k] * scale;
            if constexpr (moments == 0) rule(p[k], scaled);
            if constexpr (moments == 1) rule(p[k], scaled, m[k]);
            if constexpr (moments == 2) rule(p[k], scaled, m[k], v[k]);
        }
    }
    SEMOE_HD SEMOE_INLINE static void round(Real const* p, T* weight) {
        SEMOE_INDEPENDENT
        for (int k = 0; k < lanes; ++k) weight[k] = convert<T>(p[k]);
    }
    SEMOE_HD SEMOE_INLINE void update_tail(index_t first, int count, Real const* gradient) const {
        Real p[lanes] = {}, g[lanes] = {}, m[2][lanes] = {};
        for (int k = 0; k < count; ++k) {
            p[k] = parameter()[first + k];
            if (gradient) g[k] = gradient[k];
            for (int j = 0; j < moments; ++j) m[j][k] = *moment(j, first + k);
        }
        apply(rule, gradient_scale, p, g, m[0], m[1]);
        for (int k = 0; k < count; ++k) {
            for (int j = 0; j < moments; ++j) *moment(j, first + k) = m[j][k];
            if (!block.master.empty()) block.master[first + k] = p[k];
            block.weight[first + k] = convert<T>(p[k]);
        }
    }
};

} // namespace detail

/// An optimizer whose update is update_elements by one rule and nothing else, so that elements may
/// be updated where their gradients are computed. The rule's constants hold the step.
template <class O, class Real>
concept HasElementRule = !HasPackedMoments<O> && requires(O const& o, UpdateStep step) {
    { o.template rule<Real>(step) } -> ElementRule<Real>;
};

/// What update_elements does, now and on this thread, to the elements from `first` on whose
/// gradients are given. An element has the same bits.
/// @param block     host memory; block.gradient is not read
/// @param gradient  [count], host memory
/// @sync at once, on this thread @cost as update_elements for those elements; no allocation
template <class T, class Rule>
void update_some(ParameterBlock<T, HostSpace> const& block, index_t first,
                 VectorView<accumulate_t<T> const, HostSpace> gradient,
                 accumulate_t<T> gradient_scale, Rule const& rule) {
    detail::UpdateElements<T, HostSpace, Rule, detail::host_lanes>{block, rule, gradient_scale, 0}
        .update(first, gradient.size, gradient.data);
}

/// Applies an ElementRule to every element of a block, in accumulate_t<T>: the master (or, where
/// there is none, the weight) is the parameter; the weight receives it rounded to T. The whole
/// body of an optimizer whose elements do not depend on one another.
/// @param block  n elements each, backend memory; see optim/concept.hpp
/// @param gradient_scale  multiplies every gradient first
/// @param rule  ElementRule over accumulate_t<T>, copied into the queue
/// @throws precondition_error when a view's size does not fit, naming both, or when 16-bit
///         weights come without their master
/// @sync  enqueues on b
/// @cost  one parallel_for; reads and writes each view once; no allocation
template <Backend B, class T, class Rule>
void update_elements(B& b, ParameterBlock<T, space_of<B>> const& block, double gradient_scale,
                     Rule rule) {
    using Real = accumulate_t<T>;
    static_assert(ElementRule<Rule, Real>,
                  "update_elements: the rule needs moments_per_element (0, 1 or 2) and a const "
                  "operator()(Real& p, Real g, Real&... moments), and must be trivially copyable; "
                  "see semoe/optim/elementwise.hpp");
    index_t const n = block.weight.size;
    detail::expects_sizes(block, n * Rule::moments_per_element);
    if (n == 0) return;

    // Host workers want long runs; a device wants neighbouring elements on neighbouring threads.
    constexpr int lanes = host_reachable<B> ? detail::host_lanes : 1;
    constexpr index_t per_call = host_reachable<B> ? 4096 : 1;
    b.parallel_for((n + per_call - 1) / per_call,
                   detail::UpdateElements<T, space_of<B>, Rule, lanes>{
                       block, rule, Real(gradient_scale), per_call});
}

} // namespace semoe::optim
