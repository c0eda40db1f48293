#pragma once

#include "semoe/checkpoint/checkpoint.hpp"
#include "semoe/checkpoint/tensor_part.hpp"

#include <concepts>
#include <string>

namespace semoe::checkpoint {

namespace detail {

/// A pass over a model's tensors under a file's names: it checks them, or writes them.
template <Access A, class Names>
struct Importing {
    static constexpr Access access = A;
    static constexpr bool states = false;
    Reader& reader;
    Names const& name_of;

    template <Backend B, class View>
    void operator()(B& b, std::string const& name, View view) {
        if constexpr (A == Access::read)
            reader.check_values(name_of(name), view);
        else
            reader.read_values(b, name_of(name), view);
    }
    void property(std::string const&, std::string const&, char const*) const {}
    void name(std::string const&, std::string const&) const {}
};

} // namespace detail

/// Weights from files that another program wrote, a published model's for instance: under its
/// names, and converted to the types of this model. What else the files hold is left alone.
///
///     auto const names = [](std::string const& ours) { // "layers.0.experts.3.gate_proj"
///         std::string theirs = "model." + ours + ".weight";
///         ...
///         return theirs; // "model.layers.0.mlp.experts.3.gate_proj.weight"
///     };
///     checkpoint::import_weights("model.safetensors", names, layer);
///
/// Where one tensor of the file holds several of ours, all experts' for instance, `names` returns a
/// TensorPart.
///
/// Into layers over a tier::FileStore one block at a time is in memory, and a flush of the tier
/// makes a file of blocks of it.
/// @param paths    as of load(): a model in several files is one list
/// @param name_of  name_of(name), the file's name for a tensor that visit_layer or `tensors` names,
///                 or the TensorPart that it is
/// @param tensors  as of load()
/// @throws store_error naming the file and a tensor that is missing, of another shape, or of a type
///         that does not convert; precondition_error for a part that no tensor has: all checked for
///         every tensor before the first is written. A matrix of one row may be a vector in the
///         file
/// @sync waits for the backends
/// @cost reads every tensor once; host memory for the largest, converted
template <class Tensors, std::invocable<std::string const&> Names>
    requires(!HasParameters<Tensors>)
void import_weights(Paths const& paths, Names const& name_of, Tensors&& tensors,
                    io::FileSystem& system = io::default_file_system()) {
    Reader reader{paths, system};
    detail::Importing<Access::read, Names> checking{reader, name_of};
    tensors(checking);
    detail::Importing<Access::write, Names> writing{reader, name_of};
    tensors(writing);
}
/// As above, for layers alone.
template <std::invocable<std::string const&> Names, HasParameters L, HasParameters... Ls>
void import_weights(Paths const& paths, Names const& name_of, L& layer, Ls&... layers) {
    import_weights(paths, name_of, [&](auto& visit) {
        visit_layer(layer, visit);
        (visit_layer(layers, visit), ...);
    });
}

} // namespace semoe::checkpoint
