#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/backend/cpu/cpu.hpp"
#include "semoe/checkpoint/detail/tensor_blocks.hpp"
#include "semoe/checkpoint/safetensors_options.hpp"
#include "semoe/expert/concept.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/file_jobs.hpp"

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace semoe::checkpoint {

/// The weights of a checkpoint as a store, for reading: a block is brought tensor by tensor when a
/// tier asks for it, and the file is never loaded whole. Copies are the same store; any thread may
/// call.
///
///     checkpoint::SafetensorsStore file{"run/7.safetensors", backend, gate, expert};
///     MoeLayer layer{backend, gate, expert, comm::Self{},
///                    tier::Cached{backend, file, {.bytes = index_t(1) << 30}}};
///
/// One store serves all layers of a model that are alike, by the names under which
/// checkpoint::save() writes them (MoeConfig::layer is the number); other tensors are left alone.
/// Nothing is converted: tensors have the types and the orders of the blocks.
///
/// A tensor begins at any byte of its file, so its bytes come in whole pages past the system's
/// cache and are copied once. A file of blocks needs no copy, and it takes stores, so a model can
/// train on it; this makes one, holding one block at a time:
///
///     tier::write_blocks(backend, file, file.keys(), "7.semoe");
///     tier::FileStore blocks{"7.semoe"};
///
/// Requests are carried out as a tier::FileStore's, and end on a queue of each copy's own. Memory:
/// the header, a piece's buffer a request, and a copy's forked queue of each kind of backend that
/// it was used with.
class SafetensorsStore {
public:
    /// @param b, gate, expert  what the layers are given that will read the blocks
    /// @throws store_error naming the file when it cannot be opened, is no safetensors file or has
    ///         tensors of which none is of such a layer; precondition_error naming an option that
    ///         is out of range
    /// @cost reads the header
    template <Backend B, class G, class X>
    SafetensorsStore(std::string const& path, B const& b, G const& gate, X const& expert,
                     SafetensorsOptions options = {},
                     io::FileSystem& system = io::default_file_system())
      : jobs_(std::make_unique<detail::TensorBlocks>(path, tensors_of(b, gate, expert), options,
                                                     system)) {}

    /// That the file has the block. Whoever has declared it finds no fault in its shapes later.
    /// @throws store_error naming the tensor that is missing, and of types or shapes that found and
    ///         that wanted; naming both sizes and layouts when tensors are right and info is not;
    ///         for gradients and states; for a layout with derived slices
    void declare(BlockKey key, BlockInfo info) { jobs_.file().declare(key, info); }
    /// Whether the file has tensors with all names of the block.
    bool contains(BlockKey key) const { return jobs_.file().contains(key); }
    /// @throws as declare
    BlockInfo info(BlockKey key) const { return jobs_.file().info(key); }
    /// Every block that the file has, in rising order.
    std::vector<BlockKey> keys() const { return jobs_.file().keys(); }

    /// @param dst  info(key).bytes of backend memory, overwritten
    /// @throws as declare, and precondition_error when dst is of another size; what the system
    ///         refuses is thrown where the event is waited for: a store_error naming file, block,
    ///         tensor, byte and cause
    /// @sync enqueues; where the backend's memory is not the host's, the host waits
    template <Backend B>
    typename B::event_type load(B& b, BlockKey key, Bytes<space_of<B>> dst) {
        return jobs_.load(b, key, dst);
    }
    /// @throws store_error, always: a checkpoint is replaced whole, by save()
    template <Backend B>
    typename B::event_type store(B&, BlockKey key, ConstBytes<space_of<B>>) {
        jobs_.file().refuse_store(key);
    }

    std::string const& path() const { return jobs_.file().path(); }
    SafetensorsCounters counters() const { return jobs_.file().counters(); }
    /// What the file system and the kernel allowed.
    io::Way way() const { return jobs_.file().way(); }
    io::Engine engine() const { return jobs_.file().engine(); }

private:
    template <class B, class G, class X>
    static detail::BlockTensors tensors_of(B const& b, G const& gate, X const& expert) {
        using Routed = semoe::detail::RoutedPart<X>;
        static_assert(
            requires {
                { gate.num_experts } -> std::convertible_to<index_t>;
            },
            "checkpoint::SafetensorsStore: the gate lacks num_experts (see "
            "gate/concept.hpp)");
        static_assert(HasExpertShape<X> && HasExpertLayout<Routed, B>,
                      "checkpoint::SafetensorsStore: the expert lacks value_type, hidden, "
                      "layout(backend), saved_columns() or scratch_columns() (see "
                      "expert/concept.hpp)");
        using Real = accumulate_t<typename X::value_type>;
        auto const block = [&](auto const& part) -> detail::BlockTensors::Block {
            using Weight = weight_t<std::remove_cvref_t<decltype(part)>>;
            auto const layout = part.layout(b);
            return {layout, dtype_of<Weight>, semoe::detail::contents_of(layout, part),
                    semoe::detail::codes_of(part), semoe::detail::activation_of(part)};
        };
        auto const router = semoe::detail::router_layout(expert, index_t(gate.num_experts));
        detail::BlockTensors tensors{
            block(semoe::detail::routed_part(expert)),
            {router, dtype_of<Real>, router.contents(element_name<Real>())}};
        if constexpr (HasSharedExpert<X>) tensors.shared = block(expert.shared);
        return tensors;
    }

    tier::detail::FileJobs<detail::TensorBlocks> jobs_;
};

static_assert(BlockStore<SafetensorsStore, CpuBackend>);

} // namespace semoe::checkpoint
