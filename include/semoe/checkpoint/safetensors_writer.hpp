#pragma once

#include "semoe/checkpoint/detail/safetensors_header.hpp"
#include "semoe/checkpoint/dtype.hpp"
#include "semoe/core/error.hpp"
#include "semoe/io/atomic_file.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace semoe::checkpoint {

/// Writes one safetensors file, never holding more of it than the caller's chunk. All tensors are
/// declared first, so the header is known; then their bytes come, tensors in any order and each
/// from its start to its end. The file appears at commit(), whole, or not at all.
class SafetensorsWriter {
public:
    /// @throws store_error when the directory is missing or takes no files
    explicit SafetensorsWriter(std::string path, io::FileSystem& system = io::default_file_system())
      : file_(std::move(path), system) {}

    /// Adds to the header's `__metadata__`. @pre before the first write; UTF-8
    void metadata(std::string const& key, std::string const& value) {
        expects_open(key);
        metadata_[detail::json_string(key)] = detail::json_string(value);
    }

    /// @throws precondition_error when the name is taken, reserved or not UTF-8, the shape is
    ///         negative, ends within a byte or passes 2^63 bytes, or the whole file does
    void declare(std::string const& name, Dtype dtype, std::span<index_t const> shape) {
        expects_open(name);
        auto const elements = detail::count_elements(shape, size_bytes(dtype));
        expects(elements.has_value(), [&] {
            return describe(name) + "shape " + detail::shape_text(shape) +
                   " is negative or too large";
        });
        expects(name != "__metadata__", [&] { return describe(name) + "the name is reserved"; });
        Slot slot;
        slot.json = entry(name, dtype, shape);
        slot.element_bytes = size_bytes(dtype);
        auto const whole = bytes_of(dtype, *elements);
        expects(whole.has_value(), [&] {
            return describe(name) + "shape " + detail::shape_text(shape) + " of " +
                   to_string(dtype) + " ends within a byte";
        });
        index_t const size = slot.size = *whole;
        expects(size <= most_bytes - bytes_,
                [&] { return describe(name) + "with it the file would pass 2^63 bytes"; });
        bool const inserted = slots_.emplace(name, std::move(slot)).second;
        expects(inserted, [&] { return describe(name) + "declared twice"; });
        bytes_ += size;
    }

    /// @throws precondition_error for a tensor that was not declared so
    void expect_declared(std::string const& name, Dtype dtype,
                         std::span<index_t const> shape) const {
        auto const it = slots_.find(name);
        expects(it != slots_.end(), [&] { return describe(name) + "not declared"; });
        expects(it->second.json == entry(name, dtype, shape), [&] {
            return describe(name) + "declared otherwise than as " + to_string(dtype) + " " +
                   detail::shape_text(shape);
        });
    }

    /// The next bytes of a declared tensor. The first call of all writes the header.
    /// @throws precondition_error for an unknown name or more bytes than the shape has
    /// @throws store_error, after which the same call may be made again
    void write(std::string const& name, std::span<std::byte const> bytes) {
        begin();
        auto const it = slots_.find(name);
        expects(it != slots_.end(), [&] { return describe(name) + "not declared"; });
        Slot& slot = it->second;
        expects(index_t(bytes.size()) <= slot.size - slot.written, [&] {
            return describe(name) + std::to_string(bytes.size()) + " bytes after " +
                   std::to_string(slot.written) + ", its shape has " + std::to_string(slot.size);
        });
        file_.write_at(bytes, slot.offset + slot.written);
        slot.written += index_t(bytes.size());
    }

    /// The last bytes of a tensor count as not written: the next write brings others in their
    /// place.
    /// @throws precondition_error for an unknown name or more bytes than were written
    void take_back(std::string const& name, index_t bytes) {
        auto const it = slots_.find(name);
        expects(it != slots_.end(), [&] { return describe(name) + "not declared"; });
        Slot& slot = it->second;
        expects(bytes >= 0 && bytes <= slot.written, [&] {
            return describe(name) + "takes back " + std::to_string(bytes) + " of " +
                   std::to_string(slot.written) + " bytes";
        });
        slot.written -= bytes;
    }

    /// On return the file is in its place, on the device. Call it once, last.
    /// @throws precondition_error naming a tensor whose bytes did not all come; store_error, as
    ///         io::AtomicFile::commit
    void commit() {
        begin();
        for (auto const& entry : slots_) {
            Slot const& slot = entry.second;
            expects(slot.written == slot.size, [&] {
                return describe(entry.first) + std::to_string(slot.written) + " of " +
                       std::to_string(slot.size) + " bytes were written";
            });
        }
        file_.commit();
    }

    std::string const& path() const { return file_.path(); }

private:
    /// What all tensors have room for beside the largest header.
    static constexpr index_t most_bytes =
        std::numeric_limits<index_t>::max() - detail::header_limit_bytes - 8;

    struct Slot {
        std::string json; // entry()
        index_t element_bytes = 0, size = 0;
        index_t offset = 0; // from the start of the file
        index_t written = 0;
    };

    /// Lays the data out, widest elements first, so that every tensor is aligned for its type
    /// when the file is mapped; then writes the header, padded with spaces to 8 bytes.
    void begin() {
        if (begun_) return;
        std::vector<Slot*> order;
        for (auto& [name, slot] : slots_) order.push_back(&slot);
        std::stable_sort(order.begin(), order.end(), [](Slot const* a, Slot const* b) {
            return a->element_bytes > b->element_bytes;
        });
        std::string text = "{";
        for (auto const& [key, value] : metadata_)
            text += (text.size() == 1 ? "\"__metadata__\":{" : ",") + key + ":" + value;
        if (!metadata_.empty()) text += order.empty() ? "}" : "},";
        index_t end = 0;
        for (Slot* const slot : order) {
            index_t const first = std::exchange(end, end + slot->size);
            text += slot->json + ",\"data_offsets\":[" + std::to_string(first) + "," +
                    std::to_string(end) + "]}" + (slot == order.back() ? "" : ",");
        }
        text += "}";
        text.resize((text.size() + 7) / 8 * 8, ' ');
        expects(index_t(text.size()) <= detail::header_limit_bytes, [&] {
            return path() + ": a header of " + std::to_string(text.size()) +
                   " bytes is over the limit of " + std::to_string(detail::header_limit_bytes);
        });
        std::uint64_t const length = text.size();
        char word[sizeof length];
        std::memcpy(word, &length, sizeof length);
        text.insert(0, word, sizeof word);
        file_.write_at(std::as_bytes(std::span(text)), 0);
        index_t position = index_t(text.size());
        for (Slot* const slot : order) {
            slot->offset = position;
            position += slot->size;
        }
        begun_ = true; // only now, so that a write of the header that fails is made again
    }

    /// The header's entry up to its offsets.
    static std::string entry(std::string const& name, Dtype dtype, std::span<index_t const> shape) {
        return detail::json_string(name) + ":{\"dtype\":\"" + to_string(dtype) +
               "\",\"shape\":" + detail::shape_text(shape, shape.size());
    }
    std::string describe(std::string const& name) const {
        return path() + ": tensor " + detail::in_quotes(name) + ": ";
    }
    void expects_open(std::string const& name) const {
        expects(!begun_, [&] { return describe(name) + "declared after the first write"; });
    }

    io::AtomicFile file_;
    std::map<std::string, std::string> metadata_; // as JSON
    std::map<std::string, Slot> slots_;
    index_t bytes_ = 0; // of all tensors
    bool begun_ = false;
};

} // namespace semoe::checkpoint
