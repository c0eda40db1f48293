#pragma once

#include "semoe/checkpoint/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/message.hpp"
#include "semoe/core/types.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace semoe::checkpoint::detail {

static_assert(std::endian::native == std::endian::little, "semoe: tensor files are little-endian");

inline constexpr index_t header_limit_bytes = 100'000'000;

/// A name for an error's text: cut and cleaned, since a hostile file chooses its names.
inline std::string in_quotes(std::string_view name) {
    constexpr std::size_t longest = 120;
    std::string text = "'";
    for (char const c : name.substr(0, longest))
        text += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    return text + (name.size() > longest ? "...'" : "'");
}

/// The text as a JSON string. @throws precondition_error when it is not UTF-8
inline std::string json_string(std::string const& text) {
    try {
        return nlohmann::json(text).dump();
    } catch (nlohmann::json::exception const&) {
        throw precondition_error("safetensors: " + in_quotes(text) + " is not UTF-8");
    }
}

/// "[2,3]"; for an error's text only the first `limit` dimensions.
inline std::string shape_text(std::span<index_t const> shape, std::size_t limit = 16) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size() && i < limit; ++i)
        text += message("{}{}", i ? "," : "", shape[i]);
    return text + (shape.size() > limit ? ",...]" : "]");
}

/// Elements of a shape, or nothing where the count, or its bytes, pass 2^63 - 1. A zero somewhere
/// does not excuse the other dimensions: strides are made of them.
inline std::optional<index_t> count_elements(std::span<index_t const> shape,
                                             index_t element_bytes) {
    index_t product = 1, bytes = 0;
    bool empty = false;
    for (index_t const n : shape) {
        empty |= n == 0;
        if (n < 0 || __builtin_mul_overflow(product, n == 0 ? 1 : n, &product)) return std::nullopt;
    }
    if (__builtin_mul_overflow(product, element_bytes, &bytes)) return std::nullopt;
    return empty ? 0 : product;
}

struct HeaderEntry {
    std::string name;
    Dtype dtype = Dtype::U8;
    std::vector<index_t> shape;
    index_t begin = 0, end = 0; // bytes from the start of the data
};

struct Header {
    std::vector<HeaderEntry> entries; // by name
    std::map<std::string, std::string> metadata;
    index_t data_offset = 0; // bytes from the start of the file
};

/// Reads the header's JSON as events, so that nothing is built which a tensor list does not have:
/// memory stays proportional to the header, nesting is refused at its first bracket, and repeated
/// keys are seen.
class HeaderEvents {
public:
    using Json = nlohmann::json;

    HeaderEvents(std::string const& file, Header& header)
      : file_(file)
      , header_(header) {}

    bool null() { return unexpected("null"); }
    bool boolean(bool) { return unexpected("a boolean"); }
    bool number_integer(Json::number_integer_t value) { return unexpected(std::to_string(value)); }
    bool number_float(Json::number_float_t, Json::string_t const& text) {
        return unexpected(text.substr(0, 40));
    }
    bool binary(Json::binary_t&) { return unexpected("bytes"); }

    bool number_unsigned(Json::number_unsigned_t value) {
        if (place_ == Place::tensor || place_ == Place::root || place_ == Place::metadata)
            return unexpected(std::to_string(value));
        if (place_ != Place::shape && place_ != Place::offsets) return unexpected("a number");
        if (value > Json::number_unsigned_t(std::numeric_limits<index_t>::max()))
            fail(std::to_string(value) + " is too large");
        if (place_ == Place::shape) {
            entry_.shape.push_back(index_t(value));
        } else {
            if (offsets_seen_ == 2) fail("more than two numbers");
            (offsets_seen_++ == 0 ? entry_.begin : entry_.end) = index_t(value);
        }
        return true;
    }

    bool string(Json::string_t& value) {
        if (place_ == Place::metadata) {
            if (!header_.metadata.emplace(field_, std::move(value)).second) fail("repeated");
            return true;
        }
        if (place_ != Place::tensor || field_ != "dtype") return unexpected("a string");
        auto const dtype = dtype_named(value);
        if (!dtype) {
            std::string known;
            for (DtypeRow const& row : dtypes) known += std::string(" ") + row.name;
            fail(in_quotes(value) + " is not one of" + known);
        }
        entry_.dtype = *dtype;
        return true;
    }

    bool start_object(std::size_t) {
        switch (place_) {
        case Place::before:
            place_ = Place::root;
            return true;
        case Place::root:
            if (entry_.name == "__metadata__") {
                if (std::exchange(metadata_seen_, true)) fail("repeated");
                place_ = Place::metadata;
            } else {
                place_ = Place::tensor;
            }
            return true;
        default:
            return unexpected("an object");
        }
    }

    bool key(Json::string_t& name) {
        if (place_ == Place::root) {
            entry_ = {};
            entry_.name = std::move(name);
            dtype_seen_ = shape_seen_ = offsets_list_seen_ = false;
            field_.clear();
        } else if (place_ == Place::metadata) {
            field_ = std::move(name);
        } else {
            field_ = std::move(name);
            bool* const seen = field_ == "dtype"          ? &dtype_seen_
                               : field_ == "shape"        ? &shape_seen_
                               : field_ == "data_offsets" ? &offsets_list_seen_
                                                          : nullptr;
            if (!seen) fail("unknown field; a tensor has dtype, shape and data_offsets");
            if (std::exchange(*seen, true)) fail("repeated");
        }
        return true;
    }

    bool end_object() {
        if (place_ == Place::tensor) {
            field_.clear();
            if (!dtype_seen_) fail("dtype is missing");
            if (!shape_seen_) fail("shape is missing");
            if (!offsets_list_seen_) fail("data_offsets is missing");
            header_.entries.push_back(std::move(entry_));
        }
        field_.clear();
        entry_.name.clear();
        place_ = place_ == Place::root ? Place::after : Place::root;
        return true;
    }

    bool start_array(std::size_t) {
        if (place_ != Place::tensor || field_ == "dtype") return unexpected("an array");
        place_ = field_ == "shape" ? Place::shape : Place::offsets;
        offsets_seen_ = 0;
        return true;
    }

    bool end_array() {
        if (place_ == Place::offsets && offsets_seen_ != 2) fail("two numbers were expected");
        place_ = Place::tensor;
        return true;
    }

    bool parse_error(std::size_t position, std::string const&, nlohmann::json::exception const& e) {
        // The parser quotes what it last read, which may be the whole header.
        std::string text = e.what();
        if (text.size() > 300) text = text.substr(0, 300) + "...";
        throw store_error(file_ + ": header: not JSON at byte " + std::to_string(position) + ": " +
                          text);
    }

private:
    enum class Place { before, root, metadata, tensor, shape, offsets, after };

    bool unexpected(std::string const& found) const {
        switch (place_) {
        case Place::before:
        case Place::after:
        case Place::root:
            fail("an object was expected, found " + found);
        case Place::metadata:
            fail("a string was expected, found " + found);
        case Place::tensor:
            fail((field_ == "dtype" ? "a string was expected, found "
                                    : "an array was expected, found ") +
                 found);
        case Place::shape:
        case Place::offsets:
            break;
        }
        fail("a whole number from 0 on was expected, found " + found);
    }

    [[noreturn]] void fail(std::string const& what) const {
        std::string where = "header";
        if (place_ == Place::metadata || entry_.name == "__metadata__")
            where = "__metadata__";
        else if (place_ != Place::before && place_ != Place::after)
            where = "tensor " + in_quotes(entry_.name);
        if (!field_.empty()) where += ": " + field_text();
        throw store_error(file_ + ": " + where + ": " + what);
    }
    std::string field_text() const {
        bool const known = field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
        return known && place_ != Place::metadata ? field_ : in_quotes(field_);
    }

    std::string const& file_;
    Header& header_;
    Place place_ = Place::before;
    HeaderEntry entry_;
    std::string field_;
    int offsets_seen_ = 0;
    bool metadata_seen_ = false, dtype_seen_ = false, shape_seen_ = false,
         offsets_list_seen_ = false;
};

/// Whether bytes that no tensor describes may lie between tensors or after the last.
enum class Gaps { refuse, allow };

/// The JSON text after the length word, checked against nothing but itself.
inline void parse_header_text(std::string const& file, std::string_view text, Header& header) {
    if (text.empty() || text.front() != '{')
        throw store_error(file + ": header: does not begin with '{'");
    if (text.find('\0') != std::string_view::npos)
        throw store_error(file + ": header: holds a zero byte");
    HeaderEvents events{file, header};
    nlohmann::json::sax_parse(text.begin(), text.end(), &events);
    std::sort(header.entries.begin(), header.entries.end(),
              [](HeaderEntry const& a, HeaderEntry const& b) { return a.name < b.name; });
}

/// What the entries say against one another and against the file's bytes of data.
inline void check_entries(std::string const& file, Header const& header, index_t data_bytes,
                          Gaps gaps) {
    auto const fail = [&](HeaderEntry const& entry, std::string const& what) {
        throw store_error(file + ": tensor " + in_quotes(entry.name) + ": " + what);
    };
    auto const range = [](HeaderEntry const& e) {
        return "data_offsets [" + std::to_string(e.begin) + "," + std::to_string(e.end) + "]";
    };
    std::vector<HeaderEntry const*> by_offset;
    by_offset.reserve(header.entries.size());
    for (HeaderEntry const& entry : header.entries) {
        if (!by_offset.empty() && by_offset.back()->name == entry.name) fail(entry, "repeated");
        by_offset.push_back(&entry);
        if (entry.begin > entry.end) fail(entry, range(entry) + " end before they begin");
        if (entry.end > data_bytes)
            fail(entry, range(entry) + " pass the end of the file, which has " +
                            std::to_string(data_bytes) + " bytes of data");
        auto const elements = count_elements(entry.shape, size_bytes(entry.dtype));
        if (!elements) fail(entry, "shape " + shape_text(entry.shape) + " is too large");
        auto const bytes = bytes_of(entry.dtype, *elements);
        if (!bytes)
            fail(entry, "shape " + shape_text(entry.shape) + " of " + to_string(entry.dtype) +
                            " ends within a byte");
        if (entry.end - entry.begin != *bytes)
            fail(entry, range(entry) + " hold " + std::to_string(entry.end - entry.begin) +
                            " bytes, shape " + shape_text(entry.shape) + " of " +
                            to_string(entry.dtype) + " has " + std::to_string(*bytes));
    }
    std::sort(by_offset.begin(), by_offset.end(), [](auto const* a, auto const* b) {
        return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    index_t used = 0;
    HeaderEntry const* previous = nullptr;
    for (HeaderEntry const* entry : by_offset) {
        if (entry->begin < used)
            fail(*entry, range(*entry) + " overlap tensor " + in_quotes(previous->name) + ", " +
                             range(*previous));
        if (entry->begin > used && gaps == Gaps::refuse)
            fail(*entry, range(*entry) + " leave a hole from byte " + std::to_string(used) + " on");
        used = entry->end;
        previous = entry;
    }
    if (used != data_bytes && gaps == Gaps::refuse)
        throw store_error(file + ": data: " + std::to_string(data_bytes) +
                          " bytes, but data_offsets end at " + std::to_string(used));
}

/// @param bytes the whole file
/// @throws store_error naming the file and the field
/// @post every entry lies in the file and is exactly as long as its shape says
inline Header parse_header(std::string const& file, std::span<std::byte const> bytes, Gaps gaps) {
    constexpr index_t length_bytes = 8;
    auto const size = index_t(bytes.size());
    if (size < length_bytes)
        throw store_error(file + ": header length: the file has " + std::to_string(size) +
                          " bytes, the length alone takes 8");
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), length_bytes);
    bool const is_text = bytes[0] == std::byte{'{'};
    if (length > std::uint64_t(header_limit_bytes))
        throw store_error(file + ": header length: " + std::to_string(length) +
                          " is over the limit of " + std::to_string(header_limit_bytes) +
                          (is_text ? "; the file is text: where it is the index of a model in "
                                     "several files, give those"
                                   : ""));
    if (index_t(length) > size - length_bytes)
        throw store_error(file + ": header length: " + std::to_string(length) + ", but only " +
                          std::to_string(size - length_bytes) + " bytes follow");
    Header header;
    header.data_offset = length_bytes + index_t(length);
    parse_header_text(
        file, {reinterpret_cast<char const*>(bytes.data()) + length_bytes, std::size_t(length)},
        header);
    check_entries(file, header, size - header.data_offset, gaps);
    return header;
}

} // namespace semoe::checkpoint::detail
