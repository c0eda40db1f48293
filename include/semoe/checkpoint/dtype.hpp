#pragma once

#include "semoe/core/dtype.hpp"
#include "semoe/core/types.hpp"

#include <concepts>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace semoe::checkpoint {

/// The element types that a file may hold, as safetensors names them: floating types, then whole
/// numbers, then, from C64 on, those that convert to no type here; their bytes can be read and
/// written.
enum class Dtype : std::uint8_t {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    BOOL,
    U64,
    U32,
    U16,
    C64,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F6_E3M2,
    F6_E2M3,
    F4,
};

namespace detail {
struct DtypeRow {
    Dtype dtype;
    char const* name;
    index_t bits;
};
inline constexpr DtypeRow dtypes[] = {
    {Dtype::F64, "F64", 64},        {Dtype::F32, "F32", 32},        {Dtype::F16, "F16", 16},
    {Dtype::BF16, "BF16", 16},      {Dtype::I64, "I64", 64},        {Dtype::I32, "I32", 32},
    {Dtype::I16, "I16", 16},        {Dtype::I8, "I8", 8},           {Dtype::U8, "U8", 8},
    {Dtype::BOOL, "BOOL", 8},       {Dtype::U64, "U64", 64},        {Dtype::U32, "U32", 32},
    {Dtype::U16, "U16", 16},        {Dtype::C64, "C64", 64},        {Dtype::F8_E5M2, "F8_E5M2", 8},
    {Dtype::F8_E4M3, "F8_E4M3", 8}, {Dtype::F8_E8M0, "F8_E8M0", 8}, {Dtype::F6_E3M2, "F6_E3M2", 6},
    {Dtype::F6_E2M3, "F6_E2M3", 6}, {Dtype::F4, "F4", 4},
};
} // namespace detail

inline constexpr char const* to_string(Dtype dtype) {
    return detail::dtypes[static_cast<int>(dtype)].name;
}
inline constexpr index_t size_bits(Dtype dtype) {
    return detail::dtypes[static_cast<int>(dtype)].bits;
}
/// Of one element; 1 where several share a byte.
inline constexpr index_t size_bytes(Dtype dtype) { return (size_bits(dtype) + 7) / 8; }
/// Bytes of n elements, or nothing where they end within a byte. @pre n * size_bytes(dtype) fits
inline constexpr std::optional<index_t> bytes_of(Dtype dtype, index_t n) {
    index_t const bits = size_bits(dtype), rest = n % 8 * bits;
    if (rest % 8 != 0) return std::nullopt;
    return n / 8 * bits + rest / 8;
}
/// Nothing for a name that the format does not have.
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

/// Whether numbers of that type may become T: floating types among one another, whole ones too.
template <Storable T>
constexpr bool converts(Dtype from) {
    return Element<T> ? from <= Dtype::BF16 : from > Dtype::BF16 && from <= Dtype::U16;
}

} // namespace semoe::checkpoint
