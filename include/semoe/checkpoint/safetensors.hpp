#pragma once

#include "semoe/checkpoint/detail/safetensors_header.hpp"
#include "semoe/checkpoint/dtype.hpp"
#include "semoe/checkpoint/tensor_part.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/space.hpp"
#include "semoe/core/view.hpp"
#include "semoe/io/file.hpp"
#include "semoe/io/mapped_file.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace semoe::checkpoint {

using detail::Gaps;

/// One tensor of a file: its bytes are the file's own, row-major, of any alignment.
struct StoredTensor {
    Dtype dtype = Dtype::U8;
    std::span<index_t const> shape; ///< empty for a scalar
    std::span<std::byte const> bytes;
    index_t offset = 0; ///< of its first byte in the file

    index_t elements() const {
        auto const n = index_t(bytes.size());
        index_t const bits = size_bits(dtype);
        return n / bits * 8 + n % bits * 8 / bits;
    }
};

/// A safetensors file, memory-mapped and wholly checked before anything of it is handed out: a
/// truncated, oversized, overlapping or lying header is a store_error that names file and field.
/// Move-only; what tensor() returns lives as long as the file object.
class SafetensorsFile {
public:
    /// @throws store_error
    /// @cost maps the file, reads its header alone; allocates in proportion to the header
    explicit SafetensorsFile(std::string const& path, Gaps gaps = Gaps::refuse,
                             io::FileSystem& system = io::default_file_system())
      : SafetensorsFile(io::File{system, path, io::Open::read}, gaps) {}
    /// A file that is open already; it may be closed afterwards. @throws, @cost as above
    explicit SafetensorsFile(io::File const& file, Gaps gaps = Gaps::refuse)
      : path_(file.name())
      , file_(file)
      , bytes_(file_.bytes())
      , header_(detail::parse_header(path_, bytes_, gaps)) {}
    /// A file that is in memory already. @pre bytes outlive this object
    SafetensorsFile(std::string name, std::span<std::byte const> bytes, Gaps gaps = Gaps::refuse)
      : path_(std::move(name))
      , bytes_(bytes)
      , header_(detail::parse_header(path_, bytes_, gaps)) {}

    std::string const& path() const { return path_; }
    /// The header's `__metadata__`.
    std::map<std::string, std::string> const& metadata() const { return header_.metadata; }
    /// All tensors' names, sorted.
    std::vector<std::string> names() const {
        std::vector<std::string> names;
        for (detail::HeaderEntry const& entry : header_.entries) names.push_back(entry.name);
        return names;
    }
    bool contains(std::string_view name) const { return find(name) != nullptr; }

    /// @throws store_error when there is none of that name
    StoredTensor tensor(std::string_view name) const {
        detail::HeaderEntry const* const entry = find(name);
        if (!entry) throw store_error(path_ + ": no tensor " + detail::in_quotes(name));
        index_t const offset = header_.data_offset + entry->begin;
        return {entry->dtype, entry->shape,
                bytes_.subspan(std::size_t(offset), std::size_t(entry->end - entry->begin)),
                offset};
    }
    /// The tensor that a model wants to find.
    /// @throws store_error naming the tensor, and of shapes or types both
    StoredTensor tensor(std::string_view name, Dtype dtype, std::span<index_t const> shape) const {
        auto const fail = [&](std::string const& what) {
            throw store_error(path_ + ": tensor " + detail::in_quotes(name) + ": " + what);
        };
        if (!contains(name)) fail("missing");
        StoredTensor const found = tensor(name);
        if (found.dtype != dtype)
            fail(std::string("dtype is ") + to_string(found.dtype) + ", this model has " +
                 to_string(dtype));
        if (!std::ranges::equal(found.shape, shape))
            fail("shape is " + detail::shape_text(found.shape) + ", this model has " +
                 detail::shape_text(shape));
        return found;
    }

    /// The file's own elements, without a copy.
    /// @throws store_error for another dtype, where the file does not align them for T, and for a
    ///         bool that is none
    template <Storable T>
    VectorView<T const, HostSpace> view(std::string_view name) const {
        StoredTensor const t = tensor(name);
        if (t.dtype != dtype_of<T>) mismatch(name, t.dtype, to_string(dtype_of<T>));
        if (reinterpret_cast<std::uintptr_t>(t.bytes.data()) % alignof(T) != 0)
            throw store_error(path_ + ": tensor " + detail::in_quotes(name) +
                              ": not aligned for its type; copy it with values()");
        if constexpr (std::same_as<T, bool>)
            for (std::byte const x : t.bytes)
                if (x > std::byte{1})
                    throw store_error(path_ + ": tensor " + detail::in_quotes(name) +
                                      ": a bool that is neither 0 nor 1");
        return {reinterpret_cast<T const*>(t.bytes.data()), t.elements()};
    }

    /// A copy, converted: floating types among one another (rounded to nearest, by way of float
    /// for the 16-bit ones), whole numbers among one another where every value fits.
    /// @throws store_error for another conversion, and for a value that does not fit
    template <Storable T>
        requires(!std::same_as<T, bool>)
    std::vector<T> values(std::string_view name)
    const {
        index_t const n = tensor(name).elements();
        return values<T>(name, {0, 1, n, n, 1});
    }
    /// Some of a tensor's, row after row. @pre they lie within the tensor @throws as above
    template <Storable T>
        requires(!std::same_as<T, bool>)
    std::vector<T> values(std::string_view name, ElementRows const& elements)
    const {
        StoredTensor const t = tensor(name);
        if (!converts<T>(t.dtype)) mismatch(name, t.dtype, to_string(dtype_of<T>));
        std::vector<T> to(std::size_t(elements.rows * elements.cols));
        switch (t.dtype) {
        case Dtype::F64:
            convert<double>(name, t, elements, to);
            break;
        case Dtype::F32:
            convert<float>(name, t, elements, to);
            break;
        case Dtype::F16:
            convert<f16>(name, t, elements, to);
            break;
        case Dtype::BF16:
            convert<bf16>(name, t, elements, to);
            break;
        case Dtype::I64:
            convert<std::int64_t>(name, t, elements, to);
            break;
        case Dtype::I32:
            convert<std::int32_t>(name, t, elements, to);
            break;
        case Dtype::I16:
            convert<std::int16_t>(name, t, elements, to);
            break;
        case Dtype::I8:
            convert<std::int8_t>(name, t, elements, to);
            break;
        case Dtype::U8:
        case Dtype::BOOL:
            convert<std::uint8_t>(name, t, elements, to);
            break;
        case Dtype::U64:
            convert<std::uint64_t>(name, t, elements, to);
            break;
        case Dtype::U32:
            convert<std::uint32_t>(name, t, elements, to);
            break;
        case Dtype::U16:
            convert<std::uint16_t>(name, t, elements, to);
            break;
        default:
            break;
        }
        return to;
    }

private:
    detail::HeaderEntry const* find(std::string_view name) const {
        auto const& entries = header_.entries;
        auto const it = std::lower_bound(
            entries.begin(), entries.end(), name,
            [](detail::HeaderEntry const& e, std::string_view n) { return e.name < n; });
        return it != entries.end() && it->name == name ? &*it : nullptr;
    }

    template <class From, class T>
    void convert(std::string_view name, StoredTensor const& t, ElementRows const& e,
                 std::vector<T>& to) const {
        if constexpr (Element<From> == Element<T>) {
            // Where columns are rows of the file, some at a time share its lines.
            index_t const height = e.column_step == 1 ? 1 : 32;
            for (index_t first = 0; first < e.rows; first += height)
                for (index_t c = 0; c < e.cols; ++c)
                    for (index_t r = first; r < std::min(first + height, e.rows); ++r)
                        to[std::size_t(r * e.cols + c)] = converted<From, T>(
                            name, t, e.first + r * e.row_step + c * e.column_step);
        }
    }
    template <class From, class T>
    T converted(std::string_view name, StoredTensor const& t, index_t i) const {
        From from;
        std::memcpy(&from, t.bytes.data() + i * index_t(sizeof(From)), sizeof(From));
        if constexpr (std::same_as<From, T>) {
            return from;
        } else if constexpr (!Element<T>) {
            if (!std::in_range<T>(from))
                throw store_error(path_ + ": tensor " + detail::in_quotes(name) + ": element " +
                                  std::to_string(i) + " is " + std::to_string(from) +
                                  ", too large for " + to_string(dtype_of<T>));
            return T(from); // NOLINT(bugprone-signed-char-misuse): a number, no letter
        } else if constexpr (sizeof(T) == 2) {
            return T(float(from));
        } else {
            return T(from);
        }
    }

    [[noreturn]] void mismatch(std::string_view name, Dtype found, char const* asked) const {
        throw store_error(path_ + ": tensor " + detail::in_quotes(name) + ": dtype is " +
                          to_string(found) + ", " + asked + " was asked for");
    }

    std::string path_;
    io::MappedFile file_;
    std::span<std::byte const> bytes_;
    detail::Header header_;
};

} // namespace semoe::checkpoint
