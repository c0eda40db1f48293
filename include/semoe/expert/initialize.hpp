#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/math.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/rng.hpp"
#include "semoe/ops/vectorised.hpp"

#include <cmath>
#include <string_view>

namespace semoe::expert {

namespace detail {
template <class T>
struct DrawWeight {
    using Real = accumulate_t<T>;
    RngStream rng;
    index_t draw;
    Real bound;
    T* slice;
    index_t elements;

    SEMOE_HD T value(index_t i) const { return value_of(rng.bits(i, draw)); }
    /// Elements 16 * block and the 15 that follow.
    SEMOE_HD void operator()(index_t block) const { ops::vectorised(Block{*this, block}); }
    template <class B>
    void all(B& b) const {
        b.parallel_for((elements + 15) / 16, *this);
    }

private:
    /// Exact up to the last product, so float and double draw the same number.
    SEMOE_HD SEMOE_INLINE T value_of(std::uint32_t bits) const {
        return convert<T>((2 * uniform_of<Real>(bits) - 1) * bound);
    }
    struct Block {
        DrawWeight const& all;
        index_t block;

        SEMOE_HD SEMOE_INLINE void operator()() const {
            std::uint32_t bits[16];
            T values[16];
            all.rng.bits_of_16(block, all.draw, bits);
            for (int j = 0; j < 16; ++j) values[j] = all.value_of(bits[j]);
            T* const to = all.slice + block * 16;
            index_t const n = min(all.elements - block * 16, index_t(16));
            if (n == 16)
                for (int j = 0; j < 16; ++j) to[j] = values[j];
            else
                for (index_t j = 0; j < n; ++j) to[j] = values[j];
        }
    };
};
/// The weights of slice number s, which begins at `data`.
template <class T>
DrawWeight<T> drawn(Slice const& slice, index_t s, std::uint64_t seed, BlockKey key,
                    T* data = nullptr) {
    // The upper half is no step that training reaches: gates draw from other streams.
    RngKey const rng{seed, 1ull << 63 | std::uint64_t(std::uint32_t(key.expert)),
                     std::uint32_t(key.layer)};
    return {RngStream(rng), s, accumulate_t<T>(std::sqrt(3.0 / double(slice.cols))), data,
            slice.elements};
}
template <class T>
struct ZeroWeight {
    T* slice;
    SEMOE_HD void operator()(index_t i) const { slice[i] = T{}; }
};
} // namespace detail

/// Draws a block's weights: every [N,K] slice uniform with standard deviation 1 / sqrt(K), so that
/// y = x w^T keeps the variance of x; slices whose name ends in "bias" are zero. An element depends
/// on (seed, layer, expert, slice, its place in the slice) alone: not on rank, thread, backend or,
/// up to rounding, T. Derived slices are left to the expert's rebuild_derived.
/// @param layout  of the block
/// @param key  its layer and expert; the kind plays no part, so a master can be drawn as well
/// @param block  layout.primary_elements() of T or more, backend memory, written
/// @throws precondition_error naming both sizes when the block is too short
/// @sync enqueues on b
/// @cost 20 integer products an element, in vectors where the host has them; no allocation
template <Element T, Backend B>
void initialize(B& b, BlockLayout const& layout, std::uint64_t seed, BlockKey key,
                Bytes<space_of<B>> block) {
    auto const weights = view_as<T>(block);
    expects(weights.size >= layout.primary_elements(), [&] {
        return message("expert::initialize: the block has {} elements, its layout {}", weights.size,
                       layout.primary_elements());
    });
    for (int s = 0; s < layout.size(); ++s) {
        Slice const& slice = layout[s];
        if (slice.derived) continue;
        T* const data = weights.data + slice.offset;
        if (std::string_view(slice.name).ends_with("bias"))
            b.parallel_for(slice.elements, detail::ZeroWeight<T>{data});
        else
            detail::drawn(slice, s, seed, key, data).all(b);
    }
}

} // namespace semoe::expert
