#pragma once

#include "semoe/backend/cpu/isa.hpp"
#include "semoe/checkpoint/detail/tensor_names.hpp"
#include "semoe/checkpoint/number.hpp"
#include "semoe/checkpoint/reader.hpp"
#include "semoe/checkpoint/writer.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/version.hpp"

#include <concepts>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Saving and resuming a run: one safetensors file a checkpoint, written between two steps, that
/// replaces the previous one whole or not at all. It holds every parameter's weight and, for
/// training, master and moments, as logical row-major tensors of exactly the bits that memory has,
/// so that a resumed run continues byte for byte. Gradients are no part of it.
///
///     layer            file
///     experts.3.w      layers.7.experts.3.w   master.layers.7.experts.3.w   moments.layers.7...w.0
///
/// Moments that an optimizer packs (optim/concept.hpp) are one tensor of bytes a block,
/// moments.layers.7.experts.3.packed.
///
/// What a model has besides layers joins by a function that names its tensors:
///
///     auto const tensors = [&](auto& visit) {
///         visit(backend, "embedding", embedding.view());
///         checkpoint::visit_layer(layer, visit);
///     };
///     checkpoint::save("run/7.safetensors", {.step = 7, .seed = seed}, tensors);
///     checkpoint::Resumed const resumed = checkpoint::load("run/7.safetensors", tensors);
namespace semoe::checkpoint {

/// What a run is besides its tensors.
struct RunState {
    index_t step = 0; ///< updates done so far
    std::uint64_t seed = 0;
    /// The caller's own, UTF-8; numbers exactly through to_text() and number().
    std::map<std::string, std::string> fields = {};
};

/// A run as a file tells it.
struct Resumed {
    RunState state;
    std::string version;         ///< of semoe, when it was written
    std::string instruction_set; ///< of every backend it was written from
    /// Empty, or why the run will not continue bit for bit: for the user to read.
    std::string warning = {};
};

/// What the low bits of b's results depend on: what b says itself, on processors the instruction
/// set chosen for this process, else the kind of memory.
template <class B>
std::string instruction_set_of(B const& b) {
    if constexpr (requires { std::string(b.instruction_set()); })
        return std::string(b.instruction_set());
    else if constexpr (host_reachable<B>)
        return to_string(selected_isa());
    else
        return space_of<B>::name;
}

namespace detail {

inline constexpr char const* format_version = "1";

/// Which instruction sets the visited tensors live on.
class InstructionSets {
public:
    template <class B>
    void add(B const& b) {
        names_.insert(instruction_set_of(b));
    }
    std::string text() const {
        std::string text;
        for (std::string const& name : names_) text += (text.empty() ? "" : "+") + name;
        return text;
    }

private:
    std::set<std::string> names_;
};

// The four passes over a model's tensors. Each is called as visit(backend, name, view), and with
// property() for what must be equal in file and model, name() for what must not differ.

struct Declaring {
    static constexpr bool of_save = true;
    static constexpr Access access = Access::read;
    static constexpr bool states = true;
    Writer& writer;
    InstructionSets& instruction_sets;

    template <Backend B, class View>
    void operator()(B& b, std::string const& name, View view) {
        instruction_sets.add(b);
        writer.declare(name, view);
    }
    void property(std::string const& name, std::string const& value, char const*) const {
        writer.metadata(own(name), value);
    }
    void name(std::string const& name, std::string const& value) const {
        writer.metadata(own(name), value);
    }
};

struct Writing {
    static constexpr Access access = Access::read;
    static constexpr bool states = true;
    Writer& writer;

    template <Backend B, class View>
    void operator()(B& b, std::string const& name, View view) {
        writer.write(b, name, view);
    }
    void property(std::string const&, std::string const&, char const*) const {}
    void name(std::string const&, std::string const&) const {}
};

struct Checking {
    static constexpr Access access = Access::read;
    bool states;
    Reader& reader;
    InstructionSets& instruction_sets;

    template <Backend B, class View>
    void operator()(B& b, std::string const& name, View view) {
        instruction_sets.add(b);
        reader.check(name, view);
    }
    void property(std::string const& name, std::string const& value, char const* hint) const {
        for (SafetensorsFile const& file : reader.files()) {
            // Whatever is prepared, the file will not have states that it lacks.
            std::string const found = own_value(file.metadata(), name);
            bool const none = found == "0" || found == "false";
            expect_property(file.path(), file.metadata(), name, value,
                            none ? "; load_weights() takes a checkpoint that has no such states"
                                 : hint);
        }
    }
    void name(std::string const& name, std::string const& value) const {
        for (SafetensorsFile const& file : reader.files())
            expect_name(file.path(), file.metadata(), name, value);
    }
};

struct Reading {
    static constexpr Access access = Access::write;
    bool states;
    Reader& reader;

    template <Backend B, class View>
    void operator()(B& b, std::string const& name, View view) {
        reader.read(b, name, view);
    }
    void property(std::string const&, std::string const&, char const*) const {}
    void name(std::string const&, std::string const&) const {}
};

struct NoopVisit {
    template <class View, class Shape>
    void operator()(std::string const&, View, Shape const&) const {}
};

/// Optional for a layer: whether its moments are an optimizer's own bytes, not numbers.
template <class L>
bool has_packed_moments(L& layer) {
    if constexpr (requires { layer.has_packed_moments(); })
        return layer.has_packed_moments();
    else
        return false;
}

inline std::string required(SafetensorsFile const& file, std::string const& key) {
    auto const it = file.metadata().find(key);
    if (it == file.metadata().end())
        throw store_error(file.path() + ": metadata " + in_quotes(key) +
                          ": missing; not a checkpoint of a run");
    return it->second;
}

inline Resumed resumed_from(SafetensorsFile const& file) {
    std::string const format = required(file, own("format"));
    if (format != format_version)
        throw store_error(file.path() + ": metadata 'semoe.format': " + in_quotes(format) +
                          ", this version of semoe reads '" + format_version + "'");
    auto const whole = [&](auto& to, char const* key) {
        std::string const text = required(file, own(key));
        if (!number(text, to))
            throw store_error(file.path() + ": metadata " + in_quotes(own(key)) + ": " +
                              in_quotes(text) + " is not a whole number in range");
    };
    Resumed resumed;
    whole(resumed.state.step, "step");
    if (resumed.state.step < 0)
        throw store_error(message("{}: metadata 'semoe.step': {}, must not be negative",
                                  file.path(), resumed.state.step));
    whole(resumed.state.seed, "seed");
    resumed.version = required(file, own("version"));
    resumed.instruction_set = required(file, own("instruction_set"));
    for (auto const& [key, value] : file.metadata())
        if (!key.starts_with(own_prefix)) resumed.state.fields.emplace(key, value);
    return resumed;
}

/// What every file says, and that they are of one run.
inline Resumed resumed_from(std::vector<SafetensorsFile> const& files) {
    Resumed first = resumed_from(files.front());
    for (SafetensorsFile const& file : files) {
        RunState state = resumed_from(file).state;
        if (state.step != first.state.step || state.seed != first.state.seed)
            throw store_error(message("{}: step {} of seed {}, but {} is step {} of seed {}",
                                      file.path(), state.step, state.seed, files.front().path(),
                                      first.state.step, first.state.seed));
        first.state.fields.merge(state.fields); // keeps what an earlier file has
    }
    return first;
}

template <class Tensors>
InstructionSets load_tensors(Reader& reader, bool states, Tensors& tensors) {
    InstructionSets instruction_sets;
    Checking checking{states, reader, instruction_sets};
    tensors(checking);
    reader.expect_all_read();
    Reading reading{states, reader};
    tensors(reading);
    return instruction_sets;
}

template <class Tensors>
Resumed load_run(Reader& reader, Tensors& tensors) {
    Resumed resumed = resumed_from(reader.files());
    std::string const here = load_tensors(reader, true, tensors).text();
    for (SafetensorsFile const& file : reader.files()) {
        std::string const there = resumed_from(file).instruction_set;
        if (here != there && resumed.warning.empty())
            resumed.warning = file.path() + ": written with the instruction set " + there +
                              ", resumed with " + here +
                              ": the run continues, but not bit for bit as it would have there";
    }
    return resumed;
}

} // namespace detail

/// What save() and load() ask of a layer; MoeLayer has it.
template <class L>
concept HasParameters = requires(L& layer, BlockKind kind, Access access) {
    layer.backend();
    { layer.config().layer } -> std::convertible_to<layer_id>;
    /// f(name, view, shape) for every parameter, each view valid during its call.
    layer.for_each_parameter(detail::NoopVisit{}, kind, access);
    { layer.moments_per_element() } -> std::convertible_to<int>;
    { layer.has_masters() } -> std::same_as<bool>;
    layer.weights_changed(false);
    layer.zero_grad();
};

/// Names every tensor of a layer to one of the passes of save() and load(), as
/// "layers.I.NAME" with I = config().layer, "master.layers.I.NAME" and "moments.layers.I.NAME".
template <class L, class Visit>
void visit_layer(L& layer, Visit& visit) {
    static_assert(HasParameters<L>,
                  "checkpoint: the layer lacks backend(), config().layer, for_each_parameter(f, "
                  "kind, access), moments_per_element(), has_masters(), weights_changed(bool) or "
                  "zero_grad() (see HasParameters in checkpoint/checkpoint.hpp)");
    constexpr bool checks = requires {
        Visit::of_save;
        layer.expect_usable();
    };
    if constexpr (checks) layer.expect_usable();
    std::string const prefix = detail::layer_prefix(layer.config().layer);
    auto const visit_kind = [&](BlockKind kind, std::string const& before, auto const& as) {
        layer.for_each_parameter(
            [&](std::string const& name, auto view, auto const&) {
                visit(layer.backend(), before + prefix + name, as(view));
            },
            kind, visit.access);
    };
    auto const visit_expert = [&](std::string const& which, auto const& expert) {
        std::string const codes = semoe::detail::codes_of(expert);
        if (!codes.empty()) visit.property(prefix + which + detail::codes_key, codes, "");
        std::string const activation = semoe::detail::activation_of(expert);
        if (!activation.empty()) visit.name(prefix + which + detail::activation_key, activation);
    };
    if constexpr (requires { layer.expert(); }) {
        using X = std::remove_cvref_t<decltype(layer.expert())>;
        visit_expert("experts.", semoe::detail::routed_part(layer.expert()));
        if constexpr (HasSharedExpert<X>) visit_expert("shared.", layer.expert().shared);
    }
    auto const numbers = [](auto view) { return view; };
    visit_kind(BlockKind::weight, "", numbers);
    if (visit.states) {
        constexpr char const* hint = "; before load(), call prepare() with the run's optimizer";
        bool const packed = detail::has_packed_moments(layer);
        visit.property(prefix + "moments_per_element",
                       std::to_string(layer.moments_per_element()) + (packed ? ", packed" : ""),
                       hint);
        visit.property(prefix + "has_masters", layer.has_masters() ? "true" : "false", hint);
        if (layer.has_masters()) visit_kind(BlockKind::master, "master.", numbers);
        if (packed)
            visit_kind(BlockKind::moments, "moments.", [](auto view) {
                return view_as<std::uint8_t>(as_writable_bytes(flat(view)));
            });
        else if (layer.moments_per_element() > 0)
            visit_kind(BlockKind::moments, "moments.", numbers);
    }
    if (visit.access == Access::write) {
        layer.zero_grad();
        layer.weights_changed(!visit.states);
    }
}

/// Writes a checkpoint. Every rank writes a file of its own, with the experts that it holds, under
/// their global numbers, and what all ranks have alike; of several ranks that write to one path the
/// last one's file remains.
/// @param tensors  tensors(visit) calls visit(backend, name, view) for every tensor of the run, and
///                 visit_layer(layer, visit); it is called twice and must name the same ones. A
///                 view is a MatrixView or VectorView of backend memory, needed during its call
///                 alone
/// @throws store_error naming the file, and whatever tensors() throws: the previous checkpoint is
///         then whole and no other file is left, but where the directory could not be made durable,
///         as io::AtomicFile::commit says; precondition_error for a name that comes twice, a field
///         that begins with "semoe.", a negative step, or a layer whose last step failed midway
/// @sync waits for the backends and the device
/// @cost reads every tensor once; 4 MiB of host memory
template <class Tensors>
    requires(!HasParameters<Tensors>)
void save(std::string const& path, RunState const& state, Tensors&& tensors,
          io::FileSystem& system = io::default_file_system()) {
    expects(state.step >= 0, "checkpoint::save: step is {}, must not be negative", state.step);
    Writer writer{path, system};
    for (auto const& field : state.fields) {
        expects(!field.first.starts_with(detail::own_prefix), [&] {
            return "checkpoint::save: the field " + detail::in_quotes(field.first) +
                   " begins with 'semoe.', which is reserved";
        });
        writer.metadata(field.first, field.second);
    }
    detail::InstructionSets instruction_sets;
    detail::Declaring declaring{writer, instruction_sets};
    tensors(declaring);
    writer.metadata(detail::own("format"), detail::format_version);
    writer.metadata(detail::own("version"), std::to_string(SEMOE_VERSION_MAJOR) + "." +
                                                std::to_string(SEMOE_VERSION_MINOR) + "." +
                                                std::to_string(SEMOE_VERSION_PATCH));
    writer.metadata(detail::own("step"), std::to_string(state.step));
    writer.metadata(detail::own("seed"), std::to_string(state.seed));
    writer.metadata(detail::own("instruction_set"), instruction_sets.text());
    detail::Writing writing{writer};
    tensors(writing);
    writer.commit();
}
/// As above, for layers alone.
template <HasParameters L, HasParameters... Ls>
void save(std::string const& path, RunState const& state, L& layer, Ls&... layers) {
    save(path, state, [&](auto& visit) {
        visit_layer(layer, visit);
        (visit_layer(layers, visit), ...);
    });
}

/// What a checkpoint says of its run, without its tensors.
/// @throws store_error, as load() does
inline Resumed read_state(std::string const& path,
                          io::FileSystem& system = io::default_file_system()) {
    return detail::resumed_from(SafetensorsFile{path, Gaps::refuse, system});
}

/// That a run has the fields which a checkpoint was made with: the model's sizes, for instance.
/// @throws store_error naming the file and the first field that differs, with both values
inline void expect_fields(std::string const& path, Resumed const& resumed,
                          std::map<std::string, std::string> const& fields) {
    for (auto const& [key, value] : fields) {
        auto const it = resumed.state.fields.find(key);
        bool const missing = it == resumed.state.fields.end();
        if (missing || it->second != value)
            throw store_error(path + ": " + key + " is " + (missing ? "missing" : it->second) +
                              ", this model has " + value);
    }
}

/// Resumes from a checkpoint: every tensor that `tensors` names is overwritten, layers' gradients
/// are forgotten. A layer that was saved with an optimizer's states needs prepare(optimizer) first.
/// @param paths  the file, or of a run of several ranks a list of the files of all of them, for any
///               number of ranks: each takes its experts from whichever file has them and leaves
///               those of others, and all else, fields too, from the first file that has it
/// @throws store_error naming the file and what is missing, unknown, or of another shape or type:
///         checked for every tensor before the first is written; when files differ in step or seed.
///         A layer that an error leaves half read refuses work until it is loaded whole
/// @sync waits for the backends
template <class Tensors>
    requires(!HasParameters<Tensors>)
Resumed load(Paths const& paths, Tensors&& tensors,
             io::FileSystem& system = io::default_file_system()) {
    Reader reader{paths, system};
    if (paths.is_list) reader.ignore_if(detail::is_of_expert);
    return detail::load_run(reader, tensors);
}
template <HasParameters L, HasParameters... Ls>
Resumed load(Paths const& paths, L& layer, Ls&... layers) {
    return load(paths, [&](auto& visit) {
        visit_layer(layer, visit);
        (visit_layer(layers, visit), ...);
    });
}

/// As load(), but takes weights alone, of a run or of any other files with the same names, the
/// parts of a large model for instance; masters are made from them. What else of a layer or with a
/// name in "master." and "moments." the files have is left out.
template <class Tensors>
    requires(!HasParameters<Tensors>)
void load_weights(Paths const& paths, Tensors&& tensors,
                  io::FileSystem& system = io::default_file_system()) {
    Reader reader{paths, system};
    reader.ignore("master.");
    reader.ignore("moments.");
    if (paths.is_list) reader.ignore_if(detail::is_of_expert);
    detail::load_tensors(reader, false, tensors);
}
template <HasParameters L, HasParameters... Ls>
void load_weights(Paths const& paths, L& layer, Ls&... layers) {
    load_weights(paths, [&](auto& visit) {
        visit_layer(layer, visit);
        (visit_layer(layers, visit), ...);
    });
}

} // namespace semoe::checkpoint
