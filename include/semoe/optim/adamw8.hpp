#pragma once

#include "semoe/core/math.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/ops/vectorised.hpp"
#include "semoe/optim/adamw.hpp"
#include "semoe/optim/concept.hpp"
#include "semoe/optim/detail/expects_sizes.hpp"
#include "semoe/optim/detail/magnitude_code.hpp"
#include "semoe/optim/detail/update_cost.hpp"

#include <cstdint>

namespace semoe::optim {

namespace detail {

/// One step of elements whose moments are codes, a group of them at a time: they become floats,
/// AdamW's rule runs, and the group's new largest magnitudes are the scales of its new codes.
template <class T, class Space, index_t group>
struct UpdateCodes {
    using Real = accumulate_t<T>;
    using Mean = MagnitudeCode<7>; // and a sign
    using Root = MagnitudeCode<8>;
    static constexpr int lanes = 16;

    ParameterBlock<T, Space> block;
    float *mean_scales, *root_scales;
    std::uint8_t *means, *roots;
    AdamWRule<Real> rule;
    Real gradient_scale;
    std::uint32_t seed;
    index_t groups_per_call;

    SEMOE_HD void operator()(index_t call) const {
        ops::vectorised(Call{*this, call * groups_per_call});
    }
    Cost cost() const { return update_cost(block); }

private:
    /// Of one group; its arrays hold `group` elements.
    struct Elements {
        Real* p;
        Real const* g;
        std::uint8_t *means, *roots;
        T* weight; ///< null: p is the weight
    };
    struct Call {
        UpdateCodes const& all;
        index_t first;
        SEMOE_HD SEMOE_INLINE void operator()() const {
            index_t const n = all.block.weight.size;
            for (index_t i = first; i < first + all.groups_per_call && i * group < n; ++i)
                if ((i + 1) * group <= n)
                    all.update_whole(i);
                else
                    all.update_last(i, n - i * group);
        }
    };

    SEMOE_HD SEMOE_INLINE Real* parameter(index_t i) const {
        if constexpr (!needs_master<T>)
            if (block.master.empty()) return block.weight.data + i;
        return block.master.data + i;
    }
    SEMOE_HD SEMOE_INLINE void update_whole(index_t index) const {
        Real const zeros[group] = {};
        index_t const i = index * group;
        update({parameter(i), block.gradient.empty() ? zeros : block.gradient.data + i, means + i,
                roots + i, block.master.empty() ? nullptr : block.weight.data + i},
               index);
    }
    /// The last, shorter group is padded and goes the same way.
    SEMOE_HD SEMOE_INLINE void update_last(index_t index, index_t count) const {
        Real p[group] = {}, g[group] = {};
        std::uint8_t m[group] = {}, r[group] = {};
        T weight[group];
        index_t const first = index * group;
        for (index_t i = 0; i < count; ++i) {
            p[i] = *parameter(first + i);
            if (!block.gradient.empty()) g[i] = block.gradient[first + i];
            m[i] = means[first + i];
            r[i] = roots[first + i];
        }
        update({p, g, m, r, weight}, index);
        for (index_t i = 0; i < count; ++i) {
            if (!block.master.empty()) block.master[first + i] = p[i];
            block.weight[first + i] = weight[i];
            means[first + i] = m[i];
            roots[first + i] = r[i];
        }
    }

    SEMOE_HD SEMOE_INLINE void update(Elements e, index_t index) const {
        float m[group], r[group], m_top[lanes] = {}, r_top[lanes] = {};
        AdamWRule<Real> const step = rule; // what `this` points to might change with every store
        Real const scale = gradient_scale;
        float const m_scale = mean_scales[index], r_scale = root_scales[index];
        // Bytes widen in a loop of their own: beside floats they would make its vectors short.
        std::uint32_t m_code[group], r_code[group];
        for (index_t i = 0; i < group; i += lanes) {
            for (int k = 0; k < lanes; ++k) m_code[i + k] = e.means[i + k];
            for (int k = 0; k < lanes; ++k) r_code[i + k] = e.roots[i + k];
        }
        for (index_t i = 0; i < group; i += lanes) {
            SEMOE_INDEPENDENT
            for (int k = 0; k < lanes; ++k) {
                Real mean = signed_value(m_code[i + k]) * m_scale;
                Real const root_before = Root::decode(r_code[i + k]) * r_scale;
                Real square = root_before * root_before;
                step(e.p[i + k], e.g[i + k] * scale, mean, square);
                m[i + k] = float(mean);
                r[i + k] = float(root(square));
            }
            for (int k = 0; k < lanes; ++k) m_top[k] = semoe::max(m_top[k], semoe::abs(m[i + k]));
            for (int k = 0; k < lanes; ++k) r_top[k] = semoe::max(r_top[k], r[i + k]);
            if (e.weight) {
                SEMOE_INDEPENDENT
                for (int k = 0; k < lanes; ++k) e.weight[i + k] = convert<T>(e.p[i + k]);
            }
        }
        float const m_unit = set_scale(mean_scales[index], m, m_top, Mean::largest);
        float const r_unit = set_scale(root_scales[index], r, r_top, Root::largest);
        std::uint32_t const start = seed + std::uint32_t(index * group);
        for (index_t i = 0; i < group; i += lanes) {
            for (int k = 0; k < lanes; ++k) {
                m_code[i + k] = signed_code(m[i + k] * m_unit);
                std::uint32_t const noise = mixed(start + std::uint32_t(i) + std::uint32_t(k));
                std::uint32_t const code =
                    Root::encode(r[i + k] * r_unit, noise >> (32 - Root::dropped));
                // What is not zero stays above it: the next step divides by it.
                r_code[i + k] = semoe::max(code, std::uint32_t(r[i + k] > 0));
            }
        }
        for (index_t i = 0; i < group; i += lanes) {
            for (int k = 0; k < lanes; ++k) e.means[i + k] = std::uint8_t(m_code[i + k]);
            for (int k = 0; k < lanes; ++k) e.roots[i + k] = std::uint8_t(r_code[i + k]);
        }
    }

    /// Stores the scale by which the largest magnitude has the last code. What is not finite has
    /// the last code, too, and no part in the scale: others keep theirs.
    /// @param tops  the largest magnitudes among all of x
    /// @return its inverse; 0 where all is too small for it, and counts as zeros
    SEMOE_HD SEMOE_INLINE static float set_scale(float& scale, float const (&x)[group],
                                                 float const (&tops)[lanes], float largest) {
        constexpr float last_finite = 0x1.fffffep127f;
        float top = 0;
        for (int k = 0; k < lanes; ++k) top = semoe::max(top, tops[k]);
        if (top > last_finite) {
            top = 0;
            for (index_t i = 0; i < group; ++i)
                if (semoe::abs(x[i]) <= last_finite) top = semoe::max(top, semoe::abs(x[i]));
        }
        bool const tiny = top < 0x1p-120f;
        scale = tiny ? 0 : top / largest;
        return tiny ? 0 : largest / top;
    }
    SEMOE_HD SEMOE_INLINE static float signed_value(std::uint32_t code) {
        using semoe::detail::bits_of;
        std::uint32_t const sign = (code >> 7) << 31;
        return bits_of<float>(bits_of<std::uint32_t>(Mean::decode(code & 127u)) | sign);
    }
    SEMOE_HD SEMOE_INLINE static std::uint32_t signed_code(float x) {
        std::uint32_t const sign = semoe::detail::bits_of<std::uint32_t>(x) >> 31;
        return Mean::encode(semoe::abs(x), Mean::to_nearest) | sign << 7;
    }
    /// A hash of 32 bits.
    SEMOE_HD SEMOE_INLINE static std::uint32_t mixed(std::uint32_t x) {
        x *= 0x9e3779b1u;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        return x ^ (x >> 16);
    }
};

} // namespace detail

/// AdamW whose moments take a byte each, and 8 bytes more every 256 elements: a quarter of the
/// memory, and of the traffic where they lie in a file. Everything else stays as wide as it was.
///
/// Both moments are codes times the largest magnitude of their group of 256 (after the block-wise
/// quantisation of Dettmers et al., ICLR 2022, with short floats in place of their table: half a
/// code is 1/16 of the value at most, and the range 2^18 below the group's largest). An element
/// whose gradients are further below its group's largest than that stands still until the largest
/// has decayed; a moment that is not finite counts as its group's largest. Kept is the root of the
/// second moment, which is what a step divides by and has half the exponents. It changes by far
/// less than a code a step, so it is rounded up or down at random, as often as keeps its mean
/// right: rounded to nearest it would stand still. The random bits are a function of step and
/// element, so runs repeat, whatever the threads.
///
///     optim::AdamW8 const optimizer{{.lr = 1e-3}};
struct AdamW8 {
    static constexpr int moments_per_element = 2;
    static constexpr index_t group = 256;

    AdamW adamw;

    /// Scales of first moments, scales of roots, codes of first moments, codes of roots.
    static constexpr index_t state_bytes(index_t n) {
        return 2 * (n + (n + group - 1) / group * index_t(sizeof(float)));
    }

    /// @throws precondition_error naming the value that is out of range
    void validate(UpdateStep step) const { adamw.validate(step); }

    /// As AdamW::update; block.moments is state_bytes(n), rounded up to whole numbers.
    /// @throws precondition_error on sizes or constants out of range
    /// @sync  enqueues on b
    /// @cost  for bf16 with a master 10 bytes read and 8 written an element; no allocation
    template <Backend B, class T>
    void update(B& b, ParameterBlock<T, space_of<B>> const& block, UpdateStep step) const {
        using Real = accumulate_t<T>;
        auto const rule = adamw.rule<Real>(step);
        index_t const n = block.weight.size, groups = (n + group - 1) / group;
        detail::expects_sizes(block, moments_size<AdamW8, Real>(n));
        if (n == 0) return;

        auto* const scales = reinterpret_cast<float*>(block.moments.data);
        auto* const codes = reinterpret_cast<std::uint8_t*>(scales + 2 * groups);
        // Host workers want long runs.
        constexpr index_t per_call = host_reachable<B> ? 16 : 1;
        b.parallel_for((groups + per_call - 1) / per_call,
                       detail::UpdateCodes<T, space_of<B>, group>{
                           block, scales, scales + groups, codes, codes + n, rule,
                           Real(step.gradient_scale),
                           random_bits({.step = std::uint64_t(step.step)}, 0, 0), per_call});
    }
};

} // namespace semoe::optim
