#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace semoe::checkpoint {

/// The element types that a file may hold, as safetensors names them.
enum class Dtype : std::uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

namespace detail {
struct DtypeRow {
    Dtype dtype;
    char const* name;
    index_t bytes;
};
inline constexpr DtypeRow dtypes[] = {
    {Dtype::F64, "F64", 8},   {Dtype::F32, "F32", 4}, {Dtype::F16, "F16", 2},
    {Dtype::BF16, "BF16", 2}, {Dtype::I64, "I64", 8}, {Dtype::I32, "I32", 4},
    {Dtype::I16, "I16", 2},   {Dtype::I8, "I8", 1},   {Dtype::U8, "U8", 1},
    {Dtype::BOOL, "BOOL", 1},
};
} // namespace detail

inline constexpr char const* to_string(Dtype dtype) {
    return detail::dtypes[static_cast<int>(dtype)].name;
}
inline constexpr index_t size_bytes(Dtype dtype) {
    return detail::dtypes[static_cast<int>(dtype)].bytes;
}
/// Nothing for a name that is not one of the ten.
inline constexpr std::optional<Dtype> dtype_named(std::string_view name) {
    for (detail::DtypeRow const& row : detail::dtypes)
        if (row.name == name) return row.dtype;
    return std::nullopt;
}

/// The C++ types that a tensor can be read as or written from.
template <class T>
concept Storable = Element<T> || std::same_as<T, std::int64_t> || std::same_as<T, std::int32_t> ||
    std::same_as<T, std::int16_t> || std::same_as<T, std::int8_t> ||
    std::same_as<T, std::uint8_t> || std::same_as<T, bool>;

/// The file's name for T.
template <Storable T>
inline constexpr Dtype dtype_of = [] {
    if constexpr (std::same_as<T, double>) return Dtype::F64;
    if constexpr (std::same_as<T, float>) return Dtype::F32;
    if constexpr (std::same_as<T, f16>) return Dtype::F16;
    if constexpr (std::same_as<T, bf16>) return Dtype::BF16;
    if constexpr (std::same_as<T, std::int64_t>) return Dtype::I64;
    if constexpr (std::same_as<T, std::int32_t>) return Dtype::I32;
    if constexpr (std::same_as<T, std::int16_t>) return Dtype::I16;
    if constexpr (std::same_as<T, std::int8_t>) return Dtype::I8;
    if constexpr (std::same_as<T, std::uint8_t>) return Dtype::U8;
    if constexpr (std::same_as<T, bool>) return Dtype::BOOL;
}();

} // namespace semoe::checkpoint
