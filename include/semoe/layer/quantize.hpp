#pragma once

#include "semoe/backend/buffer.hpp"
#include "semoe/core/message.hpp"
#include "semoe/expert/quantized.hpp"
#include "semoe/layer/moe_layer.hpp"

#include <string>

namespace semoe {

namespace detail {

/// A block of a quantised expert from one of the float expert's, or a copy of it.
template <class X, class B>
void adopt_block(B& b, X const& expert, Bytes<space_of<B>> from, Bytes<space_of<B>> to) {
    if constexpr (has_own_weights<X>)
        expert.quantize(b, ConstBytes<space_of<B>>(from), to);
    else
        b.copy(to.data, from.data, std::size_t(min(from.size, to.size)));
}
/// f(expert number, description of the expert) for every block of a layer but the router's.
template <class L, class F>
void for_each_expert_block(L& layer, F&& f) {
    using X = std::remove_cvref_t<decltype(layer.expert())>;
    if constexpr (HasSharedExpert<X>) f(shared_block, layer.expert().shared);
    for (expert_id const id : layer.local_experts()) f(id, routed_part(layer.expert()));
}
template <class L>
BlockKey weight_key(L& layer, expert_id id) {
    return {layer.config().layer, id, BlockKind::weight};
}
template <class X, class B>
BlockLayout float_layout(X const& expert, B const& b) {
    if constexpr (has_own_weights<X>)
        return expert.base.layout(b);
    else
        return expert.layout(b);
}
/// The float matrices of an expert: "gate_proj [96,128], up_proj ...".
template <class X, class B>
std::string matrices_of(X const& expert, B const& b) {
    std::string text;
    for (Slice const& s : float_layout(expert, b))
        if (!s.derived)
            text += message("{}{} [{},{}]", text.empty() ? "" : ", ", s.name, s.rows, s.cols);
    return text;
}

} // namespace detail

/// Fills a layer of quantised experts (expert/quantized.hpp) from a trained layer of floats on the
/// same backend: experts are quantised, the router and experts that are floats in both are copied.
/// A shared expert may be quantised, the routed ones, or both.
/// @param from  a layer with as many experts, none of them quantised, whose blocks are what `to`
///              would have unquantised
/// @throws precondition_error naming what differs where the layers do not match, and after a step
///         of `from` that failed midway; nothing is written. What a tier throws leaves `to` as
///         after a step that failed midway
/// @sync enqueues on to.backend(), behind what from's queue does to its blocks
/// @cost 3 to 25 ns a weight and thread; no allocation beyond what tiers do
template <class From, class To>
void quantize(From& from, To& to) {
    static_assert(std::same_as<typename From::value_type, typename To::value_type>,
                  "quantize: the layers' experts must have the same value_type");
    using Source = std::remove_cvref_t<decltype(from.expert())>;
    static_assert(detail::has_float_weights<Source>,
                  "quantize: an expert of the first layer, routed or shared, is quantised "
                  "already: give the layer of floats that it was made from");
    auto& b = to.backend();
    using Target = std::remove_cvref_t<decltype(to.expert())>;
    static_assert(HasSharedExpert<Source> == HasSharedExpert<Target>,
                  "quantize: one of the layers has a shared expert and the other has none: give "
                  "both one, or neither (expert/with_shared.hpp)");
    expects(from.num_experts() == to.num_experts() && from.hidden() == to.hidden(),
            "quantize: a layer of {} experts with hidden {} into one of {} with hidden {}",
            from.num_experts(), from.hidden(), to.num_experts(), to.hidden());
    expects(from.local_experts() == to.local_experts(),
            "quantize: a layer with {} experts on this rank into one with {}: both must be spread "
            "over ranks alike",
            from.local_experts().size(), to.local_experts().size());
    auto const expect_same = [&](char const* which, auto const& given, auto const& wanted) {
        std::string const has = detail::matrices_of(given, b),
                          needs = detail::matrices_of(wanted, b);
        expects(has == needs, "quantize: {} has {}, needed are {}", which, has, needs);
    };
    expect_same("an expert", detail::routed_part(from.expert()), detail::routed_part(to.expert()));
    if constexpr (HasSharedExpert<Target>)
        expect_same("the shared expert", from.expert().shared, to.expert().shared);
    auto const router_bytes = [](auto& layer) {
        return layer.tier().info(detail::weight_key(layer, router_block)).bytes;
    };
    expects(router_bytes(from) == router_bytes(to),
            "quantize: routers of {} and {} bytes: only one layer's shared expert has a "
            "sigmoid_gate",
            router_bytes(from), router_bytes(to));
    from.expect_usable();
    auto const move = [&](expert_id id, auto const& adopt) {
        auto const source = from.tier().acquire(b, detail::weight_key(from, id), Access::read);
        auto const target = to.tier().acquire(b, detail::weight_key(to, id), Access::overwrite);
        adopt(source.bytes(), target.bytes());
    };
    using Block = Bytes<typename To::space>;
    to.overwrite_weights([&] {
        move(router_block, [&](Block source, Block target) {
            b.copy(target.data, source.data, std::size_t(source.size));
        });
        detail::for_each_expert_block(to, [&](expert_id id, auto const& expert) {
            move(id, [&](Block source, Block target) {
                detail::adopt_block(b, expert, source, target);
            });
        });
    });
}

/// Fills a layer of quantised experts from matrices of floats, one expert at a time: whatever the
/// model's size, no more than one block of floats lies in memory.
/// @param read  read(name, view) writes the matrix of that name, "router.weight" or
///              "experts.3.gate_proj", to backend memory through layer.backend(); the view is a
///              MatrixView<value_type>, or of the router's type
/// @throws what read throws; the layer is then as after a step that failed midway
/// @sync enqueues, and waits before the block is reused
/// @cost one block of floats
template <class L, class Read>
void quantize_from(L& layer, Read&& read) {
    using T = typename L::value_type;
    auto& b = layer.backend();
    layer.overwrite_weights([&] {
        {
            auto const router =
                layer.tier().acquire(b, detail::weight_key(layer, router_block), Access::overwrite);
            auto const all = view_as<typename L::Real>(router.bytes());
            index_t const E = layer.num_experts(), H = layer.hidden();
            using View = MatrixView<typename L::Real, typename L::space>;
            read(std::string("router.weight"), View(all.data, E, H));
            if (all.size > E * H)
                read(std::string("router.shared_gate"), View(all.data + E * H, 1, H));
        }
        detail::for_each_expert_block(layer, [&](expert_id id, auto const& expert) {
            BlockLayout const floats = detail::float_layout(expert, b);
            Buffer<T, std::remove_cvref_t<decltype(b)>> block(b, floats.primary_elements());
            for (Slice const& s : floats) {
                if (s.derived) continue;
                std::string const prefix =
                    id == shared_block ? "shared." : "experts." + std::to_string(id) + ".";
                read(prefix + s.name,
                     MatrixView<T, typename L::space>(block.data() + s.offset, s.rows, s.cols));
            }
            auto const target =
                layer.tier().acquire(b, detail::weight_key(layer, id), Access::overwrite);
            detail::adopt_block(b, expert, as_writable_bytes(block.view()), target.bytes());
            b.synchronize();
        });
    });
}

} // namespace semoe
