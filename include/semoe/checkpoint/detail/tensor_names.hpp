#pragma once

#include "semoe/checkpoint/number.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/types.hpp"

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace semoe::checkpoint::detail {

using Metadata = std::map<std::string, std::string>;

inline constexpr char const* own_prefix = "semoe.";
/// What checkpoints call their own in a file's metadata.
inline std::string own(std::string_view key) { return own_prefix + std::string(key); }
/// Its value there, or "missing".
inline std::string own_value(Metadata const& metadata, std::string_view key) {
    auto const found = metadata.find(own(key));
    return found != metadata.end() ? found->second : "missing";
}

/// What tells experts of equal shapes apart, in a layer's metadata under "experts." or "shared.".
inline constexpr char const *codes_key = "codes", *activation_key = "activation";

/// @param hint  what may help, after the text @throws store_error naming both, where they differ
inline void expect_property(std::string const& path, Metadata const& metadata,
                            std::string const& key, std::string const& wanted,
                            char const* hint = "") {
    std::string const found = own_value(metadata, key);
    if (found != wanted)
        throw store_error(path + ": " + key + " is " + found + ", this model has " + wanted + hint);
}
/// As above, of a file that says anything about it.
inline void expect_name(std::string const& path, Metadata const& metadata, std::string const& key,
                        std::string const& wanted) {
    if (metadata.contains(own(key))) expect_property(path, metadata, key, wanted);
}

/// "layers.7.".
inline std::string layer_prefix(layer_id layer) { return "layers." + std::to_string(layer) + "."; }

/// Takes everything before the next point, and the point. @return nothing where there is none
inline std::optional<std::string_view> take_word(std::string_view& name) {
    std::size_t const point = name.find('.');
    if (point == std::string_view::npos) return std::nullopt;
    std::string_view const word = name.substr(0, point);
    name.remove_prefix(point + 1);
    return word;
}

/// Which weight block a tensor seems to be part of: of "layers.7.experts.3.up_proj", layer 7,
/// expert 3.
inline std::optional<BlockKey> block_of(std::string_view name) {
    BlockKey key;
    auto const take_number = [&](auto& to) {
        auto const word = take_word(name);
        return word && number(*word, to) && to >= 0;
    };
    if (take_word(name) != "layers" || !take_number(key.layer)) return std::nullopt;
    auto const part = take_word(name);
    if (part == "router")
        key.expert = router_block;
    else if (part == "shared")
        key.expert = shared_block;
    else if (part != "experts" || !take_number(key.expert))
        return std::nullopt;
    return key;
}

/// Whether a tensor is of an expert: its weight, master or moments.
inline bool is_of_expert(std::string_view name) {
    for (std::string_view const before : {"master.", "moments."})
        if (name.starts_with(before)) name.remove_prefix(before.size());
    auto const key = block_of(name);
    return key && key->expert >= 0;
}

} // namespace semoe::checkpoint::detail
